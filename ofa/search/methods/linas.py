"""LINAS, a search inside the search: predictors of what was evaluated so far propose what to evaluate next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.search.methods.nsga2 import nsga2
from ofa.search.pareto import Evaluations, best_first, hypervolume
from ofa.search.predictors import PREDICTORS, Chosen, Features, choose
from ofa.search.problem import Problem, Proposals, Values
from ofa.space import Population

INITIAL_SHARE, MIN_INITIAL, MAX_INITIAL = 0.16, 16, 60
NUM_BATCHES, MAX_BATCH = 30, 50
MAX_CANDIDATES = 300
MAX_ENUMERATED = 5000  # a space of so few is predicted as a whole, rather than searched
INNER: dict[str, Any] = {"population_size": 100, "num_generations": 30}


class PredictedValues:
    """All columns of the values: free ones computed, the others predicted.

    Args:
        known: What is learnt from.
        names: Of the predictor for all, to be cross-validated; or column -> name, as settled before.

    Attributes:
        chosen: Column that only an evaluation tells -> its predictor.
    """

    def __init__(
        self, problem: Problem, known: Evaluations, names: str | Mapping[int, str], rng: np.random.Generator
    ) -> None:
        self.problem = problem
        self.chosen: dict[int, Chosen] = {}
        features = Features(problem.space, (*problem.free.values(), *problem.statistics))
        for column in (column for column in range(problem.num_objectives) if column not in problem.free):
            values = known.values[:, column]
            if isinstance(names, str):
                self.chosen[column] = choose(names, features, known.population, values, rng=rng)
            else:
                predictor = PREDICTORS[names[column]](features).fit(known.population, values)
                self.chosen[column] = Chosen(names[column], predictor, {})

    def __call__(self, population: Population) -> Values:
        """Shape ``(N, M)``."""
        return self._with(
            population, {column: one.predictor.predict(population) for column, one in self.chosen.items()}
        )

    def draw(self, population: Population, num: int, rng: np.random.Generator) -> list[Values]:
        """Values under ``num`` functions drawn from what the predictors hold for possible, each of shape ``(N, M)``."""
        drawn: dict[int, Any] = {
            column: one.predictor.draw(population, num, rng)  # type: ignore[attr-defined]
            for column, one in self.chosen.items()
        }
        return [
            self._with(population, {column: draws[number] for column, draws in drawn.items()}) for number in range(num)
        ]

    def _with(self, population: Population, costly: dict[int, Values]) -> Values:
        free = {column: function(population) for column, function in self.problem.free.items()}
        return np.stack([(free | costly)[column] for column in range(self.problem.num_objectives)], axis=1)


def linas(
    problem: Problem,
    known: Evaluations,
    num: int,
    rng: np.random.Generator,
    *,
    predictor: str | None = None,
    draws: bool = False,
) -> Proposals:
    """Propose what gains most hypervolume if predictions are right.

    A sixth of the evaluations (16 to 60) are spread over the size of the architectures; then, batch by batch, a
    predictor is fitted for each column that only an evaluation tells, NSGA-II searches the predicted values (a small
    space is predicted as a whole), and the batch is chosen greedily from its best by the hypervolume that each adds to
    the evaluated front.

    Args:
        predictor: Instead of the problem's; ``auto`` is chosen anew whenever a quarter more is known.
        draws: Each choice goes by another function that is drawn from the predictor, rather than all by its mean.

    References:
        Cummings et al., arXiv:2202.12954, sec. 3.3. It predicts all objectives and evaluates the last inner population;
        here free columns are computed, and the batch is chosen by the hypervolume that it adds.
    """
    predictor = predictor or problem.predictor
    seen = known.keys(problem.space)
    missing = int(np.clip(num * INITIAL_SHARE, min(MIN_INITIAL, num), MAX_INITIAL)) - len(known.population)
    if missing > 0:
        known = known.and_((yield problem.spread_sample(missing, rng, seen)))
    batch_size = int(np.clip(num / NUM_BATCHES, 1, MAX_BATCH))
    names: str | dict[int, str] = predictor
    chosen_at = 0
    while True:
        if len(known.population) >= 1.25 * chosen_at:
            names, chosen_at = predictor, len(known.population)
        model = PredictedValues(problem, known, names, rng)
        names = {column: one.name for column, one in model.chosen.items()}
        candidates = _candidates(problem, known, model, seen, rng)
        if not len(candidates.population):
            return
        predictions = model.draw(candidates.population, batch_size, rng) if draws else [candidates.values] * batch_size
        chosen = most_gain(known.values, predictions)
        proposed = candidates.population[chosen]
        seen.update(problem.space.row_keys(proposed).tolist())
        known = known.and_((yield proposed))


def _candidates(
    problem: Problem, known: Evaluations, model: PredictedValues, seen: set[bytes], rng: np.random.Generator
) -> Evaluations:
    """The best architectures, by prediction, that were not evaluated yet, and their predicted values."""
    if problem.space.num_archs <= MAX_ENUMERATED:
        every = problem.space.every()
        every = every[problem.is_feasible(every)]
        evolved = Evaluations(every, model(every))
    else:
        start = known.take(best_first(known.values)[: INNER["population_size"]]).population
        evolved = nsga2(problem, model, rng=rng, initial=start, **INNER)
    is_unseen = [key not in seen for key in problem.space.row_keys(evolved.population).tolist()]
    unseen = evolved.take(np.array(is_unseen, dtype=np.bool_))
    if not len(unseen.population):
        rest = problem.sample(MAX_CANDIDATES, rng, set(seen))
        unseen = Evaluations(rest, model(rest) if len(rest) else np.empty((0, problem.num_objectives)))
    return unseen.take(best_first(unseen.values)[:MAX_CANDIDATES])


def most_gain(known: Values, predictions: list[Values]) -> npt.NDArray[np.intp]:
    """Choose one candidate per prediction, each for the hypervolume that it adds to what is known and chosen before.

    Args:
        known: Shape ``(K, M)``.
        predictions: For each choice, values of all ``C`` candidates, shape ``(C, M)``; they may differ, if predictions
            are drawn at random.

    Returns:
        At most ``len(predictions)`` different positions; where nothing adds anything, the loneliest of the best.
    """
    low, high = known.min(axis=0), known.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    reference = np.full(known.shape[1], 1.1)
    front = (known - low) / span
    chosen: list[int] = []
    for values in predictions[: len(predictions[0])]:
        scaled = (values - low) / span
        now = hypervolume(front, reference)
        gains = np.array([hypervolume(np.vstack([front, point]), reference) for point in scaled]) - now
        gains[chosen] = -np.inf
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            best = next(int(position) for position in best_first(scaled) if position not in chosen)
        chosen.append(best)
        front = np.vstack([front, scaled[best]])
    return np.array(chosen, dtype=np.intp)
