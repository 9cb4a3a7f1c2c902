"""LINAS, a search inside the search: predictors of what was evaluated so far propose what to evaluate next."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt

from ofa.search.methods.nsga2 import children_of
from ofa.search.pareto import Evaluations, best_first, crowding, hypervolume, non_dominated
from ofa.search.predictors import QUICK, Features, choose
from ofa.search.problem import Problem, Proposals, Values
from ofa.search.sampling import take_unseen
from ofa.space import Population

INITIAL_SHARE, MIN_INITIAL, MAX_INITIAL = 0.16, 16, 60
NUM_BATCHES, MAX_BATCH = 30, 50
CHOOSE_AGAIN = 1.25
MAX_NEIGHBOURS, NUM_CHILDREN, NUM_RANDOM = 200, 200, 100


class PredictedValues:
    """All columns of the values: free ones computed, the others predicted.

    Args:
        known: What is learnt from.
        names: Of the predictor for all columns, or what to choose from, see :func:`ofa.search.predictors.choose`.

    Attributes:
        chosen: Column that only an evaluation tells -> its predictor.
    """

    def __init__(
        self, problem: Problem, known: Evaluations, names: str | Sequence[str], rng: np.random.Generator
    ) -> None:
        self.problem, self._names = problem, names
        self._choose(known, rng)

    def _choose(self, known: Evaluations, rng: np.random.Generator) -> None:
        statistics = (*self.problem.free.values(), *self.problem.statistics)
        self.chosen = {
            column: choose(
                self._names,
                Features(self.problem.space, statistics, self.problem.noise.get(column)),
                known.population,
                known.values[:, column],
                rng=rng,
            )
            for column in range(self.problem.num_objectives)
            if column not in self.problem.free
        }
        self._num_chosen = len(known.population)

    def learn(self, known: Evaluations, rng: np.random.Generator) -> bool:
        """From more than before: whether the predictors were chosen anew, as a quarter more is known."""
        if len(known.population) >= CHOOSE_AGAIN * self._num_chosen:
            self._choose(known, rng)
            return True
        for column, one in self.chosen.items():
            one.predictor.fit(known.population, known.values[:, column])
        return False

    def __call__(self, population: Population) -> Values:
        """Shape ``(N, M)``."""
        return self._with(
            population, {column: one.predictor.predict(population) for column, one in self.chosen.items()}
        )

    def believed(self, known: Evaluations) -> Evaluations:
        """What was learnt from, without its noise: the lucky are as good as their like."""
        values = known.values.copy()
        for column, noise in self.problem.noise.items():
            if column in self.chosen:
                one = self.chosen[column]
                values[:, column] = one.believed(known.population, known.values[:, column], noise(known.population))
        return known._replace(values=values)

    def draw(self, population: Population, num: int, rng: np.random.Generator) -> list[Values]:
        """Values under ``num`` functions drawn from what the predictors hold for possible, each of shape ``(N, M)``."""
        drawn = {column: one.draw(population, num, rng) for column, one in self.chosen.items()}
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
    predictor is fitted for each column that only an evaluation tells, and of the front's neighbours, its children and
    random architectures a batch is chosen greedily by the hypervolume that each adds to the evaluated front.

    Args:
        predictor: Instead of the problem's; ``auto`` is chosen anew whenever a quarter more is known.
        draws: Each choice goes by another function that is drawn from the predictor, rather than all by its mean.

    References:
        Cummings et al., arXiv:2202.12954, sec. 3.3. It predicts all objectives, evolves them for many generations and
        evaluates the last; here free columns are computed, and a batch is chosen by the hypervolume that it adds, from
        one generation: what is best by prediction after many is so by extrapolation.
    """
    name = predictor or problem.predictor
    seen = known.keys(problem.space)
    known = yield from begin(problem, known, num, rng, seen)
    model = PredictedValues(problem, known, QUICK if name == "auto" else name, rng)
    while len(proposed := propose(problem, known, model, batch_size(num), seen, rng, draws=draws)):
        known = known.and_((yield proposed))
        model.learn(known, rng)


def begin(
    problem: Problem, known: Evaluations, num: int, rng: np.random.Generator, seen: set[bytes]
) -> Generator[Population, Evaluations, Evaluations]:
    """Propose what is to be known before anything can be learnt; what is known then."""
    missing = int(np.clip(num * INITIAL_SHARE, min(MIN_INITIAL, num), MAX_INITIAL)) - len(known.population)
    return known.and_((yield problem.spread_sample(missing, rng, seen))) if missing > 0 else known


def batch_size(num: int) -> int:
    """Architectures that are proposed at once, of ``num`` in all."""
    return int(np.clip(num / NUM_BATCHES, 1, MAX_BATCH))


def propose(
    problem: Problem,
    known: Evaluations,
    model: PredictedValues,
    num: int,
    seen: set[bytes],
    rng: np.random.Generator,
    *,
    draws: bool,
) -> Population:
    """At most ``num`` candidates that gain most, see :func:`linas`; they are added to ``seen``."""
    known = model.believed(known)
    candidates = _candidates(problem, known, seen, rng)
    if not len(candidates):
        return candidates
    predictions = model.draw(candidates, num, rng) if draws else [model(candidates)] * num
    return take_unseen(problem.space, candidates[most_gain(known.values, predictions)], seen)


def _candidates(problem: Problem, known: Evaluations, seen: set[bytes], rng: np.random.Generator) -> Population:
    """Architectures that were not evaluated yet: neighbours of the front, its children, and any."""
    space, found = problem.space, set(seen)
    front = known.front()
    front = front.take(best_first(front.values))
    near = space.neighbours(front.population)
    near = near[rng.permutation(len(near))]
    near = take_unseen(space, near[problem.is_feasible(near)], found, limit=MAX_NEIGHBOURS)
    children = children_of(problem, front.population, NUM_CHILDREN, rng, found)
    return np.concatenate([near, children, problem.sample(NUM_RANDOM, rng, found)])


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
        left = np.setdiff1d(np.arange(len(scaled)), chosen)
        left = left[non_dominated(scaled[left])]  # nothing gains more than what dominates it
        gains = [hypervolume(np.vstack([front, scaled[position]]), reference) for position in left]
        now = hypervolume(front, reference)
        best = left[int(np.argmax(gains))] if max(gains) > now else left[int(np.argmax(crowding(scaled[left])))]
        chosen.append(int(best))
        front = np.vstack([front, scaled[best]])
    return np.array(chosen, dtype=np.intp)
