from __future__ import annotations

import numpy as np
import pytest

import ofa.search.problem
from ofa.search.problem import Constraint, InfeasibleError, Problem, descend

from .world import SumCost


@pytest.fixture
def macs(space):
    return SumCost(space)


def limited(space, macs, limit):
    return Problem(space, 2, constraints=[Constraint.of(space, "macs", macs, limit)])


def test_a_limit_is_a_number_or_a_share_of_the_largest(space, macs):
    largest = macs.predict(space.to_population(space.largest()))[0]
    assert Constraint.of(space, "macs", macs, "60%").limit == pytest.approx(0.6 * largest)
    assert Constraint.of(space, "macs", macs, " 12.5 % ").limit == pytest.approx(0.125 * largest)
    assert Constraint.of(space, "macs", macs, "5e3").limit == Constraint.of(space, "macs", macs, 5000).limit == 5000


@pytest.mark.parametrize("limit", ["much", "%", "-1", 0, float("nan"), "inf", ""])
def test_other_limits_are_refused(space, macs, limit):
    with pytest.raises(ValueError, match="the limit of macs is a positive number, or a share"):
        Constraint.of(space, "macs", macs, limit)


@pytest.mark.parametrize("limit", ["80%", "40%", "20%"])
def test_samples_are_feasible_and_new(space, macs, limit):
    problem, seen = limited(space, macs, limit), set()
    first = problem.sample(50, np.random.default_rng(0), seen)
    second = problem.sample(50, np.random.default_rng(0), seen)
    both = np.concatenate([first, second])
    assert problem.is_feasible(both).all()
    assert len(np.unique(both, axis=0)) == len(both) == len(seen) == 100


def test_a_needle_is_found(space, macs):
    """One architecture in two million is feasible: the smallest."""
    problem = limited(space, macs, 1000)
    found = problem.sample(5, np.random.default_rng(0), set())
    assert np.array_equal(found, space.to_population(space.smallest()))
    assert len(problem.sample(5, np.random.default_rng(0), set(space.row_keys(found).tolist()))) == 0


def test_nothing_feasible_names_the_nearest(space, macs):
    with pytest.raises(InfeasibleError, match=r"no architecture has macs <= 999; the nearest has macs = 1000") as error:
        limited(space, macs, 999).sample(5, np.random.default_rng(0), set())
    assert error.value.nearest == {"macs": 1000.0}


def test_initial_architectures_are_spread_over_the_cost(space, world):
    problem = Problem(space, 2, {1: world.predict_ms})
    latency_ms = world.predict_ms(problem.spread_sample(40, np.random.default_rng(0), set()))
    random_ms = world.predict_ms(space.sample_population(40, np.random.default_rng(0)))
    assert len(latency_ms) == 40
    assert np.ptp(latency_ms) > 1.3 * np.ptp(random_ms)
    gaps = np.diff(np.sort(np.log(latency_ms)))
    assert gaps.max() < 0.35 * gaps.sum()


def test_descending_finds_what_is_not_the_smallest(space, world, monkeypatch):
    world.costs_ms = np.random.default_rng(3).uniform(0.05, 0.3, len(world.costs_ms))
    monkeypatch.setattr(ofa.search.problem, "DESCENDING_FROM", 10)
    arch, latency_ms = descend(space, world.predict_ms, np.random.default_rng(0))
    every = space.sample_population(20_000, np.random.default_rng(1))
    assert latency_ms == pytest.approx(world.predict_ms(arch)[0])
    assert latency_ms <= world.predict_ms(every).min() < world.predict_ms(space.to_population(space.smallest()))[0]
