from __future__ import annotations

import numpy as np
import pytest

from ofa.search.methods.nsga2 import nsga2
from ofa.search.pareto import hypervolume, non_dominated
from ofa.search.problem import Problem
from ofa.space import Dim, SearchSpace


@pytest.fixture
def objectives(world):
    return lambda population: np.column_stack([-world.exact_top1(population), world.predict_ms(population)])


def test_finds_the_whole_front_of_a_small_space():
    space = SearchSpace(tuple(Dim(f"d{number}", (1, 2, 3, 4)) for number in range(5)))  # 1,024 architectures
    every = np.stack(np.meshgrid(*[np.arange(4)] * 5), axis=-1).reshape(-1, 5)
    weights = np.random.default_rng(0).random((5, 2))
    objectives = lambda genes: (genes @ weights) * [-1, 1]  # noqa: E731
    found = nsga2(Problem(space, 2), objectives, rng=np.random.default_rng(0), population_size=80, num_generations=10)
    truth = objectives(every)
    truth = truth[non_dominated(truth)]
    reference = np.array([0.0, 30.0])
    assert hypervolume(found.values, reference) > 0.995 * hypervolume(truth, reference)


def test_nothing_is_evaluated_twice_and_everything_is_returned(space, objectives):
    asked = []
    found = nsga2(
        Problem(space, 2),
        lambda population: asked.append(population) or objectives(population),
        rng=np.random.default_rng(0),
        population_size=40,
        num_generations=10,
        initial=np.repeat(space.to_population(space.largest()), 2, axis=0),
    )
    assert np.array_equal(found.population, np.concatenate(asked))
    assert found.values == pytest.approx(objectives(found.population))  # products of other shapes round otherwise
    assert len(np.unique(space.row_keys(found.population))) == len(found.population) == 400
    assert np.array_equal(space.to_population(found.population), found.population)
    assert np.array_equal(found.population[:1], space.to_population(space.largest()))
    front = found.front()
    assert np.array_equal(front.values, found.values[non_dominated(found.values)])


def test_the_seed_decides(space, objectives):
    runs = [
        nsga2(Problem(space, 2), objectives, rng=np.random.default_rng(seed), population_size=20, num_generations=5)
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(runs[0].population, runs[1].population)
    assert not np.array_equal(runs[0].population, runs[2].population)


@pytest.mark.parametrize("num_values", [1, 2, 7])
def test_ends_in_tiny_spaces(num_values):
    space = SearchSpace((Dim("a", tuple(range(num_values))),))
    found = nsga2(
        Problem(space, 2), lambda genes: np.hstack([genes, -genes]).astype(float), rng=np.random.default_rng(0)
    )
    assert sorted(found.population.ravel().tolist()) == list(range(num_values))


def test_three_objectives(space, objectives):
    three = lambda genes: np.column_stack([objectives(genes), genes.sum(axis=1)])  # noqa: E731
    found = nsga2(Problem(space, 3), three, rng=np.random.default_rng(0), population_size=20, num_generations=3)
    assert found.values.shape == (60, 3)


def test_prints_nothing(space, objectives, capfd):
    nsga2(Problem(space, 2), objectives, rng=np.random.default_rng(0), population_size=10, num_generations=2)
    assert capfd.readouterr() == ("", "")
