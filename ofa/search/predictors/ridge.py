"""Ridge regression on the masked one-hot encoding: the best predictor known below some 400 samples."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from ofa.cost.cost_model import CostModel, Factor
from ofa.search.predictors.features import NOT_FITTED, Features, checked
from ofa.space import Population, SearchSpace

PENALTIES = np.logspace(-4, 4, 33)


class RidgePredictor:
    """A value as an offset plus one weight for each value of each active dim.

    The penalty is the one of :data:`PENALTIES` with the least leave-one-out error, which has a closed form: the
    residual divided by ``1 - leverage``. One singular value decomposition serves all penalties. The offset is not
    penalised.

    References:
        Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, eq. 3.47 (ridge by SVD) and 7.64.
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        self._additive: CostModel | None = None

    def fit(self, population: Population, values: npt.NDArray[np.float64]) -> Self:
        targets = checked(population, values)
        features = self.features(population)
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
        self._additive = additive(self.features.space, self.weights, self.offset)
        return self

    @property
    def as_sum(self) -> CostModel | None:
        """The prediction as a sum of factors; none before :meth:`fit`, or with statistics, whose logarithms are not."""
        return None if self.features.statistics else self._additive

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        if self._additive is None:
            raise ValueError(NOT_FITTED)
        predicted = self._additive.predict(population)
        num_encoded = len(self.weights) - len(self.features.statistics)
        for statistic, weight in zip(self.features.statistics, self.weights[num_encoded:], strict=True):
            predicted += weight * np.log(np.maximum(statistic(population), 1e-12))
        return predicted


def additive(space: SearchSpace, weights: npt.NDArray[np.float64], offset: float) -> CostModel:
    """A weight for each value of each dim where it is active, as a sum of factors: millions of architectures a second.

    Args:
        weights: In the order of :meth:`SearchSpace.encode`.
    """
    factors, position = [Factor((), np.array(offset))], 0
    for dim in space.dims:
        own = weights[position : position + len(dim.values)]
        position += len(dim.values)
        dims: list[str] = [dim.name]
        array = np.array(own)
        while space[dims[0]].requires is not None:
            parent, allowed = space[dims[0]].requires or ("", ())
            is_active = np.isin(np.array(space[parent].values, dtype=object), np.array(allowed, dtype=object))
            array = is_active.reshape(-1, *[1] * array.ndim) * array
            dims.insert(0, parent)
        factors.append(Factor(tuple(dims), array))
    return CostModel(space, factors, name="prediction")
