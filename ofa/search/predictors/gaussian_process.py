"""A Gaussian process: says how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ofa.search.predictors.features import NOT_FITTED, Features, checked
from ofa.search.predictors.warp import Warp
from ofa.space import Population

Floats = npt.NDArray[np.float64]

NUM_FOR_KERNEL = 120
MAX_STEPS = 30
FIND_AGAIN = 1.25
JITTER = 1e-5  # covariances may be singular by rounding

# Of logarithms: a weight per dim, then the shares of the smooth part, the additive part and each one's own.
EXPECTED_SHARES, SHARE_SPREADS = np.log([1.0, 1.0, 0.01]), (1.5, 1.5, 2.0)
WEIGHT_SPREAD = 1.5
WEIGHT_BOUNDS, SHARE_BOUNDS = (-9.0, 6.0), ((-7.0, 3.0), (-7.0, 3.0), (-9.0, 0.0))


class _Inputs(NamedTuple):
    """Of some architectures: ``(N, F)``, whose products are the additive part, and ``(N, C)``, for distances."""

    additive: Floats
    places: Floats


class GaussianProcess:
    """A sum over the choices, something smooth in all dims together, something of each architecture's own, and noise.

    How near two architectures are goes by how far apart their numbers are and by which of their categories differ (a
    Hamming distance), with a weight for each dim. The noise is what :class:`Features` know of it; the weights, and the
    shares of the other parts, are the most likely ones under a prior by which a space of more dims is not rougher. They
    are found on at most 120 samples, so that hundreds are learnt in a moment, and by a process that learns again where
    a quarter more is known; all samples count in the predictions. Values are learnt on the scale of :class:`Warp`.

    References:
        Rasmussen and Williams 2006, sec. 2.7 (linear part), 5.1 (a weight for each dim), 5.4.1 (likelihood), 5.4.2
        (samples predicted by the others; here fold by fold). Hvarfner et al., arXiv:2402.02229, sec. 4.1 (prior).
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        self._logs: Floats | None = None
        self._num_found = 0

    def fit(self, population: Population, values: Floats) -> Self:
        from scipy.linalg import cho_solve

        targets = checked(population, values)
        logs = self.features.logarithms(population)
        self._log_mean, self._log_std = logs.mean(axis=0), np.maximum(logs.std(axis=0), 1e-12)
        self._known = self._inputs(population)
        is_new = self._logs is None or len(targets) >= FIND_AGAIN * self._num_found
        if is_new:
            self._num_found, self._warp = len(targets), Warp(targets)
        self._learnt = self._warp(targets)
        self._noise = self.features.variances(population) * self._warp.slope(targets) ** 2
        if is_new:
            self._logs = self._most_likely()
        assert self._logs is not None
        covariance = self._kernel(self._known, self._known)
        covariance[np.diag_indices(len(covariance))] += np.exp(self._logs[-1]) + self._noise
        self._cholesky = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._cholesky, True), self._learnt)
        return self

    def predict(self, population: Population) -> Floats:
        if self._logs is None:
            raise ValueError(NOT_FITTED)
        return self._warp.inverse(self._kernel(self._inputs(population), self._known) @ self._weights)

    def left_out(self, folds: Sequence[npt.NDArray[np.intp]]) -> Floats:
        """What was learnt from, predicted fold by fold by all the others, with the same weights and shares, ``(N,)``.

        Args:
            folds: Positions among what was learnt from, each in one of them.
        """
        from scipy.linalg import cho_solve

        precision = cho_solve((self._cholesky, True), np.eye(len(self._learnt)))
        predicted = self._learnt.copy()
        for fold in folds:
            predicted[fold] -= np.linalg.solve(precision[np.ix_(fold, fold)], self._weights[fold])
        return self._warp.inverse(predicted)

    def believed(self) -> Floats:
        """What was learnt from, without its noise: the means of the posterior, shape ``(N,)``."""
        if self._logs is None:
            raise ValueError(NOT_FITTED)
        return self._warp.inverse(self._learnt - self._noise * self._weights)

    def draw_known(self, rows: npt.NDArray[np.intp], num_draws: int, rng: np.random.Generator) -> Floats:
        """Truths behind what was learnt from, drawn from the posterior: its values where there is no noise.

        Args:
            rows: ``K`` positions among what was learnt from.

        Returns:
            Shape ``(num_draws, K)``.
        """
        from scipy.linalg import solve_triangular

        if self._logs is None:
            raise ValueError(NOT_FITTED)
        noise = self._noise[rows]
        # With N the noise and C the covariance of what was seen, the truth has the mean y - N C^-1 y and the covariance
        # N - N C^-1 N (Rasmussen and Williams, eq. 2.25 and 2.26, for the points that were seen).
        removed = solve_triangular(self._cholesky, np.eye(len(self._noise))[:, rows] * noise, lower=True)
        spreads, directions = np.linalg.eigh(np.diag(noise) - removed.T @ removed)
        roots = directions * np.sqrt(np.maximum(spreads, 0.0))
        means = self._learnt[rows] - noise * self._weights[rows]
        return self._warp.inverse(means + (roots @ rng.standard_normal((len(rows), num_draws))).T)

    def draw(self, population: Population, num_draws: int, rng: np.random.Generator) -> Floats:
        """Functions that fit what was learnt, drawn from the posterior: their values at ``(N, D)`` architectures.

        Returns:
            Shape ``(num_draws, N)``.
        """
        from scipy.linalg import solve_triangular

        inputs = self._inputs(population)
        across = self._kernel(inputs, self._known)
        explained = solve_triangular(self._cholesky, across.T, lower=True)
        covariance = self._kernel(inputs, inputs)
        covariance[np.diag_indices(len(covariance))] *= 1 + JITTER
        covariance -= explained.T @ explained
        noise = np.linalg.cholesky(covariance) @ rng.standard_normal((len(population), num_draws))
        return self._warp.inverse(((across @ self._weights)[:, None] + noise).T)

    def _inputs(self, population: Population) -> _Inputs:
        logs = (self.features.logarithms(population) - self._log_mean) / self._log_std
        encoded = self.features.space.encode(population).astype(np.float64)
        num_parts = len(self.features.space) + logs.shape[1]
        return _Inputs(
            np.column_stack([encoded, logs]) / np.sqrt(num_parts),
            np.column_stack([self.features.places(population), logs]),
        )

    def _kernel(self, ours: _Inputs, theirs: _Inputs) -> Floats:
        """Covariances without the noise."""
        assert self._logs is not None
        *log_weights, smooth, additive, _ = self._logs
        scale = np.exp(0.5 * np.array(log_weights))[self.features.dim_of_place]
        left, right = ours.places * scale, theirs.places * scale
        squares = np.sum(left**2, axis=1)[:, None] + np.sum(right**2, axis=1)
        near = np.exp(smooth - np.maximum(squares - 2 * left @ right.T, 0.0))
        return np.asarray(near + np.exp(additive) * ours.additive @ theirs.additive.T)

    def _most_likely(self) -> Floats:
        """Logarithms of the weights and shares, from some of the known."""
        from scipy.optimize import minimize

        known, targets, variances = self._known, self._learnt, self._noise
        if len(targets) > NUM_FOR_KERNEL:
            some = np.random.default_rng(0).choice(len(targets), NUM_FOR_KERNEL, replace=False)
            known = _Inputs(known.additive[some], known.places[some])
            targets, variances = targets[some], variances[some]
        dims = np.arange(self.features.dim_of_place.max() + 1)
        squares = np.stack([_squares(known.places[:, self.features.dim_of_place == dim]) for dim in dims])
        expected = np.concatenate([np.full(len(dims), -0.5 * np.log(len(dims))), EXPECTED_SHARES])
        spreads = np.array([WEIGHT_SPREAD] * len(dims) + list(SHARE_SPREADS))
        products = known.additive @ known.additive.T

        def loss(logs: Floats) -> tuple[float, Floats]:
            misfit, slope = _misfit(logs, squares, products, targets, variances)
            away = (logs - expected) / spreads
            return misfit + 0.5 * float(away @ away), slope + away / spreads

        start = expected if self._logs is None else self._logs
        bounds = [WEIGHT_BOUNDS] * len(dims) + list(SHARE_BOUNDS)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": MAX_STEPS})
        return np.asarray(found.x)


def _squares(places: Floats) -> Floats:
    """Squared distances, shape ``(N, N)``."""
    return np.asarray(np.sum((places[:, None] - places) ** 2, axis=2))


def _misfit(
    logs: Floats, squares: Floats, products: Floats, targets: Floats, variances: Floats
) -> tuple[float, Floats]:
    """The negative logarithm of the likelihood but for a constant, and its slope (Rasmussen and Williams, eq. 5.9)."""
    from scipy.linalg import cho_solve

    weights, (smooth, additive, own) = np.exp(logs[:-3]), np.exp(logs[-3:])
    near = smooth * np.exp(-np.tensordot(weights, squares, axes=1))
    identity = np.eye(len(targets))
    cholesky = np.linalg.cholesky(near + additive * products + np.diag(own + variances))
    inverse = cho_solve((cholesky, True), identity)
    solved = inverse @ targets
    slope = 0.5 * (inverse - np.outer(solved, solved))  # by the covariance
    pulls = -weights * np.tensordot(squares, slope * near, axes=2)
    shares = [np.sum(slope * near), additive * np.sum(slope * products), own * np.trace(slope)]
    misfit = 0.5 * float(targets @ solved) + float(np.log(np.diag(cholesky)).sum())
    return misfit, np.concatenate([pulls, shares])
