"""What predictors see of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

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
        noise: Of architectures that were evaluated: how far their values may be from the truth by chance of their own,
            as a variance; nothing is known without it.
    """

    space: SearchSpace
    statistics: Sequence[Callable[[Population], npt.NDArray[np.float64]]] = ()
    noise: Callable[[Population], npt.NDArray[np.float64]] | None = None

    def __call__(self, population: Population) -> npt.NDArray[np.float64]:
        """Shape ``(N, F)``."""
        encoded = self.space.encode(population).astype(np.float64)
        return np.column_stack([encoded, self.logarithms(population)]) if self.statistics else encoded

    def variances(self, population: Population) -> npt.NDArray[np.float64]:
        """The noise of architectures that were evaluated, shape ``(N,)``; 0 where nothing is known."""
        return np.zeros(len(population)) if self.noise is None else self.noise(population)

    def logarithms(self, population: Population) -> npt.NDArray[np.float64]:
        """Of the statistics, shape ``(N, S)``."""
        columns = [np.log(np.maximum(statistic(population), 1e-12)) for statistic in self.statistics]
        return np.column_stack(columns) if columns else np.empty((len(population), 0))

    def places(self, population: Population) -> npt.NDArray[np.float64]:
        """Points whose distances tell how different architectures are, shape ``(N, C)``.

        An ordered dim is one number: how far along its values, from above 0 to 1. A categorical one is a column per
        category, so that any two are 1 apart. Both are 0 where inactive.
        """
        fractions = np.where(self.space.active(population), (population + 1) / self.space.num_values, 0.0)
        encoded = self.space.encode(population) / np.sqrt(2)
        parts = np.split(encoded, np.cumsum(self.space.num_values)[:-1], axis=1)
        return np.column_stack(
            [
                fractions[:, column] if is_ordered else part
                for column, (is_ordered, part) in enumerate(zip(self.space.is_ordered, parts, strict=True))
            ]
        )

    @cached_property
    def dim_of_place(self) -> npt.NDArray[np.intp]:
        """The dim that each column of :meth:`places` is of, and further ones for the statistics, ``(C + S,)``."""
        widths = np.where(self.space.is_ordered, 1, self.space.num_values)
        numbers = np.repeat(np.arange(len(widths)), widths)
        return np.concatenate([numbers, len(widths) + np.arange(len(self.statistics))])


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
