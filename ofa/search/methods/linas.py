"""LINAS: predictors trained on what was evaluated so far propose the next batch."""

from __future__ import annotations

import numpy as np

from ofa.search.methods.guided import guided
from ofa.search.pareto import Evaluations
from ofa.search.problem import Problem, Proposals


def linas(problem: Problem, known: Evaluations, num: int, rng: np.random.Generator) -> Proposals:
    """See :func:`ofa.search.methods.guided.guided`; predictions are taken at their word.

    References:
        Cummings et al., arXiv:2202.12954, sec. 3.3. It predicts all objectives and evaluates the last inner population;
        here free columns are computed, and the batch is chosen by the hypervolume that it adds.
    """
    return guided(
        problem,
        known,
        num,
        rng,
        predictor=problem.predictor,
        predict=lambda model, candidates, batch_size, rng: [candidates.values] * batch_size,
    )
