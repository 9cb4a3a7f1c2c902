"""Local search: the neighbours of what is best so far."""

from __future__ import annotations

import numpy as np

from ofa.search.pareto import Evaluations, crowding
from ofa.search.problem import Problem, Proposals
from ofa.search.sampling import take_unseen
from ofa.space import Population

INITIAL_SHARE = 0.2
STEPS = 2  # neighbours of one member at a time


def local_search(problem: Problem, known: Evaluations, num: int, rng: np.random.Generator) -> Proposals:
    """Propose neighbours (one dim changed) of the front's members, the loneliest first.

    References:
        White et al., Local Search is State of the Art for NAS Benchmarks, arXiv:2005.02960; several objectives by
        Pareto local search (Paquete et al. 2004). Ours visits a member's neighbours in random order, a few at a time.
    """
    seen = known.keys(problem.space)
    missing = max(int(num * INITIAL_SHARE), 2) - len(known.population)
    if missing > 0:
        known = known.and_((yield problem.spread_sample(missing, rng, seen)))
    while len(proposed := around_front(problem, known, max(num // 50, 4), seen, rng)):
        known = known.and_((yield proposed))


def around_front(
    problem: Problem, known: Evaluations, num: int, seen: set[bytes], rng: np.random.Generator
) -> Population:
    """About ``num`` neighbours that are not in ``seen``, which they are added to; random ones where all are."""
    front = known.front()
    proposed = problem.space.to_population([])
    for position in np.argsort(-crowding(front.values), kind="stable"):
        around = problem.space.neighbours(front.population[[position]])
        around = around[rng.permutation(len(around))]
        around = take_unseen(problem.space, around[problem.is_feasible(around)], seen, limit=STEPS)
        proposed = np.concatenate([proposed, around])
        if len(proposed) >= num:
            return proposed
    return proposed if len(proposed) else problem.sample(num, rng, seen)
