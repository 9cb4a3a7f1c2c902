"""Predictors of what is dear to evaluate: accuracy. A new one is one file and one line in :data:`PREDICTORS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from ofa.errors import UsageError, unknown_name_message
from ofa.search.predictors.ensemble import Ensemble
from ofa.search.predictors.features import Features
from ofa.search.predictors.gaussian_process import GaussianProcess
from ofa.search.predictors.prior import Prior as Prior
from ofa.search.predictors.ridge import RidgePredictor
from ofa.search.predictors.scikit import gradient_boosting, mlp, support_vectors
from ofa.space import Population


class Predictor(Protocol):
    """Learns one value per architecture from those that were evaluated."""

    def fit(self, population: Population, values: npt.NDArray[np.float64]) -> Self:
        """Learn from ``(N, D)`` architectures and their ``(N,)`` values.

        Raises:
            ValueError: See :func:`ofa.search.predictors.features.checked`.
        """

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        """Values of ``(N, D)`` architectures, shape ``(N,)``; :class:`ValueError` before :meth:`fit`."""


MakePredictor = Callable[[Features], Predictor]

PREDICTORS: dict[str, MakePredictor] = {
    "ridge": RidgePredictor,
    "support_vectors": support_vectors,
    "gaussian_process": GaussianProcess,
    "gradient_boosting": gradient_boosting,
    "mlp": mlp,
    "ensemble": lambda features: Ensemble(
        [RidgePredictor(features), support_vectors(features), GaussianProcess(features), gradient_boosting(features)]
    ),
}
AUTO = ("ridge", "gaussian_process", "gradient_boosting")
"""Those that ``auto`` chooses from: the others have not been better, or are slower."""
NUM_FOLDS = 5


@dataclass(frozen=True)
class Chosen:
    """A predictor that has learnt, and why it was taken.

    Args:
        kendall_tau: Cross-validated, of each predictor that was tried; ``None`` where it is undefined.
    """

    name: str
    predictor: Predictor
    kendall_tau: Mapping[str, float | None]


def choose(
    name: str,
    features: Features,
    population: Population,
    values: npt.NDArray[np.float64],
    *,
    rng: np.random.Generator,
) -> Chosen:
    """Fit the predictor with the best cross-validated Kendall tau.

    Args:
        name: Of the only one, or ``auto`` for :data:`AUTO`.
        population: Shape ``(N, D)``.
        values: Shape ``(N,)``.

    Raises:
        ValueError: If a name is unknown.
    """
    check_predictor(name)
    folds_seed = int(rng.integers(2**31))
    tau = {
        tried: held_out_kendall_tau(
            PREDICTORS[tried], features, population, values, rng=np.random.default_rng(folds_seed)
        )
        for tried in (AUTO if name == "auto" else (name,))
    }
    best = max(tau, key=lambda tried: -1.0 if (value := tau[tried]) is None else value)
    return Chosen(best, PREDICTORS[best](features).fit(population, values), tau)


def check_predictor(name: str) -> None:
    """:class:`ValueError` if there is no such predictor."""
    if name not in (*PREDICTORS, "auto"):
        raise UsageError(unknown_name_message("predictor", name, [*PREDICTORS, "auto"]))


def held_out_kendall_tau(
    make: MakePredictor,
    features: Features,
    population: Population,
    values: npt.NDArray[np.float64],
    *,
    rng: np.random.Generator,
) -> float | None:
    """Rank correlation (tau-b) of cross-validated predictions with the truth: each is made by a fit without it.

    Returns:
        ``None`` where it is undefined: fewer than two architectures in a fold's fit, or all values equal.
    """
    from scipy.stats import kendalltau  # here, as loading it takes longer than answering from a cache

    num = len(population)
    if num < 4 or np.ptp(values) == 0:
        return None
    predicted = np.empty(num)
    for held_out in np.array_split(rng.permutation(num), min(NUM_FOLDS, num)):
        fitted = np.setdiff1d(np.arange(num), held_out)
        predicted[held_out] = make(features).fit(population[fitted], values[fitted]).predict(population[held_out])
    tau = float(kendalltau(predicted, values).statistic)
    return tau if np.isfinite(tau) else None
