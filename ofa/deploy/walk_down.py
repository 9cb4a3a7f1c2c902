"""From the candidates of a search to a bundle that keeps its budget."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofa.deploy.artefact import DEFAULTS, Clock, ExportOptions, bundle_artefact, judge_artefact, make_artefact, on_disk
from ofa.deploy.bundle import BundleInfo, Latency, check_destination
from ofa.deploy.verify import Measure
from ofa.files import resolved
from ofa.hardware import Device, measure
from ofa.metrics import metric_of
from ofa.progress import Progress, only_notices
from ofa.search.pick import InfeasibleBudgetError, check_budgets
from ofa.search.search_files import archs_of, read_front, read_selected, speed_of
from ofa.states import MEDIAN, Speed
from ofa.training import SubnetEvaluator

Candidate = Mapping[str, Any]

HEADROOM = 0.02
"""The measured median must be this fraction below the budget: medians drift, and the promise is checked elsewhere."""
REMEDY = "run `ofa search` for this device"
NUM_PASSES = 3
PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class ExportResult:
    """What :func:`export_bundle` did.

    Args:
        too_slow: Candidates that looked better but missed the budget as exported files: ``arch``, ``latency_ms``.
        seconds: How long each step took, over all candidates.
    """

    path: Path
    info: BundleInfo
    too_slow: tuple[dict[str, Any], ...]
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {**asdict(self), "path": str(self.path), "info": self.info.to_json()}


@dataclass
class Walk:
    """Down the candidates of one budget, best first, until the exported file of one keeps it.

    Once some were slower than believed, those that should then miss as well are passed over.

    Args:
        candidates: Each with ``arch`` and ``latency_ms``, what the search believes of it; 0 where it was not asked.
        percentile: Of the latency, that must keep the budget.
    """

    candidates: Iterator[Candidate]
    budget_ms: float
    device: str
    percentile: int = 50
    too_slow: list[dict[str, Any]] = field(default_factory=list)
    _slowdown: float = 1.0
    _best_ms: float = np.inf
    _current: Candidate = field(default_factory=dict)

    @property
    def limit_ms(self) -> float:
        return self.budget_ms / (1 + HEADROOM)

    def advance(self) -> Candidate:
        """The next candidate that should keep the budget; :class:`InfeasibleBudgetError` if there is none."""
        for candidate in self.candidates:
            expected_ms = float(candidate["latency_ms"]) * self._slowdown
            if expected_ms <= self.limit_ms:
                self._current = candidate
                return candidate
            self._best_ms = min(self._best_ms, expected_ms)
        raise InfeasibleBudgetError(
            self.budget_ms, self._best_ms, headroom=HEADROOM, device=self.device, how="measured or predicted"
        )

    def holds(self, latency_ms: Latency) -> bool:
        """Whether the file of the candidate at hand keeps the budget."""
        found_ms = latency_ms.at(self.percentile)
        if found_ms <= self.limit_ms:
            return True
        if believed := float(self._current["latency_ms"]):
            self._slowdown = max(self._slowdown, found_ms / believed)
        self._best_ms = min(self._best_ms, found_ms)
        self.too_slow.append({"arch": dict(self._current["arch"]), "latency_ms": found_ms})
        return False


def export_bundle(
    evaluator: SubnetEvaluator,
    candidates: Sequence[Candidate],
    *,
    out: Path | str,
    device: Device,
    budget_ms: float | None,
    measure: Measure,
    run_info: Mapping[str, Any],
    speed: Speed = MEDIAN,
    options: ExportOptions = DEFAULTS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Export the first candidate whose exported file keeps the budget on the device, and write its bundle.

    The test split is touched once, for that candidate, and judged by the exported file itself in its runtime.

    Args:
        candidates: Best first; see :class:`Walk` and :func:`read_candidates`.
        budget_ms: ``None`` takes the first.
        measure: Measures files on the device; see :func:`measure_on`.
        speed: What latencies are stated at, and which of them must keep the budget.
        run_info: ``Run.info``: where the weights came from.

    Raises:
        InfeasibleBudgetError: If no candidate keeps the budget.
        ParityError: If an exported file does not compute what it should; its files are kept in ``<out>.failed``.
        TargetError: If the device runs nothing that is a file.
        BundleError: If ``out`` is taken.
    """
    out = resolved(out)
    check_destination(out, overwrite=overwrite)
    clock = Clock(progress)
    walk = Walk(iter(candidates), np.inf if budget_ms is None else budget_ms, device.name, speed.percentile)
    while True:
        arch = walk.advance()["arch"]
        artefact = make_artefact(
            evaluator, arch, device, options=options, keep_failed=out.with_name(f"{out.name}.failed"), clock=clock
        )
        with clock.step("measuring"), on_disk(artefact.files) as file:
            (latency_ms,) = measure([file], speed)
        if walk.holds(latency_ms):
            break
    with clock.step("testing"):
        score = judge_artefact(evaluator, artefact, device)
    with clock.step("writing"):
        info = bundle_artefact(
            evaluator,
            artefact,
            out,
            device=device,
            score=score,
            latency_ms=latency_ms,
            budget_ms=budget_ms,
            speed=speed,
            run_info=run_info,
            overwrite=overwrite,
        )
    return ExportResult(out, info, tuple(walk.too_slow), clock.seconds)


def measure_on(device: Device, *, rng: np.random.Generator, progress: Progress | None = None) -> Measure:
    """A function that measures files on a device, side by side, for :func:`export_bundle` and ``verify_bundle``.

    A pass takes a fraction of a second, and a shared machine can be busy for longer than that, which says nothing of
    the file. So there are several passes, apart in time, and each file's one with the lowest median counts. One more
    tells what a call takes after the caches were used by others. Whoever waits in a queue has one pass: a machine of
    its own, or many.

    Args:
        progress: Gets what is to be said, and no steps.
    """
    num_passes, progress = 1 if device.host.is_queue else NUM_PASSES, only_notices(progress)

    def measure_files(files: Sequence[Path], speed: Speed = MEDIAN) -> list[Latency]:
        found: list[list[Latency]] = []
        models = dict(zip(map(str, files), files, strict=True))
        for number in range(num_passes):
            if number:
                time.sleep(PAUSE_SECONDS)
            table = measure(models, device, rng=rng, speed=speed, progress=progress)
            found.append([_latency(row, table.attrs, str(name)) for name, row in table.iterrows()])
        best = [min(each, key=lambda latency_ms: latency_ms.p50) for each in zip(*found, strict=True)]
        if not device.can_be_cold:
            return best
        cold = replace(device, setting=replace(device.setting, cold=True))
        table = measure(models, cold, rng=rng, speed=speed, progress=progress)
        medians = table["latency_ms_p50"].round(6).tolist()
        return [replace(each, cold_p50=median) for each, median in zip(best, medians, strict=True)]

    return measure_files


def _latency(row: pd.Series, facts: Mapping[Any, Any], name: str) -> Latency:
    return Latency(
        **{name: float(row[f"latency_ms_{name}"]) for name in ("p10", "p50", "p90", "p99")},
        times_as_long=round(float(facts["times_as_long"]), 4),
        num_runs=int(row["num_runs"]),
        repeatability_percent=round(float(row["repeatability_percent"]), 3),
        quantiles=tuple(facts["quantiles_ms"][name]),
    )


def read_speed(search_dir: Path | str) -> Speed:
    """At what speed a search stated its latencies, see :func:`read_candidates`."""
    return speed_of(read_selected(Path(search_dir) / "selected.json", remedy=REMEDY))


def read_candidates(search_dir: Path | str, budget_ms: float) -> list[dict[str, Any]]:
    """What a search left for :func:`export_bundle`, best first.

    The pick for exactly this budget comes first; then all that was evaluated, by what it promises (or else by the
    metric on the search split), so that there is somewhere to go when a file misses the budget. ``latency_ms`` is
    measured, or else predicted.

    Args:
        search_dir: ``RUN/search/DEVICE``.

    Raises:
        FileFormatError: If ``selected.json`` or ``front.csv`` is missing or damaged.
        UsageError: If the budget is none.
    """
    folder = Path(search_dir)
    check_budgets([budget_ms])
    selected = read_selected(folder / "selected.json", remedy=REMEDY)
    metric, percentile = metric_of(selected), speed_of(selected).percentile
    table = read_front(folder / "front.csv", metric, remedy=REMEDY, whole=False)
    measured_ms = table["measured_latency_ms" if percentile == 50 else f"latency_ms_p{percentile}"]
    latency_ms = measured_ms.fillna(table["predicted_latency_ms"])
    worth = metric.sign * table[metric.of("promised")].fillna(table[metric.of("measured")])
    archs = archs_of(table, folder / "front.csv", remedy=REMEDY)
    table = table.assign(latency_ms=latency_ms, arch=archs, worth=worth)
    table = table.sort_values(["worth", "latency_ms"], ascending=[False, True])
    chosen = [
        {"arch": pick["arch"], "latency_ms": pick["latency_ms"][f"p{percentile}"]}
        for pick in selected["picks"]
        if pick["budget_ms"] == budget_ms
    ]
    others = [{"arch": dict(row["arch"]), "latency_ms": row["latency_ms"]} for row in table.to_dict("records")]
    first: dict[str, dict[str, Any]] = {}
    for candidate in chosen + others:
        first.setdefault(json.dumps(candidate["arch"], sort_keys=True), candidate)
    return list(first.values())
