"""The search for devices and budgets: search, random search beside it, measure, pick."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.cost.latency_table import LATENCIES
from ofa.errors import UsageError
from ofa.files import FORMAT, write_csv_atomic, write_json_atomic
from ofa.progress import Progress
from ofa.search.driver import check_method, search
from ofa.search.evaluation_cache import Accuracies
from ofa.search.methods.guided import PredictedValues
from ofa.search.methods.nsga2 import nsga2
from ofa.search.pareto import Evaluations, hypervolume, non_dominated
from ofa.search.pick import HEADROOM, InfeasibleBudgetError, pick_entry, pick_within_budgets
from ofa.search.predictors import check_predictors
from ofa.search.problem import Constraint, Cost, Problem, Values, descend
from ofa.search.sampling import spread, take_unseen
from ofa.space import Arch, Population, SearchSpace

OBJECTIVES = ("top1_error_percent", "latency_ms")
FLEET = "fleet"
CURVE_POINTS = 20


@dataclass(frozen=True)
class Target:
    """A device that subnets are wanted for.

    Args:
        predict_ms: Maps ``(N, D)`` architectures to ``(N,)`` milliseconds.
        measure_ms: Measures several architectures side by side: ``latency_ms_p10``, ``_p50`` and ``_p90``, in order.
        identity: What its predictions and measurements go by: the table's checksum, the machine.
    """

    name: str
    predict_ms: Callable[[Population], Values]
    measure_ms: Callable[[list[Arch]], pd.DataFrame]
    identity: Mapping[str, Any] = field(default_factory=dict)


def fleet(targets: Sequence[Target]) -> Target:
    """All devices as one: a subnet takes as long as it does on the slowest for it."""

    def measure_ms(archs: list[Arch]) -> pd.DataFrame:
        each = [target.measure_ms(archs)[LATENCIES].to_numpy(dtype=np.float64) for target in targets]
        return pd.DataFrame(np.max(each, axis=0), columns=LATENCIES)

    return Target(
        FLEET,
        lambda population: np.max([target.predict_ms(population) for target in targets], axis=0),
        measure_ms,
        _merged([target.identity for target in targets]),
    )


def _merged(identities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mappings of mappings, joined: what each device went by, by its name."""
    merged: dict[str, Any] = {}
    for identity in identities:
        for name, value in identity.items():
            merged[name] = {**merged.get(name, {}), **value} if isinstance(value, Mapping) else value
    return merged


@dataclass(frozen=True)
class SearchResult:
    """What :func:`run_search` found for a device: the contents of ``front.csv`` and of ``selected.json``."""

    front: pd.DataFrame
    selected: dict[str, Any]


def run_search(
    space: SearchSpace,
    *,
    accuracies: Accuracies,
    targets: Sequence[Target],
    costs: Mapping[str, Cost],
    budgets_ms: Sequence[float],
    out_dir: Path | str,
    num_evaluations: int = 100,
    method: str = "auto",
    predictor: str = "auto",
    constraints: Sequence[Constraint] = (),
    initial: Sequence[Arch] = (),
    with_fleet: bool = False,
    seed: int = 0,
    identity: Mapping[str, Any] | None = None,
    num_candidates: int = 4,
    num_measured: int = 16,
    headroom: float = HEADROOM,
    progress: Progress | None = None,
) -> dict[str, SearchResult]:
    """Search the accuracy-latency front of each device, and pick a measured subnet for each budget.

    1. :func:`ofa.search.search` with ``num_evaluations``, for the first device. Each further device begins with what is
       known already and spends a quarter as many.
    2. Random search with as many evaluations, shared by the devices: the yardstick.
    3. From all that is known, a predictor and NSGA-II propose candidates beyond what was evaluated.
    4. The best candidates of each budget, and up to ``num_measured`` of the front, are evaluated and measured on the
       device; picks are taken from what was measured (:func:`pick_within_budgets`).

    The same seed, space, accuracies and latencies give the same result, whether or not accuracies came from the cache.
    Each device's files are in ``out_dir``/NAME. What one that is as fast surely beats is not evaluated to the end.

    Args:
        costs: By name, for the result files: ``macs``, ``params``.
        num_evaluations: Of the first device's search, and again of random search.
        method: See :func:`ofa.search.search`.
        predictor: See :func:`ofa.search.search`; it also proposes the last candidates.
        constraints: Hold for all that is evaluated.
        initial: Architectures to begin with, such as another search's front.
        with_fleet: Also search for the best single subnet for all devices: one more target, called ``fleet``.
        identity: What else the result depends on, such as the weights; kept as ``facts`` in ``selected.json``, with
            each target's own, for :func:`ofa.search.answer.answer`.
        headroom: A pick's measured median is at least this fraction below its budget.

    Returns:
        Name of the device -> its result.

    Raises:
        InfeasibleBudgetError: If no subnet keeps a budget: before anything is evaluated where predictions say so.
        InfeasibleError: If nothing satisfies the constraints.
        ValueError: If a number or name makes no sense.
    """
    if num_evaluations < 2:
        raise UsageError(f"num_evaluations is {num_evaluations}; a search needs at least 2, better 100 or more")
    if any(not 0 < budget < np.inf for budget in budgets_ms):
        raise UsageError(f"budgets are positive numbers of milliseconds, not {list(budgets_ms)}")
    check_method(method)
    check_predictors(predictor)
    if with_fleet:
        targets = [*targets, fleet(targets)]
    check_feasible(
        space,
        {target.name: target.predict_ms for target in targets},
        budgets_ms,
        constraints=constraints,
        headroom=headroom,
        seed=seed,
    )

    num_further = max(num_evaluations // 4, 2)
    num_all, count = 2 * num_evaluations + (len(targets) - 1) * num_further, itertools.count(1)

    def errors_of(target: Target) -> Callable[[Population], Values]:
        """Errors and latencies, for one search: it gives up what its own points dominate."""
        found: dict[Arch, float] = {}

        def floors(archs: list[Arch]) -> npt.NDArray[np.float64]:
            complete = [arch for arch in found if accuracies.is_complete(arch)]
            if not complete:
                return np.zeros(len(archs))
            top1 = np.array([found[arch] for arch in complete])
            theirs, ours = (target.predict_ms(space.to_population(some)) for some in (complete, archs))
            return np.where(theirs <= ours[:, None], top1, 0.0).max(axis=1)

        def values(population: Population) -> Values:
            archs = space.to_archs(population)
            top1 = np.empty(len(archs))
            for start in range(0, len(archs), accuracies.chunk_size):  # what was found so far counts for the next
                chunk = archs[start : start + accuracies.chunk_size]
                top1[start : start + len(chunk)] = accuracies(chunk, floors)
                found.update(zip(chunk, top1[start:], strict=False))
                if progress is not None:
                    progress(min(next(count) * accuracies.chunk_size, num_all), num_all, "evaluating subnets")
            return np.column_stack([100 - top1, target.predict_ms(population)])

        return values

    known = pd.DataFrame({"arch": [], OBJECTIVES[0]: []})
    searches: dict[str, pd.DataFrame] = {}
    for number, target in enumerate(targets):
        priced = known.assign(**{OBJECTIVES[1]: target.predict_ms(space.to_population(list(known["arch"])))})
        searches[target.name] = search(
            space,
            errors_of(target),
            num_evaluations=num_evaluations if number == 0 else num_further,
            method=method,
            predictor=predictor,
            seed=seed,
            objectives=OBJECTIVES,
            free={OBJECTIVES[1]: target.predict_ms},
            statistics=[cost.predict for cost in costs.values()],
            constraints=constraints,
            initial=list(initial) if number == 0 else priced,
        )
        known = searches[target.name][["arch", OBJECTIVES[0]]]
    first = searches[targets[0].name]
    random = search(
        space,
        errors_of(targets[0]),
        num_evaluations=len(first),
        method="random",
        seed=seed + 1,
        objectives=OBJECTIVES,
        free={OBJECTIVES[1]: targets[0].predict_ms},
        constraints=constraints,
    )
    everything = pd.concat([known, random[["arch", OBJECTIVES[0]]]]).drop_duplicates("arch", ignore_index=True)
    results = {}
    for target in targets:
        results[target.name] = _settle(
            space,
            target,
            accuracies,
            everything,
            searched=list(first["arch"]) if target is targets[0] else list(searches[target.name]["arch"]),
            random=list(random["arch"]),
            costs=costs,
            budgets_ms=budgets_ms,
            predictor=predictor,
            constraints=constraints,
            seed=seed,
            num_candidates=num_candidates,
            num_measured=num_measured,
            headroom=headroom,
            facts={**(identity or {}), **target.identity},
        )
        folder = Path(out_dir) / target.name
        write_csv_atomic(folder / "front.csv", results[target.name].front)
        write_json_atomic(folder / "selected.json", results[target.name].selected)
    return results


def check_feasible(
    space: SearchSpace,
    predict_ms: Mapping[str, Callable[[Population], Values]],
    budgets_ms: Sequence[float],
    *,
    constraints: Sequence[Constraint] = (),
    headroom: float,
    seed: int,
) -> None:
    """:class:`InfeasibleBudgetError` if predictions say that nothing keeps a budget.

    Args:
        predict_ms: By device.
    """
    problem = Problem(space, 1, constraints=constraints)
    for name, predict in predict_ms.items():
        rng = np.random.default_rng(seed)
        if constraints:  # a thousand that satisfy them: the least latency among these is near enough
            fastest_ms = float(predict(problem.sample(1000, rng, set())).min())
        else:
            fastest_ms = descend(space, predict, rng)[1]
        for budget in budgets_ms:
            if fastest_ms > budget:
                raise InfeasibleBudgetError(budget, fastest_ms, headroom=headroom, device=name, how="predicted")


def _settle(
    space: SearchSpace,
    target: Target,
    accuracies: Accuracies,
    everything: pd.DataFrame,
    *,
    searched: list[Arch],
    random: list[Arch],
    costs: Mapping[str, Cost],
    budgets_ms: Sequence[float],
    predictor: str,
    constraints: Sequence[Constraint],
    seed: int,
    num_candidates: int,
    num_measured: int,
    headroom: float,
    facts: Mapping[str, Any],
) -> SearchResult:
    """Steps 3 and 4, for one device."""
    rng = np.random.default_rng([seed, 1])
    known = space.to_population(list(everything["arch"]))
    problem = Problem(
        space, 2, {1: target.predict_ms}, constraints, statistics=[cost.predict for cost in costs.values()]
    )
    values = np.column_stack([everything[OBJECTIVES[0]].to_numpy(dtype=np.float64), target.predict_ms(known)])
    model = PredictedValues.learn(problem, Evaluations(known, values), predictor, rng)
    front = known[non_dominated(values)]
    evolved = nsga2(problem, model, rng=rng, initial=front)
    proposed = evolved.front().population
    distinct = take_unseen(space, np.concatenate([known, proposed]), set())
    archs, predicted = space.to_archs(distinct), model(distinct)
    top1 = dict(zip(everything["arch"], 100 - everything[OBJECTIVES[0]], strict=True))
    searched_set, random_set = set(searched), set(random)
    candidates = pd.DataFrame(
        {
            "arch": archs,
            "predicted_top1_percent": 100 - predicted[:, 0],
            "predicted_latency_ms": predicted[:, 1],
            "measured_top1_percent": [top1.get(arch, np.nan) for arch in archs],
            **{name: _whole(cost.predict(distinct)) for name, cost in costs.items()},
            "is_random": [arch in random_set for arch in archs],
            "is_front": [arch in searched_set or arch not in random_set for arch in archs],
        }
    )
    points = np.column_stack([-candidates["measured_top1_percent"], candidates["predicted_latency_ms"]])
    evaluated = np.flatnonzero(candidates["measured_top1_percent"].notna())
    best = evaluated[non_dominated(points[evaluated])]
    best = best[spread(np.log(points[best, 1]), num_measured)]
    candidates, picks = pick_within_budgets(
        candidates,
        budgets_ms,
        evaluate_top1=accuracies,
        measure_ms=target.measure_ms,
        device=target.name,
        num_candidates=num_candidates,
        headroom=headroom,
        also=best.tolist(),
    )
    candidates[["measured_top1_percent", "num_images"]] = accuracies.known(list(candidates["arch"]))
    chosen = model.chosen[0]
    selected = {
        "format": FORMAT,
        "device": target.name,
        "space_fingerprint": space.fingerprint,
        "seed": seed,
        "num_evaluations": int(candidates["measured_top1_percent"].notna().sum()),
        "predictor": {
            "name": chosen.name,
            "kendall_tau": chosen.kendall_tau[chosen.name],
            "kendall_tau_of_all": dict(chosen.kendall_tau),
            "num_samples": len(known),
        },
        **_compare(space, top1, target, front=searched, random=random),
        "headroom_percent": 100 * headroom,
        "facts": dict(facts),
        "picks": [
            pick_entry(row, budget, list(costs))
            for row, budget in zip(candidates.loc[picks].to_dict("records"), budgets_ms, strict=True)
        ],
    }
    return SearchResult(front=_front_table(candidates, picks, costs), selected=selected)


def _whole(values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Counts as integers, so that files do not show them as 1234567.0."""
    return values.astype(np.int64) if np.all(values == np.round(values)) else values


def _compare(space: SearchSpace, top1: Mapping[Arch, float], target: Target, **sides: list[Arch]) -> dict[str, Any]:
    """Hypervolumes, in percent times milliseconds, of what each side evaluated; the whole and as it grew.

    The reference point is the least accuracy and the greatest latency of them all.
    """
    points = {
        name: np.column_stack([[-top1[arch] for arch in archs], target.predict_ms(space.to_population(archs))])
        for name, archs in sides.items()
    }
    reference = np.max([values.max(axis=0) for values in points.values()], axis=0)
    numbers = np.unique(np.linspace(1, max(map(len, points.values())), CURVE_POINTS).round().astype(int)).tolist()
    return {
        "hypervolume": {name: hypervolume(values, reference) for name, values in points.items()},
        "hypervolume_reference": {"top1_percent": float(-reference[0]), "latency_ms": float(reference[1])},
        "hypervolume_num_evaluations": {name: len(values) for name, values in points.items()},
        "hypervolume_curve": {
            "num_evaluations": numbers,
            **{name: [hypervolume(values[:num], reference) for num in numbers] for name, values in points.items()},
        },
    }


def _front_table(candidates: pd.DataFrame, picks: list[int], costs: Mapping[str, Cost]) -> pd.DataFrame:
    """``front.csv``: everything that was truly evaluated; one row per origin of an architecture."""
    known = candidates["measured_top1_percent"].notna()
    groups = {
        "random": candidates[known & candidates["is_random"]],
        "front": candidates[known & candidates["is_front"]],
        "pick": candidates.loc[list(dict.fromkeys(picks))],
    }
    table = pd.concat([group.assign(origin=origin) for origin, group in groups.items()], ignore_index=True)
    table["arch"] = [arch.to_json() for arch in table["arch"]]
    table["measured_latency_ms"] = table["latency_ms_p50"]
    table["num_images"] = table["num_images"].astype(np.int64)
    columns = ["arch", "predicted_top1_percent", "predicted_latency_ms", "measured_top1_percent", "measured_latency_ms"]
    return table[[*columns, *costs, "origin", "latency_ms_p10", "latency_ms_p90", "num_images"]]
