"""Predictors of what is dear to evaluate: accuracy. A new one is one file and one line in :data:`PREDICTORS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
AUTO = ("gaussian_process", "ridge", "gradient_boosting")
"""Those that ``auto`` chooses from: the others have not been better, or are slower."""
QUICK = ("gaussian_process", "ridge")
"""Those that ``auto`` chooses from while it searches, where it does so again and again."""
NUM_FOLDS = 5
LEAST_ERROR = 0.25  # of the mean square, whatever is said to be noise


@dataclass(frozen=True)
class Chosen:
    """A predictor that has learnt, and why it was taken.

    Args:
        kendall_tau: Cross-validated, of each predictor that was tried; ``None`` where it is undefined.
        error: Of its cross-validated predictions, root mean square, less the noise of what they are compared with.
    """

    name: str
    predictor: Predictor
    kendall_tau: Mapping[str, float | None]
    error: float = 0.0

    def believed(
        self, population: Population, values: npt.NDArray[np.float64], variances: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """What it learnt from, without noise of so much variance: values and predictions, each by how sure it is."""
        if isinstance(self.predictor, GaussianProcess):
            return self.predictor.believed()
        trust = variances / np.maximum(variances + self.error**2, 1e-300)
        return values + trust * (self.predictor.predict(population) - values)

    def draw(self, population: Population, num: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Values that it holds for possible, shape ``(num, N)``; of a predictor that does not say how sure it is, with
        the error of the cross-validated ones."""
        if isinstance(self.predictor, GaussianProcess):
            return self.predictor.draw(population, num, rng)
        return self.predictor.predict(population) + self.error * rng.standard_normal((num, len(population)))


def choose(
    name: str | Sequence[str],
    features: Features,
    population: Population,
    values: npt.NDArray[np.float64],
    *,
    rng: np.random.Generator,
) -> Chosen:
    """Fit the predictor with the best cross-validated Kendall tau.

    Args:
        name: Of the only one, names to choose from, or ``auto`` for :data:`AUTO`.
        population: Shape ``(N, D)``.
        values: Shape ``(N,)``.

    Raises:
        ValueError: If a name is unknown.
    """
    if isinstance(name, str):
        name = AUTO if name == "auto" else (name,)
    folds_seed = int(rng.integers(2**31))
    noise = features.variances(population).mean()
    fitted: dict[str, Predictor] = {}
    tau: dict[str, float | None] = {}
    error: dict[str, float] = {}
    for tried in name:
        check_predictor(tried)
        make, folds_rng = PREDICTORS[tried], np.random.default_rng(folds_seed)
        fitted[tried] = make(features).fit(population, values)
        predicted = _held_out(fitted[tried], make, features, population, values, folds_rng)
        tau[tried] = _kendall_tau(predicted, values)
        square = values.var() if predicted is None else np.mean((predicted - values) ** 2)
        error[tried] = float(np.sqrt(max(square - noise, LEAST_ERROR * square)))
    best = max(tau, key=lambda tried: -1.0 if (value := tau[tried]) is None else value)
    return Chosen(best, fitted[best], tau, error[best])


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
        ``None`` where it is undefined: fewer than four architectures, or all values equal.
    """
    fitted = make(features).fit(population, values)
    return _kendall_tau(_held_out(fitted, make, features, population, values, rng), values)


def _held_out(
    fitted: Predictor,
    make: MakePredictor,
    features: Features,
    population: Population,
    values: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64] | None:
    """Cross-validated predictions, shape ``(N,)``; ``None`` of fewer than four, of which nothing is to be told.

    Args:
        fitted: To all of them: a Gaussian process needs no other fits.
    """
    num = len(population)
    if num < 4:
        return None
    folds = np.array_split(rng.permutation(num), min(NUM_FOLDS, num))
    if isinstance(fitted, GaussianProcess):
        return fitted.left_out(folds)
    predicted = np.empty(num)
    for fold in folds:
        others = np.setdiff1d(np.arange(num), fold)
        predicted[fold] = make(features).fit(population[others], values[others]).predict(population[fold])
    return predicted


def _kendall_tau(predicted: npt.NDArray[np.float64] | None, values: npt.NDArray[np.float64]) -> float | None:
    from scipy.stats import kendalltau  # here, as loading it takes longer than answering from a cache

    if predicted is None or np.ptp(values) == 0:
        return None
    tau = float(kendalltau(predicted, values).statistic)
    return tau if np.isfinite(tau) else None
