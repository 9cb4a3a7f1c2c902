"""A supernet that is known picture by picture, of which a search sees a sample: how lucky evaluations mislead it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.search import hypervolume, search
from ofa.space import Dim, Population, SearchSpace

Floats = npt.NDArray[np.float64]

OBJECTIVES = ("top1_error_percent", "latency_ms")
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
        """True hypervolume of the picks as a share of the best possible, in percent."""
        sample = self.supernet.right[:, _sample(self.num_pictures, seed)]
        seen_percent = 100 * sample.mean(axis=1)
        started = time.process_time()
        rows = self._search(method, num, seed, seen_percent)
        picks = self._picks(rows, seen_percent)
        seconds = time.process_time() - started
        share = 100 * self._hypervolume(picks) / self._hypervolume(self._best(range(len(seen_percent))))
        return {"hypervolume_share_percent": round(share, 4), "cpu_seconds": round(seconds, 2)}

    def _search(self, method: str, num: int, seed: int, seen_percent: Floats) -> list[int]:
        space = self.supernet.space
        row_of = {key: row for row, key in enumerate(space.row_keys(self.supernet.population).tolist())}

        def rows_of(population: Population) -> list[int]:
            return [row_of[key] for key in space.row_keys(population).tolist()]

        def latency_ms(population: Population) -> Floats:
            return self.supernet.latency_ms[rows_of(population)]

        found = search(
            space,
            lambda archs: np.column_stack([100 - seen_percent[rows_of(archs)], latency_ms(archs)]),
            num_evaluations=num,
            method=method,
            seed=seed,
            objectives=OBJECTIVES,
            free={"latency_ms": latency_ms},
        )
        return rows_of(space.to_population(list(found["arch"])))

    def _picks(self, rows: Sequence[int], seen_percent: Floats) -> list[int]:
        return self._best(rows, seen_percent)

    def _best(self, rows: Sequence[int], percent: Floats | None = None) -> list[int]:
        """Within each budget, by what was seen or, without it, in truth."""
        worth = self.supernet.top1_percent if percent is None else percent
        within = [[row for row in rows if self.supernet.latency_ms[row] <= budget] for budget in self.budgets_ms]
        return [max(each, key=lambda row: worth[row]) for each in within if each]

    def _hypervolume(self, rows: Sequence[int]) -> float:
        return hypervolume(self.true_values[list(rows)], self.true_values.max(axis=0))


def _sample(num_pictures: int, seed: int) -> npt.NDArray[np.intp]:
    return np.random.default_rng([seed, num_pictures]).choice(NUM_PICTURES, num_pictures, replace=False)
