"""A device that is not there: what it would take is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ofa.hardware.runner import Job
from ofa.hardware.timing import TimedBlock, TimingResult
from ofa.hardware.transports.host import Host
from ofa.setting import Setting


@dataclass(frozen=True)
class Assumed(Host):
    """Everything takes as long.

    Args:
        latency_ms: Of any model.
    """

    latency_ms: float = 1.0

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        return {"id": "assumed", "cpu": "none"}

    def time(self, job: Job) -> TimingResult:
        durations = (round(self.latency_ms * 1e6),) * 5
        blocks = [TimedBlock(name, number, durations) for name in job.models for number in range(job.num_blocks[name])]
        for block in blocks:
            job.on_block(block)
        return TimingResult(blocks=[*job.done, *blocks])
