"""Latency of a network as the sum over its kernels, learnt from measured networks that are large or small.

A kernel's prior is linear in what it computes and moves, fitted for each kind of kernel, all networks at once, by least
squares without negative coefficients. What it really takes is the prior times ``1 + f``, where ``f`` of a kind is a
Gaussian process over the kernel's features. Since a network's latency is a sum of these, it is one observation of them
all: nobody need time a kernel alone, and the posterior of a new network, with all that its kernels have in common, has
a closed form (Rasmussen and Williams, Gaussian Processes for Machine Learning, sec. 2.2 and eq. 5.12 of what is left
out one by one). nn-Meter fits a random forest to each kernel's own time instead, without an interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls
from scipy.sparse import csr_matrix

from ofa.estimate.kernels import Kernel, Kernels

Floats = npt.NDArray[np.float64]

PULL = 0.1  # of a kind's prior towards that of all kinds, beside the relative error of one network
LEAST_PART = 0.01  # of a mean network, that each amount explains
LEAST_SHARE = 0.2  # of the pooled prior, that the prior of any kernel has
LEAST_DEVIATION = -0.8
KIND_STRENGTH = 0.3  # standard deviation of what all kernels of a kind deviate by
CONTEXT_STRENGTH = 0.1  # of what those of a kind, and those of all kinds, deviate by in whole networks
STRENGTHS, LENGTHS, NOISES = (0.3, 0.6, 1.2), (1.5, 3.0, 6.0), (0.02, 0.04, 0.08)
NOISE_MS = 0.003  # of a sample: where in memory it lies, what the call itself takes
CACHE_BYTES = 2 << 20  # weights beyond come from farther away in every run
MOST_TO_CHOOSE_BY = 600  # networks, for strength, length and noise
NETWORK_NOISE, NETWORK_NOISES = 0.05, (0.01, 0.5)
UNKNOWN_STRENGTH = 1.0  # of kernels of a kind that was never measured
MARGIN = 1.0  # beyond the least and the greatest that was measured, in powers of 2


@dataclass(frozen=True)
class Observed:
    """A network that was measured.

    Args:
        error: Relative standard error of its latency.
        is_whole: A network as they are used, not a sample.
    """

    kernels: Kernels
    latency_ms: float
    error: float = 0.0
    is_whole: bool = False


def _amounts(kernel: Kernel) -> list[float]:
    """What a prior is linear in: one call, multiply-accumulates, bytes of activations and of weights."""
    return [1.0, kernel.macs, kernel.input_bytes + kernel.output_bytes, kernel.weight_bytes]


@dataclass(frozen=True)
class Prior:
    """Milliseconds per amount.

    Args:
        by_kind: Of each kind.
        pooled: Of all kernels together, for kinds that are unknown.
        around: Per amount of what a network takes besides its kernels, see :func:`_around`.
    """

    by_kind: Mapping[str, Floats]
    pooled: Floats
    around: Floats

    def around_ms(self, kernels: Kernels, *, is_whole: bool = True) -> float:
        """What a network takes besides its kernels."""
        return float(self.around @ _around(kernels, is_whole))

    def kernel_ms(self, kernels: Sequence[Kernel]) -> Floats:
        """Shape ``(K,)``."""
        amounts = np.array([_amounts(kernel) for kernel in kernels]).reshape(-1, 4)
        coefficients = np.array([self.by_kind.get(kernel.kind, self.pooled) for kernel in kernels]).reshape(-1, 4)
        least = LEAST_SHARE * amounts @ self.pooled
        return np.asarray(np.maximum((amounts * coefficients).sum(axis=1), least))


def fit_prior(networks: Sequence[Observed]) -> Prior:
    kinds = sorted({kernel.kind for network in networks for kernel in network.kernels})
    column = {kind: index for index, kind in enumerate(kinds)}
    sums = np.zeros((len(networks), len(kinds), 4))
    for row, network in zip(sums, networks, strict=True):
        for kernel, count in network.kernels.items():
            row[column[kernel.kind]] += count * np.array(_amounts(kernel))
    around = np.array([_around(network.kernels, network.is_whole) for network in networks])
    latency_ms = np.array([network.latency_ms for network in networks])
    pooled, common = sums.sum(axis=1), np.zeros(around.shape[1])
    pooled_ms = _least_squares(np.hstack([pooled, around]), latency_ms, np.append(np.zeros(4), common))[:4]
    pooled_ms = np.maximum(pooled_ms, LEAST_PART * latency_ms.mean() / np.maximum(pooled.mean(axis=0), 1e-12))
    likely = np.append(np.tile(pooled_ms, len(kinds)), common)
    found = _least_squares(np.hstack([sums.reshape(len(networks), -1), around]), latency_ms, likely)
    kind_ms, around_ms = np.split(found, [4 * len(kinds)])
    return Prior(dict(zip(kinds, kind_ms.reshape(-1, 4), strict=True)), pooled_ms, around_ms)


def _around(kernels: Kernels, is_whole: bool) -> list[float]:
    """One call; bytes of weights beyond a core's caches, in samples and in whole networks, where they come from farther
    away; and in these, whose caches others use in between, the bytes that kernels move without computing much.
    """
    weights = sum(count * kernel.weight_bytes for kernel, count in kernels.items())
    moved = sum(
        count * (kernel.input_bytes + kernel.output_bytes) for kernel, count in kernels.items() if not kernel.macs
    )
    far = max(0, weights - CACHE_BYTES)
    return [1.0, 0.0, far, moved] if is_whole else [1.0, far, 0.0, 0.0]


def _least_squares(sums: Floats, latency_ms: Floats, likely: Floats) -> Floats:
    """Of relative errors, without negative coefficients, which are pulled to what is likely where that is not 0."""
    scale = np.where(likely > 0, 1 / np.maximum(likely, 1e-30), np.maximum(sums.max(axis=0), 1e-12))
    pull = PULL * np.diag(likely > 0)[likely > 0]
    rows = np.vstack([sums / scale / latency_ms[:, None], pull])
    target = np.append(np.ones(len(sums)), np.full(len(pull), PULL))
    coefficients, _ = nnls(rows, target, maxiter=50 * sums.shape[1])
    return np.asarray(coefficients / scale)


@dataclass(frozen=True)
class Strengths:
    """Of the Gaussian processes.

    Args:
        strength: Standard deviation of what changes with the features.
        length: Over which it changes, in powers of 2 of sizes.
        noise: Relative, of a sample.
        network_noise: Relative, of a whole network.
    """

    strength: float
    length: float
    noise: float
    network_noise: float = NETWORK_NOISE

    def covariance(self, first: Floats, second: Floats) -> Floats:
        """Of deviations of one kind, shape ``(N, M)`` for features ``(N, F)`` and ``(M, F)``: Matérn 5/2."""
        squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
        far = np.sqrt(5 * np.maximum(squares, 0.0)) / self.length
        return np.asarray(KIND_STRENGTH**2 + self.strength**2 * (1 + far + far**2 / 3) * np.exp(-far))


@dataclass(frozen=True)
class _Group:
    """Kernels of one kind: features ``(K, F)``, and what each network has of each, relative, ``(N, K)`` sparse."""

    features: Floats
    shares: Any


def _group(networks: Sequence[Kernels], prior: Prior, per: Floats) -> dict[str, _Group]:
    """By kind. Shares are of ``per``, milliseconds of each network."""
    numbers: dict[str, dict[Kernel, int]] = defaultdict(dict)
    cells: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for row, kernels in enumerate(networks):
        kernel_ms = prior.kernel_ms(list(kernels))
        for (kernel, count), ms in zip(kernels.items(), kernel_ms, strict=True):
            own = numbers[kernel.kind]
            cells[kernel.kind].append((row, own.setdefault(kernel, len(own)), count * ms / per[row]))
    groups = {}
    for kind, own in numbers.items():
        rows, columns, values = zip(*cells[kind], strict=True)
        features = np.array([kernel.features for kernel in own])
        groups[kind] = _Group(features, csr_matrix((values, (rows, columns)), (len(networks), len(own))))
    return groups


@dataclass(frozen=True)
class Posterior:
    """What a kernel takes, after the measurements; made by :func:`fit`."""

    networks: Sequence[Observed]
    prior: Prior
    strengths: Strengths
    groups: Mapping[str, _Group] = field(repr=False)

    @cached_property
    def _latency_ms(self) -> Floats:
        return np.array([network.latency_ms for network in self.networks])

    @cached_property
    def _is_whole(self) -> npt.NDArray[np.bool_]:
        return np.array([network.is_whole for network in self.networks])

    @cached_property
    def _target(self) -> Floats:
        known = sum(np.asarray(group.shares.sum(axis=1)).ravel() for group in self.groups.values())
        around_ms = np.array([self.prior.around_ms(each.kernels, is_whole=each.is_whole) for each in self.networks])
        return np.asarray(1 - known - around_ms / self._latency_ms)

    @cached_property
    def _signal(self) -> Floats:
        covariance = np.zeros((len(self.networks), len(self.networks)))
        for group in self.groups.values():
            covariance += group.shares @ (group.shares @ self.strengths.covariance(group.features, group.features)).T
        return covariance + CONTEXT_STRENGTH**2 * sum(each @ each.T for each in self._in_whole.values())

    @cached_property
    def _in_whole(self) -> dict[str, Floats]:
        """Of whole networks, the share of each kind, and under no name that of all kinds; shape ``(N, 1)`` each."""
        shares = {
            kind: np.asarray(group.shares.sum(axis=1)) * self._is_whole[:, None] for kind, group in self.groups.items()
        }
        return {**shares, "": np.asarray(sum(shares.values()))}

    @cached_property
    def _noise(self) -> Floats:
        errors = np.array([network.error for network in self.networks])
        own = np.where(self._is_whole, self.strengths.network_noise, self.strengths.noise)
        return np.asarray(errors**2 + own**2 + (NOISE_MS / self._latency_ms) ** 2)

    @cached_property
    def _factor(self) -> Any:
        return cho_factor(self._signal + np.diag(self._noise), lower=True)

    @cached_property
    def _alpha(self) -> Floats:
        return np.asarray(cho_solve(self._factor, self._target))

    @property
    def log_likelihood(self) -> float:
        """Of the measurements, up to a constant."""
        return float(-0.5 * self._target @ self._alpha - np.log(np.diag(self._factor[0])).sum())

    @cached_property
    def left_out(self) -> tuple[Floats, Floats]:
        """Of each network, predicted without it: relative error (positive where it is too low), and its deviation."""
        precision = np.diag(cho_solve(self._factor, np.eye(len(self.networks))))
        return self._alpha / precision, np.sqrt(1 / precision)

    def kernel_ms(self, kernels: Sequence[Kernel]) -> Floats:
        """What each takes in a whole network, shape ``(K,)``."""
        prior_ms = self.prior.kernel_ms(kernels)
        context = {kind: CONTEXT_STRENGTH**2 * float(each[:, 0] @ self._alpha) for kind, each in self._in_whole.items()}
        deviations = np.array([context[""] + context.get(kernel.kind, 0.0) for kernel in kernels])
        for kind in {kernel.kind for kernel in kernels} & set(self.groups):
            own = [index for index, kernel in enumerate(kernels) if kernel.kind == kind]
            group = self.groups[kind]
            features = np.array([kernels[index].features for index in own])
            learnt = group.shares.T @ self._alpha
            deviations[own] += self.strengths.covariance(features, group.features) @ learnt
        return np.asarray(prior_ms * (1 + np.maximum(deviations, LEAST_DEVIATION)))

    def predict_ms(self, kernels: Kernels) -> float:
        """Of a whole network."""
        return float(self.kernel_ms(list(kernels)) @ list(kernels.values())) + self.prior.around_ms(kernels)

    def deviation(self, kernels: Kernels) -> float:
        """Relative standard deviation of a whole network's latency."""
        groups = _group([kernels], self.prior, np.array([self.predict_ms(kernels)]))
        variance, with_known = 0.0, np.zeros(len(self.networks))
        for kind, group in groups.items():
            share = group.shares.toarray()[0]
            if kind not in self.groups:
                variance += (UNKNOWN_STRENGTH * share.sum()) ** 2
                continue
            variance += share @ self.strengths.covariance(group.features, group.features) @ share
            known = self.groups[kind]
            with_known += known.shares @ (self.strengths.covariance(known.features, group.features) @ share)
            variance += (CONTEXT_STRENGTH * share.sum()) ** 2
            with_known += CONTEXT_STRENGTH**2 * share.sum() * self._in_whole[kind][:, 0]
        total = sum(group.shares.sum() for group in groups.values())
        variance += (CONTEXT_STRENGTH * total) ** 2
        with_known += CONTEXT_STRENGTH**2 * total * self._in_whole[""][:, 0]
        variance -= with_known @ cho_solve(self._factor, with_known)
        return float(np.sqrt(max(variance, 0.0) + self.strengths.network_noise**2))

    @cached_property
    def _bounds(self) -> dict[str, tuple[Floats, Floats]]:
        return {kind: (each.features.min(axis=0), each.features.max(axis=0)) for kind, each in self.groups.items()}

    def is_known(self, kernel: Kernel) -> bool:
        """Whether kernels of its kind were measured, none of its features being far beyond all of theirs."""
        if kernel.kind not in self._bounds:
            return False
        (low, high), own = self._bounds[kernel.kind], np.array(kernel.features)
        return bool(((own >= low - MARGIN) & (own <= high + MARGIN)).all())


def fit(networks: Sequence[Observed], strengths: Strengths | None = None) -> Posterior:
    """Fit prior and processes.

    Args:
        strengths: Those of an earlier fit; otherwise the ones that make the measurements most probable.
    """
    networks = list(networks)
    prior = fit_prior(networks)
    groups = _group_observed(networks, prior)
    if strengths is None:
        strengths = _most_probable(networks, prior)
        strengths = replace(strengths, network_noise=_network_noise(Posterior(networks, prior, strengths, groups)))
    return Posterior(networks, prior, strengths, groups)


def _group_observed(networks: Sequence[Observed], prior: Prior) -> dict[str, _Group]:
    per = np.array([network.latency_ms for network in networks])
    return _group([network.kernels for network in networks], prior, per)


def _most_probable(networks: Sequence[Observed], prior: Prior) -> Strengths:
    some = networks[:: -(-len(networks) // MOST_TO_CHOOSE_BY)]
    groups = _group_observed(some, prior)
    choices = [Strengths(*each) for each in np.array(np.meshgrid(STRENGTHS, LENGTHS, NOISES)).reshape(3, -1).T.tolist()]
    return max(choices, key=lambda each: Posterior(some, prior, each, groups).log_likelihood)


def _network_noise(posterior: Posterior) -> float:
    """The noise of whole networks that their errors, each left out, are explained by.

    Given the samples, whole networks are a small Gaussian of their own (Schur's complement), whose noise is tried.
    """
    whole, signal, target = posterior._is_whole, posterior._signal, posterior._target
    noise = NETWORK_NOISE
    if not whole.any() or whole.all():
        return noise
    factor = cho_factor(signal[np.ix_(~whole, ~whole)] + np.diag(posterior._noise[~whole]), lower=True)
    across = signal[np.ix_(whole, ~whole)]
    left = signal[np.ix_(whole, whole)] - across @ cho_solve(factor, across.T)
    rest = target[whole] - across @ cho_solve(factor, target[~whole])
    own = posterior._noise[whole] - NETWORK_NOISE**2
    for _ in range(20):
        precision = np.linalg.inv(left + np.diag(own + noise**2))
        ratio = float(np.mean((precision @ rest) ** 2 / np.diag(precision)))
        noise = float(np.clip(noise * ratio**0.5, *NETWORK_NOISES))
    return noise
