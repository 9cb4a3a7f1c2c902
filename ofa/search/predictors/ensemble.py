"""Several predictors together: their mean, and by how much they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ofa.space import Population


class Ensemble:
    """The mean of several predictors.

    Args:
        members: Predictors that have not learnt yet.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = list(members)

    def fit(self, population: Population, values: npt.NDArray[np.float64]) -> Self:
        """Learn from ``(N, D)`` architectures and their ``(N,)`` values."""
        for member in self.members:
            member.fit(population, values)
        return self

    def _each(self, population: Population) -> npt.NDArray[np.float64]:
        return np.stack([member.predict(population) for member in self.members])

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        """Values of ``(N, D)`` architectures, shape ``(N,)``."""
        return np.asarray(self._each(population).mean(axis=0))

    def draw(self, population: Population, num_draws: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Random members' predictions, shape ``(num_draws, N)``."""
        return self._each(population)[rng.integers(len(self.members), size=num_draws)]
