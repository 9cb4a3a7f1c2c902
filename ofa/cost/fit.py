"""A latency table from latencies of whole networks, for devices that measure nothing else.

A network takes what its parts take, so a few dozen to a few hundred networks say something about thousands of parts,
if these are not taken for strangers. Every part begins at a prior: a non-negative combination of its multiply-
accumulates, its parameters, one call and, if there is a table of another device, what it takes there (as in HELP, the
other device's latencies are features), fitted on all networks. What the prior misses is explained by deviations that
parts share: all of a stage, all with a kernel size there, all at a resolution, and so on. Each family of deviations
has a strength of its own, the most probable one given the measurements, so that what does not matter is left at
nothing. That is a Gaussian process over networks whose covariance comes from the parts they have in common; its mean
on every part makes the table, its variance on networks says which to measure next.

References:
    Rasmussen and Williams, Gaussian Processes for Machine Learning, sec. 2.2 (posterior) and 5.4.1 (marginal
    likelihood), with a linear covariance over the parts of a network. Lee et al., HELP, arXiv:2106.08630. Deviations
    are relative to the prior, errors relative to the latency. Strengths have a wide prior, which helps below some 50
    networks. Latencies are not made to rise with kernel, expand ratio or resolution: on simulated devices that lowered
    the error by 3 % of itself at best, and raised it by a third where latency truly falls at some resolutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize, nnls

from ofa.cost.correction import Correction, Floats
from ofa.cost.cost_model import HasFactors, macs
from ofa.cost.held_out import held_out_errors
from ofa.cost.latency_table import LATENCIES, REMEDY, LatencyTable, SlotLike, stage_of
from ofa.errors import OfaError, UsageError
from ofa.files import sha256_of_file
from ofa.space import Arch, Population, SearchSpace, SpaceError

Ints = npt.NDArray[np.intp]

MIN_ARCHS = 10
NUM_FOLDS = 5
MIN_SHARE_OF_PRIOR = 0.1  # a part is never much cheaper than the prior says, and so never free
LIKELY_STRENGTH, LIKELY_NOISE = 0.05, 0.01  # standard deviations, relative
WIDTH = 3.0  # of what is likely, in the logarithm of their squares
STRENGTHS = (1e-6, 10.0)  # bounds of the squares of standard deviations
NOISES = (1e-6, 0.1)
CALL = "call"
LEAST_VARIANCE = 1e-6  # of what is known of a part, relative


class FitError(OfaError, ValueError):
    """The measurements cannot be fitted."""


class FromSupernet(HasFactors, Protocol):
    """What is needed of a supernet."""

    @property
    def slots(self) -> Sequence[SlotLike]: ...


@dataclass(frozen=True)
class LatencyFit:
    """A fitted table, and which networks would tell the most about what it does not know.

    Args:
        table: Its ``held_out`` are cross-validated: each network is predicted by a fit without it.
    """

    table: LatencyTable
    _posterior: _Posterior

    def propose(self, num: int, *, rng: np.random.Generator, pool_size: int = 2000) -> list[Arch]:
        """Architectures to measure next.

        Each is the one, of a random pool, whose measurement would lower the mean variance of the whole pool the most,
        those before it given. (The most uncertain one by itself is often an odd network that tells little of others.)

        Raises:
            ValueError: If ``num`` is less than 1.

        References:
            Cohn, Ghahramani, Jordan, Active Learning with Statistical Models, JAIR 4 (1996): its criterion, here over a
            pool, and greedy.
        """
        if num < 1:
            raise UsageError(f"num must be at least 1, not {num}")
        pool = np.unique(self.table.space.sample_population(pool_size, rng), axis=0)
        features = self._posterior.features(pool)
        covariance = features @ self._posterior.covariance @ features.T
        chosen: list[int] = []
        for _ in range(min(num, len(pool))):
            of_measurements = np.diag(covariance) + self._posterior.noise**2
            gains = np.einsum("ij,ij->j", covariance, covariance) / of_measurements
            gains[chosen] = -1.0
            chosen.append(int(np.argmax(gains)))
            column = covariance[:, chosen[-1]]
            covariance = covariance - np.outer(column, column) / of_measurements[chosen[-1]]
        return self.table.space.to_archs(pool[chosen])


def fit_latency(
    supernet: FromSupernet,
    archs: Sequence[Arch] | Population,
    latency_ms: Sequence[float] | Floats,
    *,
    device: str = "unknown",
    source: Mapping[str, Any] | None = None,
    prior: LatencyTable | None = None,
) -> LatencyFit:
    """Fit a latency table from whole networks.

    Args:
        supernet: Of the space, trained or not: its parts and their multiply-accumulates are the prior.
        archs: ``N`` architectures, at least 10; the same one may stand there several times.
        latency_ms: Their latencies, shape ``(N,)``.
        device: Name of the device, for the table.
        source: Where the latencies are from, as JSON data, for the table's fingerprint.
        prior: Table of the same space on another device: what its parts take there is a cost besides multiply-
            accumulates and parameters.

    Raises:
        FitError: If there are too few architectures, if a latency is not a positive number, if a bare search space
            stands in place of the supernet, or if the prior is of another space or lacks parts.
        SpaceError: If an architecture is not of the space.
    """
    if isinstance(supernet, SearchSpace):
        raise FitError(
            "a search space alone does not tell its parts; give a supernet of it, say ofa.create_supernet(name)"
        )
    space = supernet.space
    population = space.to_population(archs)
    measured_ms = np.asarray(latency_ms, dtype=np.float64)
    _check(population, measured_ms)
    parts = _Parts.of(supernet, prior)
    different, which = np.unique(population, axis=0, return_inverse=True)  # all measurements of one share a fold
    shuffled = np.random.default_rng(0).permutation(len(different))
    fold_of = (shuffled % NUM_FOLDS)[which.ravel()]
    predicted_ms = np.empty(len(population))
    for fold in range(NUM_FOLDS):
        without = _fit(parts, population[fold_of != fold], measured_ms[fold_of != fold])
        predicted_ms[fold_of == fold] = without.predict_ms(population[fold_of == fold])
    posterior = _fit(parts, population, measured_ms)
    depth = parts.sums(np.ones((len(parts.keys), 1)), population)[:, 0]
    # Each prediction was made without the network in question; the baselines' lines have seen it.
    baselines = {"macs_only": np.tile(macs(supernet).predict(population), 2), "depth_only": np.tile(depth, 2)}
    errors = held_out_errors(predicted_ms, measured_ms, baselines=baselines, fit_ms=measured_ms)
    table = LatencyTable(
        space=space,
        slots=tuple(supernet.slots),
        entries=pd.DataFrame(
            {
                "key": parts.keys,
                **dict.fromkeys(LATENCIES, (posterior.part_ms + posterior.call_ms).round(6)),
                "num_runs": 0,
            }
        ),
        correction=Correction(round(posterior.call_ms, 6)),
        device=device,
        fingerprint={"id": None, "source": dict(source or {"kind": "whole networks"})},
        held_out={**errors, "num_folds": NUM_FOLDS},
        details={
            "method": "fitted on whole networks",
            **({} if prior is None else {"prior": prior.device}),
            "num_archs": len(population),
            "deviations_percent": {name: round(100 * value, 3) for name, value in posterior.strengths.items()},
            "noise_percent": round(100 * posterior.noise, 3),
        },
    )
    return LatencyFit(table, posterior)


def read_latencies(csv_path: Path | str, space: SearchSpace) -> tuple[Population, Floats]:
    """Architectures and latencies of a CSV file with the columns ``arch`` (JSON) and ``latency_ms``.

    Raises:
        FitError: If a column is missing, or a line is not what it should be; it names the line.
    """
    path = Path(csv_path)
    try:
        table = pd.read_csv(path, dtype={"arch": str})
    except FileNotFoundError:
        raise FitError(f"no file {path}; give a CSV file with the columns arch and latency_ms") from None
    except (ValueError, OverflowError) as error:
        raise FitError(f"{path} is not a CSV file ({error}); its columns must be arch and latency_ms") from None
    for column in ("arch", "latency_ms"):
        if column not in table:
            raise FitError(f"{path} has no column {column!r}, but {', '.join(map(repr, table.columns))}; rename it")
    archs = []
    for line, text in enumerate(table["arch"], start=2):
        try:
            archs.append(Arch.from_json(text))
            space.to_population(archs[-1:])
        except SpaceError as error:
            raise FitError(f"{path}, line {line}: arch {str(text)[:60]!r} is not of this space ({error})") from None
    latency_ms = pd.to_numeric(table["latency_ms"], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(latency_ms) & (latency_ms > 0)))
    if len(wrong):
        value = table["latency_ms"].iloc[wrong[0]]
        raise FitError(
            f"{path}, line {wrong[0] + 2}: latency_ms is {value}, not a positive number; correct or remove it"
        )
    return space.to_population(archs), latency_ms


def fit_latency_csv(
    supernet: FromSupernet, csv_path: Path | str, *, device: str, prior: LatencyTable | None = None
) -> LatencyFit:
    """:func:`fit_latency` of a CSV file; see :func:`read_latencies`."""
    population, latency_ms = read_latencies(csv_path, supernet.space)
    source = {"kind": "whole networks", "sha256": sha256_of_file(csv_path)}
    return fit_latency(supernet, population, latency_ms, device=device, source=source, prior=prior)


def _check(population: Population, latency_ms: Floats) -> None:
    if latency_ms.shape != (len(population),):
        raise FitError(
            f"there are {len(population)} architectures, but latencies of shape {latency_ms.shape}; give one for each"
        )
    wrong = np.flatnonzero(~(np.isfinite(latency_ms) & (latency_ms > 0)))
    if len(wrong):
        raise FitError(
            f"latency_ms[{wrong[0]}] is {latency_ms[wrong[0]]}, not a positive number; correct it or leave it out"
        )
    if len(latency_ms) > 1 and np.ptp(latency_ms) == 0:
        raise FitError(
            f"all {len(latency_ms)} latencies are {latency_ms[0]:g} ms, which tells nothing apart; measure with a "
            "finer timer, or many calls at once"
        )
    num = len(np.unique(population, axis=0))
    if num < MIN_ARCHS:
        raise FitError(f"{num} different architectures are too few; measure at least {MIN_ARCHS}, better 100")


# -- the parts of a space ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """All parts of a space, and what they have in common.

    Args:
        keys: Of the ``K`` parts.
        costs: What the prior is made of, shape ``(K, C)``.
        families: Family of deviations -> number of the deviation that each part has of it, -1 for none, and how much of
            it, each of shape ``(K,)``.
    """

    space: SearchSpace
    slots: Sequence[SlotLike]
    keys: list[str]
    costs: Floats
    families: Mapping[str, tuple[Ints, Floats]]

    @classmethod
    def of(cls, supernet: FromSupernet, prior: LatencyTable | None = None) -> _Parts:
        space, slots = supernet.space, supernet.slots
        elsewhere = None if prior is None else _part_ms(prior, space)
        # Places that cannot be measured alone have factors too, but no slot.
        factors = [iter(supernet.factors(name)) for name in ("macs", "params")]
        keys: dict[str, int] = {}
        costs: list[list[float]] = []
        labels: list[dict[str, Any]] = []
        resolutions: list[float] = []
        for slot in slots:
            arrays = [next(array for dims, array in each if dims == slot.dims) for each in factors]
            found, first = np.unique(slot.keys.ravel().astype(str), return_index=True)
            for key, position in zip(found.tolist(), first.tolist(), strict=True):
                if not key or key in keys:
                    continue
                keys[key] = len(keys)
                index = np.unravel_index(position, slot.keys.shape)
                costs.append([1.0, *(float(array[index]) for array in arrays)])
                if elsewhere is not None:
                    costs[-1].append(elsewhere[key])
                own = {dim: space[dim].values[i] for dim, i in zip(slot.dims, index, strict=True)}
                resolutions.append(float(own.pop("resolution", 0)))
                labels.append(_labels(slot, own, resolutions[-1]))
        families: dict[str, tuple[Ints, Floats]] = {}
        for family in dict.fromkeys(name for each in labels for name in each):
            deviation, _ = pd.factorize(pd.Series([each.get(family) for each in labels], dtype=object))
            families[family] = deviation, np.ones(len(keys))
        logarithm = np.log(np.maximum(resolutions, 1.0))
        spread = logarithm.std()
        trend = (logarithm - logarithm.mean()) / spread if spread > 0 else np.zeros(len(keys))
        families["trend of a stage"] = families["stage"][0], trend
        return cls(space, slots, list(keys), np.array(costs), families)

    def numbers(self, population: Population) -> Ints:
        """Numbers of the parts of ``(N, D)`` architectures, shape ``(N, S)``; -1 where nothing stands."""
        position = {key: number for number, key in enumerate(self.keys)} | {"": -1}
        columns = []
        for slot in self.slots:
            of_slot = np.array([position[key] for key in slot.keys.ravel().tolist()]).reshape(slot.keys.shape)
            columns.append(of_slot[tuple(population[:, self.space.column(dim)] for dim in slot.dims)])
        return np.stack(columns, axis=1)

    def sums(self, values: Floats, population: Population) -> Floats:
        """Sums over the parts of each architecture of ``(K, F)`` values, shape ``(N, F)``."""
        numbers = self.numbers(population)
        padded = np.vstack([values, np.zeros((1, values.shape[1]))])  # number -1 is the last: nothing
        total: Floats = padded[numbers].sum(axis=1)
        return total


def _part_ms(table: LatencyTable, space: SearchSpace) -> dict[str, float]:
    """What each part adds to a network on the table's device."""
    if table.space != space:
        raise FitError(f"the prior, the table of device {table.device!r}, is of another space; give one of this space")
    found = {
        key: float(ms)
        for slot in table.slots
        for key, ms in zip(slot.keys.ravel().tolist(), table.in_network_ms(slot).ravel().tolist(), strict=True)
        if key
    }
    missing = next((key for key, ms in found.items() if math.isnan(ms)), None)
    if missing is not None:
        raise FitError(f"the prior, the table of device {table.device!r}, has no block {missing!r}; {REMEDY}")
    return found


def _labels(slot: SlotLike, own: Mapping[str, Any], resolution: float) -> dict[str, Any]:
    """What a part has in common with others, by family."""
    stage = stage_of(slot)
    own = {dim.rpartition(".")[2]: value for dim, value in own.items() if not dim.endswith(".depth")}
    # Parts of later places in a stage have the keys of the second; the first often differs (stride, channels).
    place = (stage, slot.name)
    labels: dict[str, Any] = {"stage": stage, "place": place, "resolution": resolution}
    for kind, value in own.items():
        labels[kind] = value
        labels[f"{kind} of a stage"] = (stage, value)
    if len(own) > 1:
        labels["choice"] = (place, *own.items())
    return labels


# -- the fit -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Posterior:
    """A linear Gaussian model: ``features @ weights``, weights of mean 0 and variance 1 before anything is measured.

    Args:
        prior_ms: Of each part.
        prior_call_ms: Of a network, beside its parts.
        part_ms: Of each part: the prior, and its mean deviation.
        call_ms: Likewise.
        strengths: Standard deviation of each family, relative to the prior.
        noise: Standard deviation of a measurement, relative to the latency.
        covariance: Of the weights, shape ``(F, F)``.
    """

    parts: _Parts
    prior_ms: Floats
    prior_call_ms: float
    part_ms: Floats
    call_ms: float
    strengths: Mapping[str, float]
    noise: float
    covariance: Floats

    def predict_ms(self, population: Population) -> Floats:
        """Latencies of networks, shape ``(N,)``."""
        return self.parts.sums(self.part_ms[:, None], population)[:, 0] + self.call_ms

    def features(self, population: Population) -> Floats:
        """Of networks, relative to their prior latency, shape ``(N, F)``."""
        blocks = _family_sums(self.parts, self.prior_ms, self.prior_call_ms, population)
        total = self.parts.sums(self.prior_ms[:, None], population) + self.prior_call_ms
        return np.hstack([self.strengths[name] * block for name, block in blocks.items()]) / total


def _family_sums(parts: _Parts, prior_ms: Floats, call_ms: float, population: Population) -> dict[str, Floats]:
    """For each family, what the prior says that a network's parts with each deviation take together; and the call."""
    numbers = parts.numbers(population)
    rows = np.arange(len(population))[:, None]
    blocks = {}
    for name, (deviation, amount) in parts.families.items():
        total = np.zeros((len(population), deviation.max() + 2))  # the last is of what deviates in no such way
        np.add.at(total, (rows, np.append(deviation, -1)[numbers]), np.append(prior_ms * amount, 0.0)[numbers])
        blocks[name] = total[:, :-1]
    return blocks | {CALL: np.full((len(population), 1), call_ms)}


def _fit(parts: _Parts, population: Population, measured_ms: Floats) -> _Posterior:
    prior_ms, call_ms = _prior(parts, population, measured_ms)
    blocks = _family_sums(parts, prior_ms, call_ms, population)
    scaled = {name: block / measured_ms[:, None] for name, block in blocks.items()}
    target = 1 - (parts.sums(prior_ms[:, None], population)[:, 0] + call_ms) / measured_ms
    strengths, noise = _most_probable(list(scaled.values()), target)
    by_name = dict(zip(scaled, strengths.tolist(), strict=True))
    features = np.hstack([by_name[name] * block for name, block in scaled.items()])
    variances = np.full(len(target), noise**2)
    deviations = _deviations(parts, by_name)
    is_least = np.zeros(len(deviations), dtype=bool)
    while True:
        # With few networks the dual is the small system; the posterior of the weights follows from it.
        factor = cho_factor(features @ features.T + np.diag(variances))
        weights = features.T @ cho_solve(factor, target)
        shares = 1 + deviations @ weights
        falls = (shares < MIN_SHARE_OF_PRIOR) & ~is_least
        if not falls.any():
            break
        # Parts that would be nearly free are known to take the least: what that leaves unexplained, others explain.
        is_least |= falls
        features = np.vstack([features, deviations[falls]])
        target = np.append(target, np.full(falls.sum(), MIN_SHARE_OF_PRIOR - 1))
        variances = np.append(variances, np.full(falls.sum(), LEAST_VARIANCE))
    covariance = np.eye(features.shape[1]) - features.T @ cho_solve(factor, features)
    posterior_ms = np.append(prior_ms, call_ms) * np.maximum(shares, MIN_SHARE_OF_PRIOR)
    return _Posterior(parts, prior_ms, call_ms, posterior_ms[:-1], float(posterior_ms[-1]), by_name, noise, covariance)


def _deviations(parts: _Parts, strengths: Mapping[str, float]) -> Floats:
    """What the weights of :class:`_Posterior` make of each part and, last, of the call, relative to its prior.

    Returns:
        Shape ``(K + 1, F)``.
    """
    blocks = []
    for name, (deviation, amount) in parts.families.items():
        block = np.zeros((len(deviation) + 1, deviation.max() + 2))  # the last column: what deviates in no such way
        block[np.arange(len(deviation)), deviation] = strengths[name] * amount
        blocks.append(block[:, :-1])
    of_call = np.zeros((len(blocks[0]), 1))
    of_call[-1] = strengths[CALL]
    return np.hstack([*blocks, of_call])


def _prior(parts: _Parts, population: Population, measured_ms: Floats) -> tuple[Floats, float]:
    """Latency of each part from its costs alone, and of the call."""
    costs = parts.sums(parts.costs, population)
    scale = costs.max(axis=0)
    features = np.hstack([costs / scale, np.ones((len(costs), 1))]) / measured_ms[:, None]
    coefficients, _ = nnls(features, np.ones(len(costs)))
    part_ms = parts.costs @ (coefficients[:-1] / scale)
    # A prior of nothing could not deviate either.
    floor = 1e-3 * measured_ms.mean() / len(parts.slots)
    return np.maximum(part_ms, floor), float(coefficients[-1])


def _most_probable(blocks: Sequence[Floats], target: Floats) -> tuple[Floats, float]:
    """Strengths of the families and of the noise that make the measurements, and themselves, most probable."""
    identity = np.eye(len(target))
    terms = [*(block @ block.T for block in blocks), identity]
    likely = np.log([*[LIKELY_STRENGTH**2] * len(blocks), LIKELY_NOISE**2])

    def negative_log_posterior(logarithms: Floats) -> tuple[float, Floats]:
        variances = np.exp(logarithms)
        total = sum(variance * term for variance, term in zip(variances, terms, strict=True))
        factor = cho_factor(total, lower=True)
        alpha, far = cho_solve(factor, target), (logarithms - likely) / WIDTH
        value = 0.5 * target @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * far @ far
        slope = cho_solve(factor, identity) - np.outer(alpha, alpha)
        slopes = 0.5 * variances * [np.vdot(slope, term) for term in terms] + far / WIDTH
        return float(value), slopes

    bounds = [tuple(np.log(STRENGTHS))] * len(blocks) + [tuple(np.log(NOISES))]
    options = {"maxiter": 60, "ftol": 1e-6}
    best = minimize(negative_log_posterior, likely, jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    deviations = np.sqrt(np.exp(best.x))
    return deviations[:-1], float(deviations[-1])
