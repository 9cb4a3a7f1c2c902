"""A Gaussian process: says how sure it is."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.search.predictors.features import Features
from ofa.search.predictors.scikit import ScikitPredictor
from ofa.space import Population

NUM_FOR_KERNEL = 120


class GaussianProcess(ScikitPredictor):
    """Smooth in each dim, and noise; how smooth in which, and how noisy, is found by maximum likelihood.

    It sees dims as numbers and not as choices: more depth is more depth. With a length scale of its own for each, it
    ranks better than any predictor on the one-hot encoding below some hundred samples. The kernel is fitted on at most
    120 samples, so that hundreds are learnt well under a second; all of them count in the predictions.

    References:
        Rasmussen and Williams 2006, sec. 5.1 (automatic relevance determination) and 5.4 (likelihood).
    """

    def __init__(self, features: Features) -> None:
        super().__init__(features, self._process)

    def _process(self, population: Population, values: npt.NDArray[np.float64]) -> Any:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        if len(values) > NUM_FOR_KERNEL:
            some = np.random.default_rng(0).choice(len(values), NUM_FOR_KERNEL, replace=False)
            fitted = GaussianProcess(self.features).fit(population[some], values[some])._fitted
            return GaussianProcessRegressor(fitted.kernel_, optimizer=None)
        scales = np.full(self._inputs(population[:1]).shape[1], 3.0)
        return GaussianProcessRegressor(
            ConstantKernel(1.0, (1e-3, 1e3)) * RBF(scales, (0.2, 100.0)) + WhiteKernel(0.1, (1e-4, 1.0))
        )

    def _inputs(self, population: Population) -> npt.NDArray[np.float64]:
        return self.features.ordinal(population)

    def draw(self, population: Population, num_draws: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Functions that fit what was learnt, drawn from the posterior: their values at ``(N, D)`` architectures.

        Returns:
            Shape ``(num_draws, N)``.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the covariance may be singular by rounding
            drawn = self._fitted.sample_y(
                self._scaled(self._inputs(population)), num_draws, random_state=int(rng.integers(2**31))
            )
        return np.asarray(drawn.T * self._value_std + self._value_mean)
