"""What evaluated subnets are believed to be worth, by all evaluations together: the lucky are as good as their like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ofa.metrics import Metric
from ofa.search.predictors.features import Features
from ofa.search.predictors.gaussian_process import GaussianProcess
from ofa.space import Population

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.9
OWN_NOISE = 0.25
"""Of the variance of a metric, by the samples that it was measured on, the part that is a subnet's own: neighbours
disagree on about a tenth of the pictures, where strangers would on four tenths. The rest they share."""
NUM_DRAWS = 1000
MAX_LEARNT = 1000  # evaluations, so that it takes no more than a second


@dataclass(frozen=True)
class Posterior:
    """What ``K`` subnets are believed to be worth.

    Args:
        draws: Values of the metric that are possible together, shape ``(num, K)``.
        shared: Variance that all have in common, shape ``(K,)``; it says nothing of which is better.
    """

    metric: Metric
    draws: Floats
    shared: Floats

    def of(self, rows: npt.NDArray[np.bool_]) -> Posterior:
        """Of some of them."""
        return Posterior(self.metric, self.draws[:, rows], self.shared[rows])

    @property
    def means(self) -> Floats:
        """Shape ``(K,)``."""
        return np.asarray(self.draws.mean(axis=0))

    def intervals(self) -> Floats:
        """90 % intervals of what is true of all samples that there could be, shape ``(K, 2)``."""
        reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * np.sqrt(self.draws.var(axis=0) + self.shared)
        bounds = self.means[:, None] + np.array([-1.0, 1.0]) * reach[:, None]
        return np.clip(bounds, 0, 100) if self.metric.interval_by == "share" else bounds

    def chances_worse(self, than: int) -> Floats:
        """How likely each is worse than one of them, shape ``(K,)``; 0 for itself."""
        return np.asarray((self.metric.sign * (self.draws - self.draws[:, [than]]) < 0).mean(axis=0))


def posterior(
    metric: Metric, features: Features, population: Population, rows: Floats, *, rng: np.random.Generator
) -> Posterior:
    """Learn from evaluated subnets what they are worth, with a Gaussian process that knows the metric's noise.

    Args:
        features: Their noise is that of ``rows``.
        population: Shape ``(K, D)``.
        rows: The metric's columns of each, shape ``(K, len(metric.columns))``.

    References:
        Rasmussen and Williams 2006, eq. 2.25. That subnets are judged on the same samples is ours: only a part of the
        noise (:data:`OWN_NOISE`) can make one look better than another, and the rest widens intervals.
    """
    variances = metric.variances(rows)
    if not len(population):
        return Posterior(metric, np.empty((NUM_DRAWS, 0)), variances)
    process = GaussianProcess(replace(features, noise=lambda _: OWN_NOISE * variances)).fit(population, rows[:, 0])
    draws = process.draw_known(np.arange(len(population)), NUM_DRAWS, rng)
    return Posterior(metric, draws, (1 - OWN_NOISE) * variances)
