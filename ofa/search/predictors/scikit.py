"""Predictors that are scikit-learn's, on standardised features and values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ofa.search.predictors.features import NOT_FITTED, Features, checked
from ofa.space import Population

SEED = 0


class ScikitPredictor:
    """Any scikit-learn regressor.

    Args:
        make: Makes it, for the architectures and values that it is to learn from.
    """

    def __init__(self, features: Features, make: Callable[[Population, npt.NDArray[np.float64]], Any]) -> None:
        self.features, self._make = features, make
        self._fitted: Any = None

    def fit(self, population: Population, values: npt.NDArray[np.float64]) -> Self:
        values = checked(population, values)
        inputs = self._inputs(population)
        self._input_mean, self._value_mean, self._value_std = inputs.mean(axis=0), values.mean(), values.std() or 1.0
        # One scale for all one-hot columns, so that rare values do not weigh more; statistics have scales of their own.
        num_encoded = inputs.shape[1] - len(self.features.statistics)
        self._input_std = np.ones(inputs.shape[1])
        self._input_std[num_encoded:] = np.maximum(inputs[:, num_encoded:].std(axis=0), 1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an optimiser that stops early is good enough here
            self._fitted = self._make(population, values).fit(
                self._scaled(inputs), (values - self._value_mean) / self._value_std
            )
        return self

    def _inputs(self, population: Population) -> npt.NDArray[np.float64]:
        return self.features(population)

    def _scaled(self, inputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        scaled: npt.NDArray[np.float64] = (inputs - self._input_mean) / self._input_std
        return scaled

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        if self._fitted is None:
            raise ValueError(NOT_FITTED)
        predicted = self._fitted.predict(self._scaled(self._inputs(population)))
        return np.asarray(predicted * self._value_std + self._value_mean)


def support_vectors(features: Features) -> ScikitPredictor:
    """Support vector regression with a Gaussian kernel."""
    from sklearn.svm import SVR

    return ScikitPredictor(features, lambda *samples: SVR(C=10.0, epsilon=0.05))


def gradient_boosting(features: Features) -> ScikitPredictor:
    """Boosted trees (GBDT-NAS, arXiv:2007.04785)."""
    from sklearn.ensemble import GradientBoostingRegressor

    return ScikitPredictor(
        features,
        lambda population, values: GradientBoostingRegressor(
            n_estimators=150,
            max_depth=3,
            subsample=0.7 if len(values) > 10 else 1.0,
            max_features=0.3,
            random_state=SEED,
        ),
    )


def mlp(features: Features) -> ScikitPredictor:
    """One hidden layer, trained by L-BFGS with a strong penalty: few samples, many inputs."""
    from sklearn.neural_network import MLPRegressor

    return ScikitPredictor(
        features,
        lambda *samples: MLPRegressor(
            hidden_layer_sizes=(32,), solver="lbfgs", alpha=1.0, max_iter=100, random_state=SEED
        ),
    )
