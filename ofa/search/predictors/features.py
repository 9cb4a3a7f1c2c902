"""What predictors see of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ofa.space import Population, SearchSpace


@dataclass(frozen=True)
class Features:
    """The masked one-hot encoding, and the logarithms of some statistics beside it.

    Args:
        statistics: Positive numbers, shape ``(N,)``, of ``(N, D)`` architectures; free and informative: MACs,
            parameters, latencies (the idea of FBNetV3's pretraining on them, arXiv:2006.02049, sec. 3.2, without the
            pretraining: as inputs they need not be learnt at all).
    """

    space: SearchSpace
    statistics: Sequence[Callable[[Population], npt.NDArray[np.float64]]] = ()

    def __call__(self, population: Population) -> npt.NDArray[np.float64]:
        """Shape ``(N, F)``."""
        return self._with_statistics(self.space.encode(population).astype(np.float64), population)

    def ordinal(self, population: Population) -> npt.NDArray[np.float64]:
        """One number per dim instead: how far along its values, from above 0 to 1; 0 where inactive. ``(N, D + S)``."""
        numbers = np.where(self.space.active(population), (population + 1) / self.space.num_values, 0.0)
        return self._with_statistics(numbers, population)

    def _with_statistics(self, encoded: npt.NDArray[np.float64], population: Population) -> npt.NDArray[np.float64]:
        columns = [np.log(np.maximum(statistic(population), 1e-12)) for statistic in self.statistics]
        return np.column_stack([encoded, *columns]) if columns else encoded


def checked(population: Population, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The values that a predictor is to learn from.

    Raises:
        ValueError: If there are none, their number is not that of the architectures, or one is not finite.
    """
    targets = np.asarray(values, dtype=np.float64)
    if targets.shape != (len(population),) or not len(targets) or not np.isfinite(targets).all():
        raise ValueError(
            f"a predictor learns from at least one architecture with one finite value each, not from "
            f"{len(population)} architectures and values {targets}"
        )
    return targets


NOT_FITTED = "this predictor has not learnt anything yet; call fit first"
