"""What local search goes by: that an architecture is worth about as much as its neighbours."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from ofa.search.predictors.features import NOT_FITTED, Features, checked
from ofa.space import Population


class Nearest:
    """The value of the nearest architecture that is known, the mean of those that are equally near."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self._values: npt.NDArray[np.float64] | None = None

    def fit(self, population: Population, values: npt.NDArray[np.float64]) -> Self:
        self._values, self._places = checked(population, values), self.features.places(population)
        return self

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        if self._values is None:
            raise ValueError(NOT_FITTED)
        places = self.features.places(population)
        squares = np.sum(places**2, axis=1)[:, None] + np.sum(self._places**2, axis=1) - 2 * places @ self._places.T
        is_nearest = squares <= squares.min(axis=1, keepdims=True) + 1e-9
        return np.asarray(is_nearest @ self._values / is_nearest.sum(axis=1))
