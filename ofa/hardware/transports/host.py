"""Where a device is: here, or where a transport reaches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa.config import Named
from ofa.hardware.journal import Journal
from ofa.hardware.runtimes import Model
from ofa.hardware.timing import Block, TimingResult

if TYPE_CHECKING:
    from ofa.hardware.device import Device


class HostError(OSError):
    """A machine cannot be reached, or does not answer as it should."""


class Host(Named):
    """A machine that measures; its fields are what a device's YAML says of it."""

    @classmethod
    def known(cls) -> Mapping[str, type[Named]]:
        from ofa.hardware.transports import HOSTS

        return HOSTS

    def fingerprint(self, device: Device) -> dict[str, Any]:
        """On what machine and with what software this device is measured.

        Raises:
            NotInstalledError: If the runtime is not there.
            HostError: If the machine cannot be reached.
        """
        raise NotImplementedError

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
        """Time models against each other, see :func:`~ofa.hardware.timing.time_models`.

        Args:
            models: Of the runtime's format; by name.
            anchor: A small model, always the same.
            journal: Blocks that it holds are not measured again; new ones are appended.
            on_block: Called with each new block.

        Raises:
            ModelError: If a model cannot be run there.
            NotInstalledError: If the runtime is not there.
            HostError: If the machine cannot be reached, after several tries.
        """
        raise NotImplementedError
