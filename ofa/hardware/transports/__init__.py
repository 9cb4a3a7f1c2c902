"""Where devices are. A new transport is one file here and one line in :data:`HOSTS`."""

from __future__ import annotations

from ofa.hardware.transports.host import Host, HostError
from ofa.hardware.transports.local import Local

__all__ = ["HOSTS", "Host", "HostError", "Local"]

HOSTS: dict[str, type[Host]] = {"local": Local}
