"""Ridge regression on the masked one-hot encoding: the best predictor known below some 400 samples."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from ofa.space import Population, SearchSpace

PENALTIES = np.logspace(-4, 4, 33)


class RidgePredictor:
    """Accuracy as an offset plus one weight for each value of each active dim.

    The penalty is the one of :data:`PENALTIES` with the least leave-one-out error, which has a closed form: the
    residual divided by ``1 - leverage``. One singular value decomposition serves all penalties. The offset is not
    penalised.

    References:
        Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, eq. 3.47 (ridge by SVD) and 7.64.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.penalty = np.nan
        self.offset = np.nan
        self.weights = np.empty(0)

    def fit(self, population: Population, top1_percent: npt.NDArray[np.float64]) -> Self:
        """Learn from ``(N, D)`` architectures and their ``(N,)`` accuracies.

        Raises:
            ValueError: If there are none, their numbers differ, or an accuracy is not finite.
        """
        targets = np.asarray(top1_percent, dtype=np.float64)
        if targets.shape != (len(population),) or not len(targets) or not np.isfinite(targets).all():
            raise ValueError(
                f"a predictor learns from at least one architecture with one finite accuracy each, "
                f"not from {len(population)} architectures and accuracies {targets}"
            )
        features = self.space.encode(population).astype(np.float64)
        feature_means, target_mean = features.mean(axis=0), targets.mean()
        u, s, vt = np.linalg.svd(features - feature_means, full_matrices=False)
        shrink = s**2 / (s**2 + PENALTIES[:, None])  # (penalties, singular values)
        projected = u.T @ (targets - target_mean)
        residuals = (targets - target_mean) - (shrink * projected) @ u.T
        leverages = 1 / len(targets) + shrink @ (u**2).T
        # A single sample has leverage 1 and residual 0; so has each sample that only its own feature explains.
        errors = residuals / np.maximum(1 - leverages, 1e-9)
        best = int(np.argmin(np.mean(errors**2, axis=1)))
        self.penalty = float(PENALTIES[best])
        self.weights = vt.T @ (s / (s**2 + self.penalty) * projected)
        self.offset = float(target_mean - feature_means @ self.weights)
        return self

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        """Accuracies of ``(N, D)`` architectures, shape ``(N,)``.

        Raises:
            ValueError: If :meth:`fit` has not been called.
        """
        if not len(self.weights):
            raise ValueError("this predictor has not learnt anything yet; call fit first")
        return self.space.encode(population) @ self.weights + self.offset
