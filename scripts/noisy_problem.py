"""A supernet that is known picture by picture, of which a search sees a sample: how lucky evaluations mislead it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.metrics import TOP1
from ofa.search import hypervolume, search
from ofa.search.pick import pick_from_ms
from ofa.search.posterior import OWN_NOISE, posterior
from ofa.search.predictors import Features
from ofa.space import Dim, Population, SearchSpace

Floats = npt.NDArray[np.float64]

NUM_DIMS, NUM_PICTURES, TOGETHER = 7, 20_000, 1000
NUM_BUDGETS = 10
DIFFICULTY_SPREAD, TASTE_SPREAD, CHANCE_SPREAD = 1.9, 0.3, 0.35  # logits; two subnets disagree on a tenth


@dataclass(frozen=True)
class Supernet:
    """2,187 subnets, and which of 20,000 pictures each of them gets right.

    Args:
        population: Shape ``(N, D)``.
        latency_ms: Shape ``(N,)``; a sum over the dims.
        right: Shape ``(N, P)``.
    """

    space: SearchSpace
    population: Population
    latency_ms: Floats
    right: npt.NDArray[np.bool_]

    @cached_property
    def top1_percent(self) -> Floats:
        """The truth: over all pictures."""
        return 100 * self.right.mean(axis=1)


def make_supernet(seed: int = 0) -> Supernet:
    """An item response model: a picture is right where a subnet's ability exceeds the picture's difficulty.

    Abilities are additive with interactions of pairs, and larger values help more, the longer they take. Pictures have
    a difficulty that all subnets share, and a taste for some choices, which neighbours share; the rest is chance.

    References:
        Rasch 1960 (abilities and difficulties on one scale); the tastes make it multidimensional (Reckase 2009).
    """
    rng = np.random.default_rng(seed)
    space = SearchSpace(tuple(Dim(f"block{number}.kernel", (3, 5, 7)) for number in range(NUM_DIMS)))
    every = space.every()
    encoded = space.encode(every).astype(np.float32)
    encoded -= encoded.mean(axis=0)
    gains = np.sort(rng.gamma(1.5, 0.11, (NUM_DIMS, 3)), axis=1)
    pairs = rng.normal(0, 0.025, (encoded.shape[1],) * 2)
    ability = encoded @ gains.ravel() + np.einsum("nf,fg,ng->n", encoded, pairs, encoded) + 1.3
    costs = np.sort(gains * rng.lognormal(0, 0.4, (NUM_DIMS, 3)) + 0.1, axis=1)
    rows = []
    for _ in range(NUM_PICTURES // TOGETHER):
        tastes = rng.normal(0, TASTE_SPREAD, (encoded.shape[1], TOGETHER)).astype(np.float32)
        chance = rng.standard_normal((len(every), TOGETHER), dtype=np.float32) * np.float32(CHANCE_SPREAD)
        difficulty = rng.normal(0, DIFFICULTY_SPREAD, TOGETHER)
        rows.append(ability[:, None] + encoded @ tastes + chance > difficulty)
    return Supernet(space, every, space.encode(every) @ costs.ravel(), np.concatenate(rows, axis=1))


@dataclass(frozen=True)
class Noisy:
    """A search of :class:`Supernet` that sees some pictures, judged on all of them.

    The reference point is the worst of each; the budgets are spread over the latencies.
    """

    supernet: Supernet
    num_pictures: int

    @cached_property
    def budgets_ms(self) -> Floats:
        return np.quantile(self.supernet.latency_ms, np.linspace(0.02, 0.98, NUM_BUDGETS))

    @cached_property
    def true_values(self) -> Floats:
        return np.column_stack([100 - self.supernet.top1_percent, self.supernet.latency_ms])

    def run(self, method: str, num: int, seed: int) -> dict[str, Any]:
        """True hypervolume of the picks as a share of the best possible, in percent, and how true their promises are.

        Beside it the same of the luckiest within each budget, as picks of old; by how many points picks promise too
        much in the mean, but for the sample that is too easy for all; and how many of the intervals hold.
        """
        seen_percent = 100 * self.supernet.right[:, _sample(self.num_pictures, seed)].mean(axis=1)
        columns = np.column_stack([seen_percent, np.full(len(seen_percent), self.num_pictures)])
        started = time.process_time()
        rows = self._search(method, num, seed, columns)
        features = Features(self.supernet.space, (self._latency_ms,))
        found = posterior(
            TOP1, features, self.supernet.population[rows], columns[rows], rng=np.random.default_rng(seed)
        )
        first_ms = pick_from_ms(self.supernet.latency_ms[rows], found)
        seconds = time.process_time() - started
        picks = [int(np.nanargmax(np.where(first_ms <= limit, first_ms, np.nan))) for limit in self._kept(rows)]
        truth = self.supernet.top1_percent
        luckiest = self._best(rows, seen_percent)
        too_easy = np.mean(seen_percent - truth)
        low, high = found.intervals()[picks].T
        picked = [rows[pick] for pick in picks]
        numbers = {
            "hypervolume_share_percent": self._share(picked),
            "luckiest_share_percent": self._share(luckiest),
            "promised_too_much_points": np.mean(found.means[picks] - truth[picked]) - too_easy,
            "luckiest_too_much_points": np.mean(seen_percent[luckiest] - truth[luckiest]) - too_easy,
            "intervals_hold_percent": 100 * np.mean((low <= truth[picked]) & (truth[picked] <= high)),
        }
        return {name: round(float(value), 4) for name, value in numbers.items()} | {"cpu_seconds": round(seconds, 2)}

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        keys = self.supernet.space.row_keys(self.supernet.population)
        return {key: row for row, key in enumerate(keys.tolist())}

    def _rows_of(self, population: Population) -> list[int]:
        return [self._row_of[key] for key in self.supernet.space.row_keys(population).tolist()]

    def _latency_ms(self, population: Population) -> Floats:
        return self.supernet.latency_ms[self._rows_of(population)]

    def _search(self, method: str, num: int, seed: int, columns: Floats) -> list[int]:
        variances = OWN_NOISE * TOP1.variances(columns)
        found = search(
            self.supernet.space,
            lambda archs: np.column_stack([100 - columns[self._rows_of(archs), 0], self._latency_ms(archs)]),
            num_evaluations=num,
            method=method,
            seed=seed,
            free={"latency_ms": self._latency_ms},
            noise={TOP1.error_name: lambda archs: variances[self._rows_of(archs)]},
        )
        return self._rows_of(self.supernet.space.to_population(list(found["arch"])))

    def _kept(self, rows: Sequence[int]) -> Floats:
        """The budgets that any of them keeps."""
        return self.budgets_ms[self.budgets_ms >= self.supernet.latency_ms[list(rows)].min()]

    def _best(self, rows: Sequence[int], percent: Floats | None = None) -> list[int]:
        """Within each budget, by what was seen or, without it, in truth."""
        worth = self.supernet.top1_percent if percent is None else percent
        within = [[row for row in rows if self.supernet.latency_ms[row] <= budget] for budget in self._kept(rows)]
        return [max(each, key=lambda row: worth[row]) for each in within]

    def _share(self, rows: Sequence[int]) -> float:
        """Of the hypervolume of the best within each budget, in percent."""
        best = self._best(range(len(self.true_values)))
        of = [hypervolume(self.true_values[some], self.true_values.max(axis=0)) for some in (list(rows), best)]
        return 100 * of[0] / of[1]


def _sample(num_pictures: int, seed: int) -> npt.NDArray[np.intp]:
    return np.random.default_rng([seed, num_pictures]).choice(NUM_PICTURES, num_pictures, replace=False)
