"""The search for devices and budgets: search, random search beside it, measure, pick."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.config import to_plain
from ofa.cost.cost_model import CostModel
from ofa.errors import UsageError
from ofa.files import FORMAT, write_csv_atomic, write_json_atomic
from ofa.locks import only_writer
from ofa.metrics import Metric, name_in_file
from ofa.progress import Progress
from ofa.search.bucket_elimination import Gap
from ofa.search.driver import search
from ofa.search.evaluation_cache import Scores
from ofa.search.exact_proposals import search_predicted
from ofa.search.methods.linas import PredictedValues
from ofa.search.pareto import Evaluations, hypervolume, non_dominated
from ofa.search.pick import (
    FROM_MS,
    HEADROOM,
    INTERVAL,
    MEASURED,
    REPLACE_BELOW,
    InfeasibleBudgetError,
    check_budgets,
    check_min_metric,
    check_replace_below,
    pick_entries,
    pick_within_budgets,
)
from ofa.search.posterior import OWN_NOISE, Posterior, posterior
from ofa.search.predictors import Features
from ofa.search.problem import Constraint, Cost, Dearest, Problem, Values, descend
from ofa.search.sampling import spread, take_unseen
from ofa.search.why import choices_of, class_losses
from ofa.space import Arch, Population, SearchSpace
from ofa.states import Speed

FLEET = "fleet"
CURVE_POINTS = 20
NUM_MEASURED = 16  # of the front, whatever the budgets


@dataclass(frozen=True)
class Target:
    """A device that subnets are wanted for.

    Args:
        predict_ms: Maps ``(N, D)`` architectures to ``(N,)`` milliseconds.
        measure_ms: Measures several architectures side by side: ``latency_ms_p10``, ``_p50`` and ``_p90``, in order.
        identity: What its predictions and measurements go by: the table's checksum, the machine.
        costs: By name, for its result files: what is another number on each device, such as bytes.
        speed: What ``predict_ms`` and ``measure_ms`` are stated at, and which percentile must keep a budget.
        interval_percent: 90 of 100 subnets take within so many percent of what is predicted; 0 where nothing says.
        cost_model: ``predict_ms`` as a sum of factors, if it is one; exact search then proposes too.
    """

    name: str
    predict_ms: Callable[[Population], Values]
    measure_ms: Callable[[list[Arch]], pd.DataFrame]
    identity: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)
    interval_percent: float = 0.0
    cost_model: CostModel | None = None


def fleet(targets: Sequence[Target]) -> Target:
    """All devices as one: a subnet takes as long as it does on the slowest for it."""

    def measure_ms(archs: list[Arch]) -> pd.DataFrame:
        each = [target.measure_ms(archs).reindex(columns=MEASURED).to_numpy(dtype=np.float64) for target in targets]
        return pd.DataFrame(np.max(each, axis=0), columns=MEASURED)

    return Target(
        FLEET,
        lambda population: np.max([target.predict_ms(population) for target in targets], axis=0),
        measure_ms,
        _merged([target.identity for target in targets]),
        {name: Dearest([target.costs[name] for target in targets]) for name in targets[0].costs},
        dataclasses.replace(targets[0].speed, states=None),
        max(target.interval_percent for target in targets),
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
    """What :class:`TargetSearch` found for a device: the contents of ``front.csv`` and of ``selected.json``."""

    front: pd.DataFrame
    selected: dict[str, Any]


def check_feasible(
    space: SearchSpace,
    predict_ms: Mapping[str, Callable[[Population], Values]],
    budgets_ms: Sequence[float],
    *,
    constraints: Sequence[Constraint] = (),
    seed: int,
) -> None:
    """:class:`InfeasibleBudgetError` if predictions say that nothing keeps a budget.

    Args:
        predict_ms: By device.
    """
    check_budgets(budgets_ms)
    problem = Problem(space, 1, constraints=constraints)
    for name, predict in predict_ms.items():
        rng = np.random.default_rng(seed)
        if constraints:  # a thousand that satisfy them: the least latency among these is near enough
            fastest_ms = float(predict(problem.sample(1000, rng, set())).min())
        else:
            fastest_ms = descend(space, predict, rng)[1]
        for budget in budgets_ms:
            if fastest_ms > budget:
                raise InfeasibleBudgetError(budget, fastest_ms, device=name, how="predicted")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What was evaluated: by the search of each device, by random search, and all of it once."""

    searched: Mapping[str, list[Arch]]
    random: list[Arch]
    everything: pd.DataFrame


@dataclass(kw_only=True)
class TargetSearch:
    """Searches the front of each device, and picks a measured subnet for each budget.

    1. :func:`ofa.search.search` with ``num_evaluations``, for the first device. Each further device begins with what is
       known already and spends a quarter as many.
    2. Random search with as many evaluations, shared by the devices: the yardstick.
    3. From all that is known, a predictor, NSGA-II and exact search propose candidates beyond what was evaluated.
    4. The best candidates of each budget, and up to 16 of the front, are evaluated and measured on the device; picks
       are taken from what was measured, by what all evaluations say of them (:func:`pick_within_budgets`).

    The same seed, space, scores and latencies give the same result, whether or not scores came from the cache.
    Each device's files are in ``out_dir``/NAME. What one that is as fast surely beats is not evaluated to the end.

    Args:
        scores: What subnets are worth, by the metric that the search goes by.
        costs: By name, for the result files: ``macs``, ``params``.
        num_evaluations: Of the first device's search, and again of random search.
        method: See :func:`ofa.search.search`.
        predictor: See :func:`ofa.search.search`; it also proposes the last candidates.
        constraints: Hold for all that is evaluated.
        min_metric: For each the fastest subnet is picked that promises so much, after those of the budgets.
        replace_below: A faster subnet is picked instead of the best where its chance of being worse is below that.
        initial: Architectures to begin with, such as another search's front.
        with_fleet: Also search for the best single subnet for all devices: one more target, called ``fleet``.
        by_class: Gives, of some architectures, what each class is worth to them, if there are classes.
        identity: What else the result depends on, such as the weights; kept as ``facts`` in ``selected.json``, with
            each target's own, for :func:`ofa.search.answer.answer`.

    Raises:
        UsageError: If a number makes no sense.
    """

    space: SearchSpace
    scores: Scores
    targets: Sequence[Target]
    costs: Mapping[str, Cost]
    budgets_ms: Sequence[float]
    out_dir: Path | str
    num_evaluations: int = 100
    method: str = "auto"
    predictor: str = "auto"
    constraints: Sequence[Constraint] = ()
    min_metric: Sequence[float] = ()
    replace_below: float = REPLACE_BELOW
    initial: Sequence[Arch] = ()
    with_fleet: bool = False
    seed: int = 0
    by_class: Callable[[list[Arch]], list[Mapping[str, float | None]]] | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    _num_done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.num_evaluations < 2:
            raise UsageError(
                f"num_evaluations is {self.num_evaluations}; a search needs at least 2, better 100 or more"
            )
        check_budgets(self.budgets_ms)
        check_min_metric(self.min_metric, self.metric)
        check_replace_below(self.replace_below)
        if self.with_fleet:
            self.targets = [*self.targets, fleet(self.targets)]

    def run(self) -> dict[str, SearchResult]:
        """Search, and write the files.

        Returns:
            Name of the device -> its result.

        Raises:
            InfeasibleBudgetError: If no subnet keeps a budget: before anything is evaluated where predictions say so.
            InfeasibleError: If nothing satisfies the constraints.
            UsageError: If a name makes no sense.
            LockedError: If another process searches for one of the devices there.
        """
        with ExitStack() as stack:
            for target in self.targets:
                stack.enter_context(only_writer(Path(self.out_dir) / target.name, command="ofa search", beside=True))
            return self._run()

    def _run(self) -> dict[str, SearchResult]:
        predictions = {target.name: target.predict_ms for target in self.targets}
        check_feasible(self.space, predictions, self.budgets_ms, constraints=self.constraints, seed=self.seed)
        found = self._search_all()
        results = {}
        for target in self.targets:
            result = self._settle(target, found)
            folder = Path(self.out_dir) / target.name
            write_csv_atomic(folder / "front.csv", result.front)
            write_json_atomic(folder / "selected.json", result.selected)
            results[target.name] = result
        return results

    @property
    def metric(self) -> Metric:
        return self.scores.metric

    @property
    def statistics(self) -> list[Callable[[Population], Values]]:
        return [cost.predict for cost in self.costs.values()]

    # -- steps 1 and 2 -----------------------------------------------------------------------------------------------

    def _search_all(self) -> _Found:
        error = self.metric.error_name
        known = pd.DataFrame({"arch": [], error: []})
        searched: dict[str, list[Arch]] = {}
        for number, target in enumerate(self.targets):
            priced = known.assign(latency_ms=target.predict_ms(self.space.to_population(list(known["arch"]))))
            table = self._search(
                target,
                num_evaluations=self.num_evaluations if number == 0 else self._num_further,
                method=self.method,
                seed=self.seed,
                initial=self.initial if number == 0 else priced,
            )
            searched[target.name] = list(table["arch"])
            known = table[["arch", error]]
        first = self.targets[0]
        random = self._search(first, num_evaluations=len(searched[first.name]), method="random", seed=self.seed + 1)
        everything = pd.concat([known, random[["arch", error]]]).drop_duplicates("arch", ignore_index=True)
        return _Found(searched=searched, random=list(random["arch"]), everything=everything)

    def _search(self, target: Target, **settings: Any) -> pd.DataFrame:
        return search(
            self.space,
            self._values_of(target),
            objectives=(self.metric.error_name, "latency_ms"),
            free={"latency_ms": target.predict_ms},
            predictor=self.predictor,
            statistics=self.statistics,
            noise={self.metric.error_name: self._noise},
            constraints=self.constraints,
            chunk_size=self.scores.chunk_size,  # what was found so far counts for the next
            **settings,
        )

    def _noise(self, population: Population) -> Values:
        """What in the scores of evaluated architectures is chance of their own, as a variance."""
        return OWN_NOISE * self.metric.variances(self.scores.known(self.space.to_archs(population)))

    @property
    def _num_further(self) -> int:
        return max(self.num_evaluations // 4, 2)

    def _values_of(self, target: Target) -> Callable[[Population], Values]:
        """Errors and latencies, for one search: it gives up what its own points dominate."""
        found: dict[Arch, float] = {}

        def floors(archs: list[Arch]) -> npt.NDArray[np.float64]:
            complete = [arch for arch in found if arch in self.scores.cache]
            if not complete:
                return np.full(len(archs), self.metric.worst)
            known = np.array([found[arch] for arch in complete])
            theirs, ours = (target.predict_ms(self.space.to_population(some)) for some in (complete, archs))
            as_fast = np.where(theirs <= ours[:, None], known, self.metric.worst)
            return as_fast.max(axis=1) if self.metric.higher_is_better else as_fast.min(axis=1)

        def values(population: Population) -> Values:
            archs = self.space.to_archs(population)
            now = self.scores(archs, floors)
            found.update(zip(archs, now.tolist(), strict=True))
            self._report(len(archs))
            return np.column_stack([self.metric.error(now), target.predict_ms(population)])

        return values

    def _report(self, num: int) -> None:
        total = 2 * self.num_evaluations + (len(self.targets) - 1) * self._num_further
        self._num_done = min(self._num_done + num, total)
        if self.progress is not None:
            self.progress(self._num_done, total, "evaluating subnets")

    # -- steps 3 and 4 -----------------------------------------------------------------------------------------------

    def _settle(self, target: Target, found: _Found) -> SearchResult:
        metric = self.metric
        errors = found.everything[metric.error_name].to_numpy(dtype=np.float64)
        measured = dict(zip(found.everything["arch"], metric.value(errors).tolist(), strict=True))
        candidates, model, nsga2_gap = self._candidates(target, found, errors, measured)
        candidates, picks = pick_within_budgets(
            candidates,
            self.budgets_ms,
            metric=metric,
            evaluate=self.scores,
            judge=partial(self._judge, target),
            measure_ms=target.measure_ms,
            device=target.name,
            column=target.speed.column,
            also=self._spread_front(candidates),
            min_metric=self.min_metric,
            replace_below=self.replace_below,
        )
        columns = [metric.of("measured"), *metric.columns[1:]]
        candidates[columns] = self.scores.known(list(candidates["arch"]))
        chosen = model.chosen[0]
        rows = candidates.loc[picks].to_dict("records")
        selected = {
            "format": FORMAT,
            **name_in_file(metric),
            "device": target.name,
            "space_fingerprint": self.space.fingerprint,
            "seed": self.seed,
            "num_evaluations": int(candidates[metric.of("measured")].notna().sum()),
            "predictor": {
                "name": chosen.name,
                "kendall_tau": chosen.kendall_tau[chosen.name],
                "kendall_tau_of_all": dict(chosen.kendall_tau),
                "num_samples": len(errors),
            },
            **({} if nsga2_gap is None else {"nsga2_gap": nsga2_gap._asdict()}),
            **self._compare(target, measured, front=found.searched[target.name], random=found.random),
            "headroom_percent": 100 * HEADROOM,
            "replace_below": self.replace_below,
            "interval_percent": round(target.interval_percent, 2),
            "speed": to_plain(target.speed),
            "facts": {**self.identity, **target.identity},
            "picks": self._explained(
                pick_entries(
                    rows, metric, self.budgets_ms, self.min_metric, [*self.costs, *target.costs], target.speed.column
                ),
                model,
            ),
        }
        return SearchResult(front=self._front_table(candidates, picks, [*self.costs, *target.costs]), selected=selected)

    def _candidates(
        self, target: Target, found: _Found, errors: npt.NDArray[np.float64], measured: Mapping[Arch, float]
    ) -> tuple[pd.DataFrame, PredictedValues, Gap | None]:
        """All that is known, and what a predictor learns from it to propose beyond."""
        rng = np.random.default_rng([self.seed, 1])
        metric, known = self.metric, self.space.to_population(list(found.everything["arch"]))
        problem = Problem(
            self.space,
            2,
            {1: target.predict_ms},
            self.constraints,
            statistics=self.statistics,
            sums={} if target.cost_model is None else {1: target.cost_model},
            noise={0: self._noise},
        )
        values = np.column_stack([errors, target.predict_ms(known)])
        model = PredictedValues(problem, Evaluations(known, values), self.predictor, rng)
        evolved, nsga2_gap = search_predicted(problem, model, rng=rng, initial=known[non_dominated(values)])
        distinct = take_unseen(self.space, np.concatenate([known, evolved.front().population]), set())
        archs, predicted = self.space.to_archs(distinct), model(distinct)
        searched, random = set(found.searched[target.name]), set(found.random)
        table = pd.DataFrame(
            {
                "arch": archs,
                metric.of("predicted"): metric.value(predicted[:, 0]),
                "predicted_latency_ms": predicted[:, 1],
                metric.of("measured"): [measured.get(arch, np.nan) for arch in archs],
                **{name: _whole(cost.predict(distinct)) for name, cost in {**self.costs, **target.costs}.items()},
                "is_random": [arch in random for arch in archs],
                "is_front": [arch in searched or arch not in random for arch in archs],
            }
        )
        return table, model, nsga2_gap

    def _explained(self, picks: list[dict[str, Any]], model: PredictedValues) -> list[dict[str, Any]]:
        """Picks, each with what its choices buy and, where there are classes, which of them lose most."""
        archs = [self.space.arch(pick["arch"]) for pick in picks]
        for pick, arch in zip(picks, archs, strict=True):
            pick["choices"] = choices_of(self.space, arch, model, self.metric)
        if self.by_class is not None:
            distinct = list(dict.fromkeys([*archs, self.space.largest()]))
            of = dict(zip(distinct, self.by_class(distinct), strict=True))
            for pick, arch in zip(picks, archs, strict=True):
                pick["class_losses"] = class_losses(of[arch], of[self.space.largest()])
        return picks

    def _judge(self, target: Target, archs: list[Arch]) -> Posterior:
        """What evaluated architectures are worth by all that is known of them."""
        features = Features(self.space, (target.predict_ms, *self.statistics))
        rng = np.random.default_rng([self.seed, 3])
        return posterior(self.metric, features, self.space.to_population(archs), self.scores.known(archs), rng=rng)

    def _spread_front(self, candidates: pd.DataFrame) -> list[int]:
        """Rows of the evaluated front, spread over its latencies, that are measured in any case."""
        worth = self.metric.sign * candidates[self.metric.of("measured")]
        points = np.column_stack([-worth, candidates["predicted_latency_ms"]])
        evaluated = np.flatnonzero(worth.notna())
        best = evaluated[non_dominated(points[evaluated])]
        rows: list[int] = best[spread(np.log(points[best, 1]), NUM_MEASURED)].tolist()
        return rows

    def _compare(self, target: Target, measured: Mapping[Arch, float], **sides: list[Arch]) -> dict[str, Any]:
        """Hypervolumes, in the metric's unit times milliseconds, of what each side evaluated; the whole, as it grew.

        The reference point is the worst value and the greatest latency of them all.
        """
        sign = self.metric.sign
        points = {
            name: np.column_stack(
                [[-sign * measured[arch] for arch in archs], target.predict_ms(self.space.to_population(archs))]
            )
            for name, archs in sides.items()
        }
        worst = np.max([values.max(axis=0) for values in points.values()], axis=0)
        numbers = np.unique(np.linspace(1, max(map(len, points.values())), CURVE_POINTS).round().astype(int)).tolist()
        return {
            "hypervolume": {name: hypervolume(values, worst) for name, values in points.items()},
            "hypervolume_reference": {self.metric.name: float(-sign * worst[0]), "latency_ms": float(worst[1])},
            "hypervolume_num_evaluations": {name: len(values) for name, values in points.items()},
            "hypervolume_curve": {
                "num_evaluations": numbers,
                **{name: [hypervolume(values[:num], worst) for num in numbers] for name, values in points.items()},
            },
        }

    def _front_table(self, candidates: pd.DataFrame, picks: list[int], costs: Sequence[str]) -> pd.DataFrame:
        """``front.csv``: everything that was truly evaluated; one row per origin of an architecture."""
        metric = self.metric
        known = candidates[metric.of("measured")].notna()
        groups = {
            "random": candidates[known & candidates["is_random"]],
            "front": candidates[known & candidates["is_front"]],
            "pick": candidates.loc[list(dict.fromkeys(picks))],
        }
        table = pd.concat([group.assign(origin=origin) for origin, group in groups.items()], ignore_index=True)
        table["arch"] = [arch.to_json() for arch in table["arch"]]
        table["measured_latency_ms"] = table["latency_ms_p50"]
        table["num_images"] = table["num_images"].astype(np.int64)
        columns = ["arch", metric.of("predicted"), "predicted_latency_ms", metric.of("measured"), "measured_latency_ms"]
        percentiles = [name for name in MEASURED if name != "latency_ms_p50"]
        promises = [metric.of("promised"), *INTERVAL, FROM_MS]
        return table[[*columns, *costs, "origin", *percentiles, *metric.columns[1:], *promises]]


def _whole(values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Counts as integers, so that files do not show them as 1234567.0."""
    return values.astype(np.int64) if np.all(values == np.round(values)) else values
