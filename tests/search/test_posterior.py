"""What evaluated subnets are believed to be worth: bounds and means by hand, and how often an interval holds."""

from __future__ import annotations

import numpy as np
import pytest

from ofa.metrics import PSNR, TOP1
from ofa.search.posterior import OWN_NOISE, Posterior, posterior
from ofa.search.predictors import Features
from ofa.space import SearchSpace

from .world import World

NUM_IMAGES = 400


def test_its_numbers_are_those_of_the_draws() -> None:
    draws = np.array([[90.0, 80.0, 97.0], [92.0, 91.0, 99.0], [91.0, 93.0, 98.0]])
    found = Posterior(TOP1, draws, np.array([1.0, 0.0, 4.0]))
    assert found.means == pytest.approx([91.0, 88.0, 98.0])
    reach = 1.644854 * np.sqrt(2 / 3 + 1)
    assert found.intervals()[0] == pytest.approx([91 - reach, 91 + reach])
    assert found.intervals()[2, 1] == 100.0  # no share is more
    assert found.chances_worse(0).tolist() == pytest.approx([0, 2 / 3, 0])
    assert found.of(np.array([False, True, True])).means == pytest.approx([88.0, 98.0])


def test_less_is_better_where_the_metric_says_so() -> None:
    errors = TOP1.__class__(quantity="error", unit="", title="e", symbol="", higher_is_better=False, perfect=0.0)
    draws = np.array([[1.0, 2.0], [2.0, 1.5], [1.0, 3.0]])
    assert Posterior(errors, draws, np.zeros(2)).chances_worse(0).tolist() == pytest.approx([0, 2 / 3])


def judged(space: SearchSpace, seed: int) -> tuple[Posterior, np.ndarray, np.ndarray]:
    """Of 80 subnets, of which each is lucky by itself and all are lucky together; the truth and what was seen."""
    world, rng = World(space), np.random.default_rng(seed)
    population = np.unique(space.sample_population(80, rng), axis=0)
    truth = world.exact_top1(population)
    variance = TOP1.variances(np.array([[truth.mean(), NUM_IMAGES]]))[0]
    own = np.sqrt(OWN_NOISE * variance) * rng.standard_normal(len(truth))
    seen = truth + own + np.sqrt((1 - OWN_NOISE) * variance) * rng.standard_normal()
    rows = np.column_stack([seen, np.full(len(seen), NUM_IMAGES)])
    return posterior(TOP1, Features(space), population, rows, rng=rng), truth, seen


def test_the_best_promises_the_truth_within_its_interval(space: SearchSpace) -> None:
    """The lucky maximum promises too much; intervals of 90 % hold for about as many."""
    promised, lucky, holds = [], [], []
    for seed in range(20):
        found, truth, seen = judged(space, seed)
        shared = np.mean(seen - truth)  # which nobody can know
        best, luckiest = int(np.argmax(found.means)), int(np.argmax(seen))
        promised.append(found.means[best] - shared - truth[best])
        lucky.append(seen[luckiest] - shared - truth[luckiest])
        low, high = found.intervals().T
        holds.append(np.mean((low <= truth) & (truth <= high)))
    error = np.std(promised, ddof=1) / np.sqrt(len(promised))
    assert abs(np.mean(promised)) < 2.5 * error < np.mean(lucky)
    assert 0.75 < np.mean(holds) <= 1


def test_without_noise_it_is_what_was_measured(space: SearchSpace) -> None:
    """A metric whose interval is a point, and a single subnet, and none."""
    population = np.unique(space.sample_population(20, np.random.default_rng(0)), axis=0)
    values = np.linspace(20, 30, len(population))
    rows = np.column_stack([values, np.full(len(values), 10), values, values])
    for num in (len(population), 1, 0):
        found = posterior(PSNR, Features(space), population[:num], rows[:num], rng=np.random.default_rng(0))
        assert found.means == pytest.approx(values[:num])
        assert found.intervals() == pytest.approx(np.column_stack([values, values])[:num])
