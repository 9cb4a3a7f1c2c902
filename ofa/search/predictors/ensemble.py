"""Several predictors together."""

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
        self._members = members

    def fit(self, population: Population, values: npt.NDArray[np.float64]) -> Self:
        for member in self._members:
            member.fit(population, values)
        return self

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        return np.asarray(np.stack([member.predict(population) for member in self._members]).mean(axis=0))
