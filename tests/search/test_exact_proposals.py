"""Exact search beside NSGA-II, at predicted values."""

from __future__ import annotations

import numpy as np
import pytest

from ofa.cost import CostModel, Factor
from ofa.search import Constraint, hypervolume
from ofa.search.bucket_elimination import exact_front, gap
from ofa.search.exact_proposals import exact_proposals, search_predicted
from ofa.search.methods.nsga2 import nsga2
from ofa.search.pareto import Evaluations
from ofa.search.predictors import PREDICTORS, Features
from ofa.search.predictors.ridge import additive
from ofa.search.problem import Problem
from ofa.space import Dim, SearchSpace

from .small import random_sum, stages
from .world import SumCost, World, make_space


class Case:
    """A world, its latency as a sum of factors, and what a predictor learnt from 150 of its architectures."""

    def __init__(self, predictor="ridge", constraints=(), statistics=()):
        self.world = World(make_space())
        space = self.world.space
        self.latency = additive(space, self.world.costs_ms, 0.0)
        self.problem = Problem(
            space, 2, {1: self.world.predict_ms}, constraints, statistics=statistics, sums={1: self.latency}
        )
        rng = np.random.default_rng(0)
        population = space.sample_population(150, rng)
        errors = 100 - self.world.exact_top1(population) + rng.normal(0, 0.1, 150)
        features = Features(space, statistics)
        self.predictor = PREDICTORS[predictor](features).fit(population, errors)
        self.evolved = nsga2(self.problem, self.values, rng=rng, population_size=50, num_generations=10)

    def values(self, population):
        return np.column_stack([self.predictor.predict(population), self.world.predict_ms(population)])

    def proposals(self):
        return exact_proposals(self.problem, self.values, self.evolved)


def test_of_a_predictor_that_is_a_sum_they_are_the_front():
    """The sum that comes nearest is the predictor itself, up to the pull of its ridge."""
    case = Case()
    found = case.proposals()
    assert np.array_equal(found.values, case.values(found.population))
    far = gap(found.values[:, ::-1], exact_front(case.latency, case.predictor.as_sum).values)
    assert far.hypervolume_percent > 99.9 and far.largest < 0.01


@pytest.mark.parametrize("predictor", ["ridge", "gaussian_process", "gradient_boosting"])
def test_beside_any_predictor_they_add_to_what_was_found(predictor):
    case = Case(predictor, statistics=(SumCost(make_space()).predict,))
    found = case.proposals()
    reference = case.evolved.values.max(axis=0)
    both = np.concatenate([case.evolved.values, found.values])
    assert hypervolume(both, reference) > 1.0001 * hypervolume(case.evolved.values, reference)


def test_with_limits_of_sums_the_best_within_each_of_some_budgets():
    limit = random_sum(make_space(), [(name,) for name in make_space().names], 3)
    case = Case(constraints=[Constraint("macs", limit, 8.0)])
    found = case.proposals()
    assert 4 < len(found.population) <= 12
    assert (limit.predict(found.population) <= 8.0).all()
    for error, latency_ms in found.values:
        evolved = case.evolved.values[case.evolved.values[:, 1] <= latency_ms]
        assert error <= evolved[:, 0].min(initial=np.inf) + 0.01


def test_maxima_are_kept_within_their_limit():
    most = random_sum(make_space(), [(name,) for name in make_space().names], 3, reduce="max")
    limit = float(np.quantile(most.predict(make_space().sample_population(500, np.random.default_rng(0))), 0.3))
    case = Case(constraints=[Constraint("peak", most, limit)])
    found = case.proposals()
    assert len(found.population) > 20 and (most.predict(found.population) <= limit).all()


def test_nothing_is_proposed_where_nothing_is_exact():
    assert not len(Case(constraints=[Constraint("size", SumCost(make_space()), 1e5)]).proposals().population)
    case = Case()
    for other in (
        Problem(case.world.space, 2, case.problem.free),
        Problem(case.world.space, 3, case.problem.free, sums=case.problem.sums),
        Problem(case.world.space, 2, {0: case.latency.predict, 1: case.latency.predict}, sums=case.problem.sums),
    ):
        assert not len(exact_proposals(other, case.values, case.evolved).population)
    space = SearchSpace(tuple(Dim(f"d{number}", tuple(range(9))) for number in range(8)))
    wide = random_sum(space, [(a, b) for a in space.names for b in space.names if a < b], 0)
    population = space.sample_population(100, np.random.default_rng(0))
    values = np.column_stack([-wide.predict(population), wide.predict(population)])
    problem = Problem(space, 2, {1: wide.predict}, sums={1: wide})
    assert not len(exact_proposals(problem, lambda archs: values, Evaluations(population, values)).population)


def test_a_search_at_predicted_values_says_how_far_nsga2_was():
    case = Case()
    known = case.world.space.sample_population(5, np.random.default_rng(0))
    settings = {"initial": known, "population_size": 40, "num_generations": 5}
    found, far = search_predicted(case.problem, case.values, rng=np.random.default_rng(1), **settings)
    alone = nsga2(case.problem, case.values, rng=np.random.default_rng(1), **settings)
    reference = alone.values.max(axis=0)
    assert hypervolume(found.values, reference) > 1.005 * hypervolume(alone.values, reference)
    assert far.hypervolume_percent < 99.9 and far.largest > far.mean > 0
    without = Problem(case.problem.space, 2, case.problem.free)
    again, nothing = search_predicted(without, case.values, rng=np.random.default_rng(1), **settings)
    assert nothing is None and np.array_equal(again.population, alone.population)


def test_gap_by_hand():
    exact = np.array([[1.0, 9.0], [2.0, 4.0], [4.0, 1.0]])
    assert gap(exact, exact) == (100.0, 0.0, 0.0)
    # Up to (5, 9): 15 + 3 of 3 * 5 + 1 * 3 = 18, of which (3, 5) has 8 and (5, 2) has nothing.
    found = np.array([[3.0, 5.0], [5.0, 2.0], [5.0, 3.0]])
    assert gap(found, exact) == pytest.approx((100 * 8 / 18, 1.0, 1.0))
    small = stages()
    front = exact_front(small.cost, small.value).values
    assert gap(front[::3], front).largest == 0  # each of its points is as good as can be
    assert gap(front[::3], front).hypervolume_percent < 100


def test_ridge_as_a_sum():
    case = Case()
    population = case.world.space.sample_population(50, np.random.default_rng(5))
    assert case.predictor.as_sum.predict(population) == pytest.approx(case.predictor.predict(population))
    assert PREDICTORS["ridge"](Features(case.world.space)).as_sum is None
    assert Case(statistics=(case.world.predict_ms,)).predictor.as_sum is None


def test_a_cost_that_was_not_measured_everywhere_is_no_obstacle():
    case = Case()
    factors = [Factor(factor.dims, factor.array.copy()) for factor in case.latency.factors]
    next(factor for factor in factors if factor.dims == ("resolution",)).array[0] = np.nan
    case.problem.sums[1] = CostModel(case.world.space, factors, name="latency")
    found = case.proposals()
    assert len(found.population) and (found.population[:, 0] > 0).all()
