"""This machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ofa.hardware.fingerprint import fingerprint
from ofa.hardware.runner import Job, time_on_device
from ofa.hardware.timing import TimedBlock, TimingResult
from ofa.hardware.transports.host import Host
from ofa.setting import Setting


@dataclass(frozen=True)
class Local(Host):
    """Measured within this process."""

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        return fingerprint(setting)

    def time(
        self, job: Job, *, done: Sequence[TimedBlock] = (), on_block: Callable[[TimedBlock], None] | None = None
    ) -> TimingResult:
        return time_on_device(job, done=done, on_block=on_block)
