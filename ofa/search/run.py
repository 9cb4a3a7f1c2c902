"""The search for one device: sample, predict, evolve, evaluate, measure, pick; random search beside it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.files import FORMAT, write_csv_atomic, write_json_atomic
from ofa.search.evaluation_cache import EvaluationCache, cached
from ofa.search.nsga2 import nsga2
from ofa.search.pareto import hypervolume
from ofa.search.pick import LATENCIES, InfeasibleBudgetError, fastest, pick_within_budgets
from ofa.search.predictors import PREDICTORS, held_out_kendall_tau
from ofa.search.sampling import sample_distinct, spread, take_unseen
from ofa.space import Arch, Population, SearchSpace, unknown_name_message


class Cost(Protocol):
    """What the search needs of a :class:`ofa.cost.CostModel`."""

    def predict(self, archs: Population) -> npt.NDArray[np.float64]:
        """Costs of ``(N, D)`` architectures, shape ``(N,)``."""
        ...


@dataclass(frozen=True)
class SearchResult:
    """What :func:`run_search` found: the contents of ``front.csv`` and of ``selected.json``."""

    front: pd.DataFrame
    selected: dict[str, Any]


def run_search(
    space: SearchSpace,
    *,
    evaluate_top1: Callable[[list[Arch]], npt.NDArray[np.float64]],
    predict_ms: Callable[[Population], npt.NDArray[np.float64]],
    measure_ms: Callable[[list[Arch]], pd.DataFrame],
    costs: Mapping[str, Cost],
    budgets_ms: Sequence[float],
    out_dir: Path | str,
    device_name: str,
    num_samples: int = 200,
    num_front: int = 30,
    seed: int = 0,
    cache: EvaluationCache | None = None,
    predictor: str = "ridge",
    population_size: int = 200,
    num_generations: int = 40,
    num_candidates: int = 4,
    headroom: float = 0.03,
    progress: Callable[[int, int, str], None] | None = None,
) -> SearchResult:
    """Search the accuracy-latency front of one device, and pick a measured subnet for each budget.

    1. Evaluate ``num_samples`` random subnets, spread over the first of ``costs``, the smallest and the largest among
       them, and fit the predictor. They do not depend on the device, so that searches for several devices share them.
    2. Run NSGA-II on predicted accuracy and latency; evaluate ``num_front`` subnets spread over its front.
    3. Evaluate as many further random subnets as step 2 had to: random search with the same number of evaluations.
       The two hypervolumes compare steps 1 and 2 with steps 1 and 3, at true accuracy and predicted latency.
    4. Evaluate and measure the best candidates of each budget, and pick (:func:`pick_within_budgets`).

    The same seed, space, accuracies and latencies give the same result, whether or not accuracies came from the cache.

    Args:
        evaluate_top1: Expensive; maps ``N`` architectures to ``(N,)`` percent. Called for what ``cache`` lacks.
        predict_ms: Maps ``(N, D)`` architectures to ``(N,)`` milliseconds.
        measure_ms: Measures several architectures at once on the device; see :func:`pick_within_budgets`.
        costs: By name, for the result files: ``macs``, ``params``.
        num_samples: Fewer are taken from a space that holds fewer.
        headroom: A pick's measured median is at least this fraction below its budget.

    Raises:
        InfeasibleBudgetError: If no subnet keeps a budget: before anything is evaluated where predictions say so.
        ValueError: If a number or name makes no sense.
    """
    _check_arguments(num_samples, budgets_ms, predictor)
    make_predictor = PREDICTORS[predictor]
    sampling_rng, search_rng = np.random.default_rng(seed).spawn(2)
    fastest_arch, fastest_ms = fastest(space, predict_ms, search_rng)
    for budget in budgets_ms:
        if fastest_ms > budget:
            raise InfeasibleBudgetError(budget, fastest_ms, headroom=headroom, device=device_name, how="predicted")
    evaluate = cached(evaluate_top1, EvaluationCache() if cache is None else cache, progress=progress)

    samples, pool = _sample(space, costs, num_samples, sampling_rng)
    samples_top1 = evaluate(space.to_archs(samples))
    model = make_predictor(space).fit(samples, samples_top1)

    def objectives(population: Population) -> npt.NDArray[np.float64]:
        return np.column_stack([-model.predict(population), predict_ms(population)])

    evolved = nsga2(
        space,
        objectives,
        rng=search_rng,
        population_size=population_size,
        num_generations=num_generations,
        initial=np.concatenate([fastest_arch, samples]),
    ).front()
    front = evolved.population[spread(evolved.values[:, 1], num_front)]
    num_new = int(np.sum(~_is_in(space, front, samples)))
    baseline = pool[spread(_first_cost(costs, pool), num_new)]

    known = space.to_archs(np.concatenate([samples, front, baseline]))
    top1 = dict(zip(known, evaluate(known), strict=True))
    distinct = take_unseen(space, np.concatenate([samples, baseline, evolved.population]), set())
    candidates = _candidates(space, distinct, objectives(distinct), top1, costs).assign(
        is_random=_is_in(space, distinct, np.concatenate([samples, baseline])),
        is_front=_is_in(space, distinct, evolved.population),
    )
    volumes = _compare(
        candidates,
        front=_is_in(space, distinct, np.concatenate([samples, front])),
        random=candidates["is_random"].to_numpy(),
    )
    candidates, picks = pick_within_budgets(
        candidates,
        budgets_ms,
        evaluate_top1=evaluate,
        measure_ms=measure_ms,
        device=device_name,
        num_candidates=num_candidates,
        headroom=headroom,
    )
    tau = held_out_kendall_tau(make_predictor, space, samples, samples_top1, rng=sampling_rng)
    selected = {
        "format": FORMAT,
        "device": device_name,
        "space_fingerprint": space.fingerprint,
        "seed": seed,
        "num_evaluations": int(candidates["measured_top1_percent"].notna().sum()),
        "predictor": {"name": predictor, "kendall_tau": tau, "num_samples": len(samples)},
        **volumes,
        "headroom_percent": 100 * headroom,
        "picks": [
            _pick_entry(row, budget, costs)
            for row, budget in zip(candidates.loc[picks].to_dict("records"), budgets_ms, strict=True)
        ],
    }
    result = SearchResult(front=_front_table(candidates, picks, costs), selected=selected)
    write_csv_atomic(Path(out_dir) / "front.csv", result.front)
    write_json_atomic(Path(out_dir) / "selected.json", result.selected)
    return result


def _check_arguments(num_samples: int, budgets_ms: Sequence[float], predictor: str) -> None:
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}; the search learns from at least 2 subnets, better 100 or more")
    if any(not 0 < budget < np.inf for budget in budgets_ms):
        raise ValueError(f"budgets are positive numbers of milliseconds, not {list(budgets_ms)}")
    if predictor not in PREDICTORS:
        raise ValueError(unknown_name_message("predictor", predictor, PREDICTORS))


def _candidates(
    space: SearchSpace,
    population: Population,
    objectives: npt.NDArray[np.float64],
    top1: Mapping[Arch, float],
    costs: Mapping[str, Cost],
) -> pd.DataFrame:
    """One row per architecture: what is predicted of it, what is known, what it costs."""
    archs = space.to_archs(population)
    return pd.DataFrame(
        {
            "arch": archs,
            "predicted_top1_percent": -objectives[:, 0],
            "predicted_latency_ms": objectives[:, 1],
            "measured_top1_percent": [top1.get(arch, np.nan) for arch in archs],
            **{name: _whole(cost.predict(population)) for name, cost in costs.items()},
        }
    )


def _sample(
    space: SearchSpace, costs: Mapping[str, Cost], num: int, rng: np.random.Generator
) -> tuple[Population, Population]:
    """``num`` random architectures, smallest and largest first, and others from which the baseline can draw."""
    seen: set[bytes] = set()
    bounds = take_unseen(space, space.to_population([space.smallest(), space.largest()]), seen)
    pool = sample_distinct(space, 4 * num, rng, seen)
    chosen = spread(_first_cost(costs, pool), num - len(bounds))
    return np.concatenate([bounds, pool[chosen]]), np.delete(pool, chosen, axis=0)


def _first_cost(costs: Mapping[str, Cost], population: Population) -> npt.NDArray[np.float64]:
    for cost in costs.values():
        return cost.predict(population)
    return np.zeros(len(population))


def _is_in(space: SearchSpace, population: Population, others: Population) -> npt.NDArray[np.bool_]:
    return np.isin(space.row_keys(population), space.row_keys(others))


def _whole(values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Counts as integers, so that files do not show them as 1234567.0."""
    return values.astype(np.int64) if np.all(values == np.round(values)) else values


def _compare(candidates: pd.DataFrame, **sides: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Hypervolumes, in percent times milliseconds, of the evaluated rows that each side may count as its own.

    The reference point is the least accuracy and the greatest latency of them all.
    """
    known = candidates["measured_top1_percent"].notna()
    points = np.column_stack([-candidates["measured_top1_percent"], candidates["predicted_latency_ms"]])
    reference = points[known].max(axis=0)
    return {
        "hypervolume": {name: hypervolume(points[mask], reference) for name, mask in sides.items()},
        "hypervolume_reference": {"top1_percent": float(-reference[0]), "latency_ms": float(reference[1])},
        "hypervolume_num_evaluations": {name: int(np.sum(mask)) for name, mask in sides.items()},
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
    table = table.rename(columns={"latency_ms_p50": "measured_latency_ms"})
    columns = ["arch", "predicted_top1_percent", "predicted_latency_ms", "measured_top1_percent", "measured_latency_ms"]
    return table[[*columns, *costs, "origin"]]


def _pick_entry(row: Mapping[Hashable, Any], budget_ms: float, costs: Mapping[str, Cost]) -> dict[str, Any]:
    values = ["predicted_top1_percent", "measured_top1_percent", "predicted_latency_ms"]
    latency_ms = {name.removeprefix("latency_ms_"): row[name] for name in LATENCIES}
    return {
        "budget_ms": float(budget_ms),
        "arch": dict(row["arch"]),
        **{name: row[name] for name in values},
        "measured_latency_ms": latency_ms["p50"],
        "latency_ms": latency_ms,
        **{name: row[name] for name in costs},
    }
