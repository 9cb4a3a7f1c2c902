"""What exact search proposes beside NSGA-II, where one objective is a sum of factors and the other is learnt."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ofa.cost.cost_model import CostModel
from ofa.search.bucket_elimination import Gap, TooWideError, exact_front, gap
from ofa.search.cells import has_factors, split_limits
from ofa.search.integer_program import exact_best
from ofa.search.methods.nsga2 import nsga2
from ofa.search.pareto import Evaluations
from ofa.search.predictors import Features, RidgePredictor
from ofa.search.problem import Constraint, Evaluate, Problem, Values
from ofa.search.sampling import spread
from ofa.space import Population

NUM_BUDGETS = 12
MAX_NODES = 1000


def exact_proposals(problem: Problem, predict: Evaluate, evolved: Evaluations) -> Evaluations:
    """The front of a cost and of a sum that comes near what is predicted.

    Any predictor is near a sum where it matters: a ridge regression of what it says of those that NSGA-II went
    through. So the front of the sum is exact, and what is predicted of it is judged beside the others.

    Args:
        predict: Gives all columns.
        evolved: What NSGA-II found, and its predicted values.

    Returns:
        Feasible architectures, and what is predicted of them. With limits of further sums the best within each of 12
        budgets. None where the free objective or a limit has no factors, there are not two objectives of which one is
        learnt, or factors share too many dims.
    """
    nothing = evolved.take(slice(0))
    columns = [column for column in range(problem.num_objectives) if column not in problem.free]
    if problem.num_objectives != 2 or len(columns) != 1 or 1 - columns[0] not in problem.sums:
        return nothing
    if not all(map(has_factors, problem.constraints)):
        return nothing
    value = RidgePredictor(Features(problem.space)).fit(evolved.population, evolved.values[:, columns[0]]).as_sum
    assert value is not None
    cost = problem.sums[1 - columns[0]]
    if split_limits(problem.constraints)[0]:
        population = _within_budgets(problem, cost, value, evolved.front().values[:, 1 - columns[0]])
    else:
        try:
            population = exact_front(cost, value, constraints=problem.constraints).population
        except TooWideError:
            return nothing
    population = population[problem.is_feasible(population)]  # a limit may be exceeded by a rounding
    return Evaluations(population, predict(population))


class Predicted(NamedTuple):
    """A search at predicted values.

    Attributes:
        evaluations: What NSGA-II went through the last time; the front of all that was tried is in it.
        gap: How far NSGA-II alone was from that front, where exact search proposed too: from what is best, if the
            predictor is a sum; at least so far from it otherwise.
    """

    evaluations: Evaluations
    gap: Gap | None = None


def search_predicted(
    problem: Problem, predict: Evaluate, *, rng: np.random.Generator, initial: Population, **settings: Any
) -> Predicted:
    """NSGA-II at predicted values; then what exact search proposes; then NSGA-II from the front of both.

    Args:
        predict: Gives all columns.
        settings: Of each :func:`nsga2`.
    """
    evolved = nsga2(problem, predict, rng=rng, initial=initial, **settings)
    exact = exact_proposals(problem, predict, evolved)
    if not len(exact.population):
        return Predicted(evolved)
    best = evolved.and_(exact).front()
    (column,) = problem.sums
    found, front = (values[:, [column, 1 - column]] for values in (evolved.values, best.values))
    return Predicted(nsga2(problem, predict, rng=rng, initial=best.population, **settings), gap(found, front))


def _within_budgets(problem: Problem, cost: CostModel, value: CostModel, budgets: Values) -> Population:
    """The best within each of some budgets, and within all limits."""
    found = [
        exact_best(value, [*problem.constraints, Constraint(cost.name, cost, budget)], max_nodes=MAX_NODES).population
        for budget in budgets[spread(budgets, NUM_BUDGETS)].tolist()
    ]
    return np.concatenate(found)
