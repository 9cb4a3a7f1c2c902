"""Integer programs against listing the whole space."""

from __future__ import annotations

import numpy as np
import pytest

from ofa.errors import UsageError
from ofa.search import Constraint, InfeasibleError
from ofa.search.bucket_elimination import exact_front
from ofa.search.integer_program import exact_best
from ofa.search.problem import Dearest, Problem
from ofa.space import Dim, SearchSpace

from .small import SMALL, random_sum, stages

LIMITS = ["one sum", "two sums", "two sums and a maximum", "a maximum"]


def limits_of(small, kind, share):
    every = small.every()
    of = lambda name, cost: Constraint(name, cost, float(np.quantile(cost.predict(every), share)))  # noqa: E731
    found = [of("latency", small.cost), of("macs", small.other), of("peak", small.most)]
    return {"one sum": found[:1], "two sums": found[:2], "two sums and a maximum": found, "a maximum": found[2:]}[kind]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize("share", [0.5, 0.7])
def test_is_the_best_of_the_whole_space(name, kind, share):
    small = SMALL[name]()
    limits = limits_of(small, kind, share)
    every = small.every()
    best = small.value.predict(every[Problem(small.space, 1, constraints=limits).is_feasible(every)]).min()
    found = exact_best(small.value, limits)
    assert found.value == pytest.approx(best) and found.bound == pytest.approx(best)
    assert found.value == small.value.predict(found.population)[0]
    assert np.array_equal(found.population, small.space.to_population(found.population))
    for limit in limits:
        assert limit.cost.predict(found.population)[0] <= limit.limit * (1 + 1e-9)


def test_a_limit_on_each_of_two_devices():
    small = stages()
    costs = [small.cost, small.other]
    limit = float(np.quantile(np.max([cost.predict(small.every()) for cost in costs], axis=0), 0.3))
    both = exact_best(small.value, [Constraint(str(number), cost, limit) for number, cost in enumerate(costs)])
    assert exact_best(small.value, [Constraint("fleet", Dearest(costs), limit)]).value == both.value


def test_is_the_front_budget_by_budget():
    small = stages(4)
    front = exact_front(small.cost, small.value)
    for budget, best in front.values[::7]:
        found = exact_best(small.value, [Constraint("latency", small.cost, float(budget))])
        assert found.value == pytest.approx(best)


def test_where_eliminating_dims_is_too_much():
    """Every two dims share a factor: the program holds them all, and its bound is right before it is solved."""
    space = SearchSpace(tuple(Dim(f"d{number}", tuple(range(4))) for number in range(7)))
    pairs = [(a, b) for a in space.names for b in space.names if a < b]
    cost, value = random_sum(space, pairs, 0), random_sum(space, pairs, 1)
    every = space.every()
    costs, values = cost.predict(every), value.predict(every)
    limit = float(np.quantile(costs, 0.2))
    best = values[costs <= limit].min()
    assert exact_best(value, [Constraint("cost", cost, limit)]).value == pytest.approx(best)
    early = exact_best(value, [Constraint("cost", cost, limit)], max_nodes=1)
    assert early.bound <= best + 1e-9 and early.value >= best - 1e-9


def test_nothing_within_the_limits_names_the_nearest():
    small = stages()
    limits = limits_of(small, "two sums", 0.5)
    limits[1] = Constraint("macs", small.other, 1e-3)
    with pytest.raises(InfeasibleError, match=r"no architecture has latency <= [\d.]+, macs <= 0.001; the nearest has"):
        exact_best(small.value, limits)
    with pytest.raises(InfeasibleError, match=r"peak <= 0\.001"):
        exact_best(small.value, [Constraint("peak", small.most, 1e-3)])


def test_refuses_what_has_no_factors():
    small = stages()
    with pytest.raises(UsageError, match="the limit of macs is of no sum or maximum of factors"):
        exact_best(small.value, [Constraint("macs", Problem(small.space, 1), 1.0)])
