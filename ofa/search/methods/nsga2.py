"""NSGA-II over integer architectures (Deb et al. 2002)."""

from __future__ import annotations

import numpy as np

from ofa.search.pareto import Evaluations, best_first
from ofa.search.problem import Evaluate, Problem, Proposals, carry_out
from ofa.search.sampling import MAX_ROUNDS, take_unseen
from ofa.space import Population

MUTATION_PROBABILITY = 0.1  # of each dim, as in once-for-all's finder


def nsga2_search(
    problem: Problem,
    known: Evaluations,
    num: int,
    rng: np.random.Generator,
    *,
    population_size: int | None = None,
) -> Proposals:
    """Crowded binary tournament, uniform crossover, mutation, survival of the best ranks and loneliest points.

    Args:
        population_size: A tenth of ``num`` unless told, at least 20 and at most 200.

    References:
        Deb et al. 2002. Its libraries compare individuals one by one in Python; here mating works on arrays, ranks come
        from compiled code, an architecture counts as a duplicate of anything evaluated in any generation, and
        infeasible children are not evaluated.
    """
    size = population_size or int(np.clip(num // 10, 20, 200))
    seen = known.keys(problem.space)
    alive = known.take(best_first(known.values)[:size])
    proposed = problem.spread_sample(max(size - len(alive.population), 0), rng, seen)
    while True:
        if len(proposed):
            everyone = alive.and_((yield proposed))
            alive = everyone.take(best_first(everyone.values)[:size])
        proposed = children_of(problem, alive.population, size, rng, seen)
        if not len(proposed):
            return


def children_of(
    problem: Problem, parents: Population, num: int, rng: np.random.Generator, seen: set[bytes]
) -> Population:
    """New feasible architectures from parents that stand in the order of their fitness."""
    space = problem.space
    children = space.to_population([])
    for _ in range(MAX_ROUNDS):
        missing = num - len(children)
        if missing <= 0 or len(seen) >= space.num_archs:
            break
        winners = rng.integers(len(parents), size=(2, missing, 2)).min(axis=-1)  # the lesser position is the fitter
        crossed = space.crossover(parents[winners[0]], parents[winners[1]], rng)
        mutated = space.mutate(crossed, rng, probability=MUTATION_PROBABILITY)
        feasible = mutated[problem.is_feasible(mutated)] if problem.constraints else mutated
        children = np.concatenate([children, take_unseen(space, feasible, seen)])
    return children


def nsga2(
    problem: Problem,
    evaluate: Evaluate,
    *,
    rng: np.random.Generator,
    population_size: int = 200,
    num_generations: int = 40,
    initial: Population | None = None,
) -> Evaluations:
    """Search the Pareto front of what is fast to evaluate; no architecture is evaluated twice.

    Args:
        evaluate: Maps ``(N, D)`` architectures to ``(N, M)`` values to minimise.
        num_generations: The initial population counts as one. The search also ends when nothing new is found.
        initial: Architectures to begin with; random ones fill up to ``population_size``.

    Returns:
        Every evaluated architecture, not only the last generation: take its :meth:`~Evaluations.front`.
    """
    space, num = problem.space, population_size * num_generations
    given = take_unseen(space, space.to_population([] if initial is None else initial)[:num], set())
    known = Evaluations(given, evaluate(given) if len(given) else np.empty((0, problem.num_objectives)))
    proposals = nsga2_search(problem, known, num, rng, population_size=population_size)
    return known.and_(*carry_out(proposals, evaluate, num - len(given)))
