"""One gene more, from the smallest up."""

from __future__ import annotations

import numpy as np

from ofa.search.pareto import Evaluations
from ofa.search.problem import Problem, Proposals
from ofa.search.sampling import take_unseen


def climbing(problem: Problem, known: Evaluations, num: int, rng: np.random.Generator) -> Proposals:
    """Propose the neighbours of whatever came last, the smallest architecture first."""
    space, seen = problem.space, known.keys(problem.space)
    proposed = take_unseen(space, space.to_population(space.smallest()), seen)
    while len(proposed):
        last = yield proposed
        around = space.neighbours(last.population[-1:])
        proposed = take_unseen(space, around[problem.is_feasible(around)], seen, limit=4)
