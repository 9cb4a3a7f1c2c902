"""One search for any problem: any space, any number of values to minimise, any method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ofa.errors import UsageError, unknown_name_message
from ofa.metrics import TOP1
from ofa.progress import Progress
from ofa.search.evaluation_cache import EvaluationCache
from ofa.search.methods import METHODS
from ofa.search.pareto import Evaluations, non_dominated
from ofa.search.predictors import check_predictor
from ofa.search.problem import Constraint, Evaluate, Problem, Values, carry_out
from ofa.search.sampling import take_unseen
from ofa.space import Arch, Population, SearchSpace


def search(
    space: SearchSpace,
    evaluate: Evaluate,
    *,
    num_evaluations: int,
    method: str = "auto",
    predictor: str = "auto",
    seed: int = 0,
    objectives: Sequence[str] = (TOP1.error_name, "latency_ms"),
    free: Mapping[str, Callable[[Population], Values]] | None = None,
    statistics: Sequence[Callable[[Population], Values]] = (),
    noise: Mapping[str, Callable[[Population], Values]] | None = None,
    constraints: Sequence[Constraint] = (),
    initial: Sequence[Arch] | Population | pd.DataFrame = (),
    cache: Path | str | None = None,
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Search the Pareto front of whatever ``evaluate`` says.

    Nothing is evaluated twice. The same seed and values give the same search, whether or not they come from ``cache``:
    an interrupted search that is called again with its cache goes on where it stopped.

    Args:
        evaluate: Maps ``(N, D)`` architectures to ``(N, M)`` values, all to be minimised. It is what costs.
        num_evaluations: How many architectures, those from the cache included. Fewer where no more are feasible.
        method: One of :data:`METHODS`; a space that is not larger than ``num_evaluations`` is evaluated as a whole.
        predictor: What ``auto`` and ``linas`` learn with, one of :data:`ofa.search.predictors.PREDICTORS`; ``auto``
            takes the best by cross-validated rank correlation.
        objectives: Names of the ``M`` values.
        free: Objective -> a function that gives it at no cost, such as a latency table's ``predict_ms``; methods that
            learn need not learn it.
        statistics: Functions of ``(N, D)`` architectures that are free and positive, and help to predict what is not:
            MACs, parameters.
        noise: Objective -> a function that gives, of architectures that were evaluated, how much of their values is
            chance, as a variance: methods that learn then do not chase the lucky. What all architectures share, such
            as a sample that is too easy, is no part of it.
        constraints: Every evaluated architecture satisfies them; see :meth:`Constraint.of`.
        initial: Architectures to begin with (the front of another device), which are evaluated and count; or the result
            of an earlier search for the same objectives, which is taken as known and is part of the result.
        cache: File that keeps the evaluations; in memory if there is none.
        chunk_size: Architectures per call of ``evaluate``, after which the cache is written; as many as are proposed
            at once if there is none.
        progress: Called with the evaluations done, all of them, and a word.

    Returns:
        One row per architecture in the order of evaluation: ``arch`` (:class:`Arch`), the objectives, and ``is_front``.

    Raises:
        InfeasibleError: If nothing satisfies the constraints; at once, before anything is evaluated.
        ValueError: If a number or name makes no sense, or if ``evaluate`` does not give finite ``(N, M)`` values.
    """
    free, noise = free or {}, noise or {}
    if num_evaluations < 1:
        raise UsageError(f"num_evaluations is {num_evaluations}; a search evaluates at least 1 architecture")
    if method not in METHODS:
        raise UsageError(unknown_name_message("search method", method, METHODS))
    check_predictor(predictor)
    for name in (*free, *noise):
        if name not in objectives:
            raise UsageError(unknown_name_message("objective", name, objectives))
    columns, noises = (
        {list(objectives).index(name): function for name, function in each.items()} for each in (free, noise)
    )
    problem = Problem(space, len(objectives), columns, constraints, predictor, statistics, noise=noises)
    rng = np.random.default_rng(seed)
    known, given = _initial(problem, initial, objectives)
    run = _Run(problem, evaluate, EvaluationCache(cache, values=objectives), num_evaluations, chunk_size, progress)
    if len(given):
        known = known.and_(Evaluations(given[:num_evaluations], run(given[:num_evaluations])))
    num = num_evaluations - run.num_done
    if space.num_archs <= num_evaluations:
        left = space.every()
        left = take_unseen(space, left[problem.is_feasible(left)], known.keys(space))[:num]
        done = [Evaluations(left, run(left))] if len(left) else []
    else:
        done = carry_out(METHODS[method](problem, known, num, rng), run, num)
    found = known.and_(*done)
    return pd.DataFrame(
        {
            "arch": space.to_archs(found.population),
            **dict(zip(objectives, found.values.T, strict=True)),
            "is_front": non_dominated(found.values),
        }
    )


@dataclass
class _Run:
    """Evaluates what the cache lacks."""

    problem: Problem
    evaluate: Evaluate
    cache: EvaluationCache
    num: int
    chunk_size: int | None
    progress: Progress | None
    num_done: int = 0

    def __call__(self, population: Population) -> Values:
        archs = self.problem.space.to_archs(population)
        size = self.chunk_size or max(len(archs), 1)
        for start in range(0, len(archs), size):
            chunk = range(start, min(start + size, len(archs)))
            missing = [row for row in chunk if archs[row] not in self.cache]
            if missing:
                values = np.asarray(self.evaluate(population[missing]), dtype=np.float64)
                if values.shape != (len(missing), self.problem.num_objectives) or not np.isfinite(values).all():
                    raise UsageError(
                        f"evaluate gives ({len(missing)}, {self.problem.num_objectives}) finite values for "
                        f"{len(missing)} architectures, not {values}"
                    )
                self.cache.add([archs[row] for row in missing], values)
            self.num_done += len(chunk)
            if self.progress is not None:
                self.progress(self.num_done, self.num, "evaluating subnets")
        return self.cache.get(archs)


def _initial(
    problem: Problem, initial: Sequence[Arch] | Population | pd.DataFrame, objectives: Sequence[str]
) -> tuple[Evaluations, Population]:
    """What is known already, and what is to be evaluated first."""
    space = problem.space
    nothing = space.to_population([])
    if not isinstance(initial, pd.DataFrame):
        given = take_unseen(space, space.to_population(initial), set())
        return Evaluations(nothing, np.empty((0, problem.num_objectives))), given[problem.is_feasible(given)]
    missing = [name for name in ("arch", *objectives) if name not in initial]
    if missing:
        raise UsageError(f"the earlier search has no column {', '.join(missing)}; it has {', '.join(initial.columns)}")
    earlier = space.to_population(list(initial["arch"]))
    feasible = problem.is_feasible(earlier)
    return Evaluations(earlier[feasible], initial[list(objectives)].to_numpy(dtype=np.float64)[feasible]), nothing
