"""This machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa.hardware.fingerprint import fingerprint
from ofa.hardware.journal import Journal
from ofa.hardware.runner import time_on_device
from ofa.hardware.runtimes import Model
from ofa.hardware.timing import Block, TimingResult
from ofa.hardware.transports.host import Host

if TYPE_CHECKING:
    from ofa.hardware.device import Device


@dataclass(frozen=True)
class Local(Host):
    """Measured within this process."""

    def fingerprint(self, device: Device) -> dict[str, Any]:
        return fingerprint(device)

    def time(
        self,
        models: Mapping[str, Model],
        device: Device,
        *,
        anchor: Model,
        rng: np.random.Generator,
        rounds: int,
        block_seconds: float,
        journal: Journal | None = None,
        on_block: Callable[[Block], None] | None = None,
    ) -> TimingResult:
        def keep(block: Block) -> None:
            if journal is not None:
                journal.append(block)
            if on_block is not None:
                on_block(block)

        return time_on_device(
            models,
            device,
            anchor=anchor,
            rng=rng,
            rounds=rounds,
            block_seconds=block_seconds,
            done=[] if journal is None else list(journal.blocks),
            on_block=keep,
        )
