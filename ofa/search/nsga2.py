"""NSGA-II over integer architectures (Deb et al. 2002), with pymoo's survival and our vectorised mating."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.population import Population as Individuals
from pymoo.core.problem import Problem

from ofa.search.pareto import Evaluations
from ofa.search.sampling import MAX_ROUNDS, sample_distinct, take_unseen
from ofa.space import Population, SearchSpace

Evaluate: TypeAlias = Callable[[Population], npt.NDArray[np.float64]]


def nsga2(
    space: SearchSpace,
    evaluate: Evaluate,
    *,
    rng: np.random.Generator,
    population_size: int = 200,
    num_generations: int = 40,
    mutation_probability: float = 0.1,
    initial: Population | None = None,
    num_objectives: int = 2,
) -> Evaluations:
    """Search the Pareto front; no architecture is evaluated twice.

    Args:
        evaluate: Maps ``(N, D)`` architectures to ``(N, num_objectives)`` values to minimise.
        num_generations: The initial population counts as one. The search also ends when nothing new is found.
        mutation_probability: Of each dim, as in once-for-all's finder.
        initial: Architectures to begin with; random ones fill up to ``population_size``.

    Returns:
        Every evaluated architecture, not only the last generation: take its :meth:`~Evaluations.front`.

    References:
        Deb et al. 2002. pymoo's own mating and duplicate elimination compare individuals one by one in Python; ours
        works on arrays, and an architecture counts as a duplicate of anything evaluated in any generation.
    """
    seen: set[bytes] = set()
    given = take_unseen(space, space.to_population([] if initial is None else initial), seen)
    drawn = sample_distinct(space, population_size - len(given), rng, seen)
    problem = _Problem(space, evaluate, num_objectives)
    algorithm = NSGA2(
        pop_size=population_size,
        sampling=np.concatenate([given, drawn]),
        mating=_Mating(space, seen, rng, mutation_probability),
        eliminate_duplicates=False,
        seed=int(rng.integers(2**31)),
    )
    # Given to the constructor, `termination` would lose to a default that watches convergence.
    algorithm.setup(problem, termination=("n_gen", num_generations)).run()
    populations, values = zip(*problem.evaluated, strict=True)
    return Evaluations(np.concatenate(populations), np.concatenate(values))


class _Problem(Problem):
    """Evaluates whole populations, and remembers all of them."""

    def __init__(self, space: SearchSpace, evaluate: Evaluate, num_objectives: int) -> None:
        super().__init__(n_var=len(space), n_obj=num_objectives, xl=0, xu=space.num_values - 1, vtype=int)
        self.evaluate_population = evaluate
        self.evaluated: list[tuple[Population, npt.NDArray[np.float64]]] = []

    def _evaluate(self, x: Population, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        out["F"] = self.evaluate_population(x)
        self.evaluated.append((x, out["F"]))


class _Mating:
    """Crowded binary tournament, uniform crossover, mutation; only children that were never evaluated."""

    def __init__(self, space: SearchSpace, seen: set[bytes], rng: np.random.Generator, probability: float) -> None:
        self.space, self.seen, self.rng, self.probability = space, seen, rng, probability

    def do(self, problem: Problem, individuals: Individuals, num_children: int, **kwargs: Any) -> Individuals:
        genes = individuals.get("X")
        # Best first: by rank, then by crowding distance. A tournament is then the lesser of two positions.
        order = np.lexsort((-individuals.get("crowding"), individuals.get("rank")))
        children = genes[:0]
        for _ in range(MAX_ROUNDS):
            missing = num_children - len(children)
            if missing <= 0 or len(self.seen) >= self.space.num_archs:
                break
            winners = self.rng.integers(len(order), size=(2, missing, 2)).min(axis=-1)
            mothers, fathers = genes[order[winners[0]]], genes[order[winners[1]]]
            crossed = self.space.crossover(mothers, fathers, self.rng)
            mutated = self.space.mutate(crossed, self.rng, probability=self.probability)
            children = np.concatenate([children, take_unseen(self.space, mutated, self.seen)])
        return Individuals.new("X", children)
