"""Random search: the baseline that stands beside every search result (Yang et al., arXiv:1912.12522)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ofa.search.pareto import Evaluations
from ofa.search.sampling import sample_distinct
from ofa.space import Population, SearchSpace


def random_search(
    space: SearchSpace,
    evaluate: Callable[[Population], npt.NDArray[np.float64]],
    *,
    num_evaluations: int,
    rng: np.random.Generator,
) -> Evaluations:
    """Evaluate different random architectures.

    Args:
        evaluate: Maps ``(N, D)`` architectures to ``(N, M)`` values to minimise.

    Returns:
        ``num_evaluations`` evaluations; fewer where the space is smaller.
    """
    population = sample_distinct(space, num_evaluations, rng, set())
    return Evaluations(population, evaluate(population))
