"""Whatever tells most of what was not evaluated: a model, the neighbourhood, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofa.search.methods.linas import PredictedValues, batch_size, begin, propose
from ofa.search.methods.local import around_front
from ofa.search.methods.nsga2 import nsga2_search
from ofa.search.pareto import Evaluations
from ofa.search.predictors import Features, held_out_kendall_tau
from ofa.search.predictors.nearest import Nearest
from ofa.search.problem import Problem, Proposals
from ofa.space import Population

MANY = 5000


def auto(problem: Problem, known: Evaluations, num: int, rng: np.random.Generator) -> Proposals:
    """Propose by what has the best cross-validated rank correlation with the values that only an evaluation tells.

    That is a model, a Gaussian process unless another is asked for (the best of several was no better): then as
    :func:`ofa.search.methods.thompson.thompson` does. Or the nearest architecture that is known: then as
    :func:`ofa.search.methods.local.local_search` does. Where neither has any, at random. It is weighed again whenever a
    quarter more is known.

    From 5,000 evaluations on, which are cheap then, :func:`ofa.search.methods.nsga2.nsga2_search` does it all.
    """
    if num >= MANY:
        yield from nsga2_search(problem, known, num, rng)
        return
    seen = known.keys(problem.space)
    known = yield from begin(problem, known, num, rng, seen)
    predictor = "gaussian_process" if problem.predictor == "auto" else problem.predictor
    model = PredictedValues(problem, known, predictor, rng)
    size = batch_size(num)
    ways: dict[str, Callable[[], Population]] = {
        "model": lambda: propose(problem, known, model, size, seen, rng, draws=True),
        "nearest": lambda: around_front(problem, known, size, seen, rng),
        "random": lambda: problem.sample(size, rng, seen),
    }
    way = most_telling(problem, known, model, rng)
    while len(proposed := ways[way]()):
        known = known.and_((yield proposed))
        if model.learn(known, rng):
            way = most_telling(problem, known, model, rng)


def most_telling(problem: Problem, known: Evaluations, model: PredictedValues, rng: np.random.Generator) -> str:
    """``model``, ``nearest`` or ``random``: by the mean Kendall tau over the columns that only an evaluation tells."""
    features = Features(problem.space)
    taus: dict[str, list[float | None]] = {"random": [], "nearest": [], "model": []}
    for column, one in model.chosen.items():
        nearest = held_out_kendall_tau(Nearest, features, known.population, known.values[:, column], rng=rng)
        for way, tau in {"random": 0.0, "nearest": nearest, "model": one.kendall_tau[one.name]}.items():
            taus[way].append(tau)
    return max(taus, key=lambda way: float(np.mean([tau or 0.0 for tau in taus[way]]))) if model.chosen else "model"
