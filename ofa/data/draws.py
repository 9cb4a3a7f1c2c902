"""Random numbers for a batch of training images, of which one process may hold but a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers for a batch of ``num`` images, of which this process holds the rows ``rank::num_shards``.

    Numbers are drawn for the whole batch and kept for the rows held, so a row meets the same ones in every sharding.

    Args:
        rng: Advanced alike in every shard; what is drawn from it directly holds for the whole batch.
        shard: ``(rank, num_shards)``.
    """

    rng: np.random.Generator
    num: int
    shard: tuple[int, int] = (0, 1)

    def integers(self, low: int, high: int, *shape: int) -> npt.NDArray[np.int64]:
        """From ``low`` to ``high``, both included; ``(n, *shape)``."""
        return self._own(self.rng.integers(low, high, size=(self.num, *shape), endpoint=True))

    def uniform(self, *shape: int) -> Floats:
        """From 0 to below 1; ``(n, *shape)``."""
        return self._own(self.rng.random((self.num, *shape)))

    def _own(self, drawn: npt.NDArray[np.generic]) -> npt.NDArray:
        rank, num_shards = self.shard
        return drawn[rank::num_shards]
