"""Random search: the baseline that stands beside every search result (Yang et al., arXiv:1912.12522)."""

from __future__ import annotations

import numpy as np

from ofa.search.pareto import Evaluations
from ofa.search.problem import Problem, Proposals


def random_search(problem: Problem, known: Evaluations, num: int, rng: np.random.Generator) -> Proposals:
    """Propose different feasible architectures, spread over their size as those of the other methods are."""
    seen = known.keys(problem.space)
    while len(proposed := problem.spread_sample(num, rng, seen)):
        yield proposed
