"""Where devices are. A new transport is one file here and one line in :data:`HOSTS`."""

from __future__ import annotations

from ofa.config import registry
from ofa.hardware.transports.adb import Adb
from ofa.hardware.transports.host import Host, HostError, Local
from ofa.hardware.transports.qai_hub import QaiHub
from ofa.hardware.transports.slurm import Slurm
from ofa.hardware.transports.ssh import Ssh

__all__ = ["HOSTS", "Adb", "Host", "HostError", "Local", "QaiHub", "Slurm", "Ssh"]

HOSTS: dict[str, type[Host]] = registry(
    Host, {"local": Local, "ssh": Ssh, "adb": Adb, "slurm": Slurm, "qai-hub": QaiHub}
)
