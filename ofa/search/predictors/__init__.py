"""Accuracy predictors. A new one is one file and one line in :data:`PREDICTORS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from ofa.search.predictors.ridge import RidgePredictor
from ofa.space import Population, SearchSpace


class Predictor(Protocol):
    """Learns accuracy from evaluated architectures."""

    def fit(self, population: Population, top1_percent: npt.NDArray[np.float64]) -> Self:
        """Learn from ``(N, D)`` architectures and their ``(N,)`` accuracies."""
        ...

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        """Accuracies of ``(N, D)`` architectures, shape ``(N,)``."""
        ...


PREDICTORS: dict[str, Callable[[SearchSpace], Predictor]] = {
    "ridge": RidgePredictor,
}


def held_out_kendall_tau(
    make: Callable[[SearchSpace], Predictor],
    space: SearchSpace,
    population: Population,
    top1_percent: npt.NDArray[np.float64],
    *,
    rng: np.random.Generator,
    num_folds: int = 5,
) -> float | None:
    """Rank correlation (tau-b) of cross-validated predictions with the truth: each is made by a fit without it.

    Returns:
        ``None`` where it is undefined: fewer than two architectures in a fold's fit, or all equally accurate.
    """
    num = len(population)
    if num < 4 or np.ptp(top1_percent) == 0:
        return None
    predicted = np.empty(num)
    for held_out in np.array_split(rng.permutation(num), min(num_folds, num)):
        fitted = np.setdiff1d(np.arange(num), held_out)
        predicted[held_out] = make(space).fit(population[fitted], top1_percent[fitted]).predict(population[held_out])
    tau = float(kendalltau(predicted, top1_percent).statistic)
    return tau if np.isfinite(tau) else None
