"""What the nearest is worth."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from ofa.search.predictors.features import Features, checked
from ofa.space import Population


class Nearest:
    """The value of the architecture that differs in the fewest features."""

    def __init__(self, features: Features) -> None:
        self._features = features

    def fit(self, population: Population, values: npt.NDArray[np.float64]) -> Self:
        self._values, self._known = checked(population, values), self._features(population)
        return self

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        distances = np.abs(self._features(population)[:, None] - self._known).sum(axis=2)
        return self._values[distances.argmin(axis=1)]
