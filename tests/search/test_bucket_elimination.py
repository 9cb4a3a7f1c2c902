"""The exact front against listing the whole space, and against NSGA-II where that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa.cost import CostModel, Factor, LatencyTable
from ofa.errors import UsageError
from ofa.search import Constraint, InfeasibleError
from ofa.search.bucket_elimination import MAX_CELLS, TooWideError, exact_front
from ofa.search.methods.nsga2 import nsga2
from ofa.search.problem import Dearest, Problem
from ofa.space import Dim, SearchSpace, SpaceError

from .small import SMALL, coupled, random_sum, stages

TABLES = Path(__file__).parents[2] / "latency_tables"


def assert_is(front, expected, small):
    assert front.values == pytest.approx(expected)
    assert np.array_equal(front.population, small.space.to_population(front.population))
    assert np.array_equal(front.values[:, 0], small.cost.predict(front.population))
    assert np.array_equal(front.values[:, 1], small.value.predict(front.population))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("seed", [0, 10])
def test_is_the_front_of_the_whole_space(name, seed):
    small = SMALL[name](seed)
    expected = small.front()
    assert len(expected) > 5
    assert_is(exact_front(small.cost, small.value), expected, small)


@pytest.mark.parametrize("seed", range(4))
def test_of_equal_sums_one_is_kept(seed):
    small = stages(seed, whole=True)
    assert_is(exact_front(small.cost, small.value), small.front(), small)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_maxima_within_their_limit(name, share):
    small = SMALL[name]()
    most = small.most.predict(small.every())
    limit = float(np.quantile(most, share))
    front = exact_front(small.cost, small.value, constraints=[Constraint("peak", small.most, limit)])
    assert_is(front, small.front(most <= limit), small)
    on_two = Dearest([small.most, small.most])
    assert np.array_equal(
        exact_front(small.cost, small.value, constraints=[Constraint("peak", on_two, limit)]).values, front.values
    )


def test_nothing_within_a_limit_names_the_nearest():
    small = stages()
    least = small.most.predict(small.every()).min()
    with pytest.raises(InfeasibleError, match=r"no architecture has peak <= 0\.001; the nearest has peak = "):
        exact_front(small.cost, small.value, constraints=[Constraint("peak", small.most, 0.001)])
    assert len(exact_front(small.cost, small.value, constraints=[Constraint("peak", small.most, least)]).values)


def test_what_was_not_measured_is_in_no_front():
    small = stages()
    factors = [Factor(factor.dims, factor.array.copy()) for factor in small.cost.factors]
    factors[0].array[0] = np.nan  # the lowest resolution
    factors[-1].array[:, 1, 2, :] = np.nan
    small.cost = CostModel(small.space, factors, name="latency")
    assert_is(exact_front(small.cost, small.value), small.front(~np.isnan(small.cost.predict(small.every()))), small)
    factors[0].array[:] = np.nan
    with pytest.raises(UsageError, match="every architecture of this space holds a part that was not measured"):
        exact_front(CostModel(small.space, factors, name="latency"), small.value)


def test_a_space_without_choice():
    space = SearchSpace((Dim("only", (3,)),))
    cost = CostModel(space, [Factor((), np.array(2.0))], name="cost")
    front = exact_front(cost, CostModel(space, [Factor(("only",), np.array([5.0]))], name="value"))
    assert front.population.tolist() == [[0]] and front.values.tolist() == [[2.0, 5.0]]


@pytest.mark.parametrize("device", ["cpu-1t", "cpu-int8-1t", "openvino-1t", "executorch-1t"])
def test_nothing_that_a_search_finds_beats_the_front_of_a_device(device):
    """5e20 networks; the table of one device holds some resolutions only."""
    table = LatencyTable.load(TABLES / device / "ofa_mobilenetv3_w1.0.csv", force=True)
    error = random_sum(table.space, [(name,) for name in table.space.names], 0)
    front = exact_front(table.cost_model, error)
    assert table.predict_ms(front.population) == pytest.approx(front.values[:, 0])
    assert (np.diff(front.values[:, 0]) > 0).all() and (np.diff(front.values[:, 1]) < 0).all()

    def values(population):
        pairs = np.column_stack([table.cost_model.predict(population), error.predict(population)])
        return np.where(np.isnan(pairs).any(axis=1)[:, None], 1e9, pairs)

    start = front.population[:: max(len(front.population) // 50, 1)]
    found = nsga2(Problem(table.space, 2), values, rng=np.random.default_rng(0), initial=start).front()
    budgets = found.values[:, 0] * (1 + 1e-9)  # a sum of the same parts in another order
    best_within = front.values[np.searchsorted(front.values[:, 0], budgets, side="right") - 1, 1]
    assert (found.values[:, 1] >= best_within - 1e-9).all()


def test_refuses_what_it_cannot_do():
    small, other = stages(), coupled()
    with pytest.raises(SpaceError, match="'random' is of another space than the others"):
        exact_front(small.cost, other.value)
    with pytest.raises(UsageError, match="'random' is a maximum, not a sum; give it as a limit"):
        exact_front(small.most, small.value)
    with pytest.raises(UsageError, match="within a limit of macs, a sum, is not exact; call exact_best per budget"):
        exact_front(small.cost, small.value, constraints=[Constraint("macs", small.other, 1.0)])
    with pytest.raises(UsageError, match="the limit of macs is of no sum or maximum of factors"):
        exact_front(small.cost, small.value, constraints=[Constraint("macs", Problem(small.space, 1), 1.0)])


def test_too_many_shared_dims_are_refused():
    space = SearchSpace(tuple(Dim(f"d{number}", tuple(range(9))) for number in range(8)))
    pairs = [(a, b) for a in space.names for b in space.names if a < b]
    message = rf"4.3e\+07 combinations would be listed at once, of at most {MAX_CELLS}; call exact_best"
    with pytest.raises(TooWideError, match=message):
        exact_front(random_sum(space, pairs, 0), random_sum(space, pairs, 1))
