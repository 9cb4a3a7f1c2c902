"""LINAS that knows how unsure it is: each proposal is best for another function that fits what was evaluated."""

from __future__ import annotations

import numpy as np

from ofa.search.methods.linas import linas
from ofa.search.pareto import Evaluations
from ofa.search.problem import Problem, Proposals


def thompson(problem: Problem, known: Evaluations, num: int, rng: np.random.Generator) -> Proposals:
    """See :func:`ofa.search.methods.linas.linas`; each proposal goes by a function drawn from a Gaussian process.

    References:
        Thompson sampling for several objectives, as TS-EMO (Bradford, Schweidtmann, Lapkin 2018) does. It evolves each
        function that is drawn to its front; here all are looked at on the same candidates.
    """
    return linas(problem, known, num, rng, predictor="gaussian_process", draws=True)
