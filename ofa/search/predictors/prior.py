"""What others' predictors say of the same space, brought to the scale of what was evaluated here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import numpy.typing as npt

from ofa.search.predictors.features import checked
from ofa.space import Population


class Prior:
    """``offset + slope * prior``, fitted by least squares; the order is the prior's, whatever was evaluated.

    Args:
        prior: Values of ``(N, D)`` architectures, shape ``(N,)``, on a scale of its own.
    """

    def __init__(self, prior: Callable[[Population], npt.NDArray[np.float64]]) -> None:
        self._prior = prior
        self._slope, self._offset = 1.0, 0.0

    def fit(self, population: Population, values: npt.NDArray[np.float64]) -> Self:
        targets, stated = checked(population, values), self._prior(population)
        spread = float(stated.var())
        slope = float(np.mean((stated - stated.mean()) * (targets - targets.mean())) / spread) if spread else 0.0
        self._slope = slope if slope > 0 else 1.0  # too few or too noisy to tell
        self._offset = float(targets.mean() - self._slope * stated.mean())
        return self

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        return self._offset + self._slope * self._prior(population)
