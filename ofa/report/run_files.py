"""Everything that a run folder holds, as far as it is there, read once for the page and the plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ofa.config import Record, check_record
from ofa.cost.latency_table import check_table, interval_percent
from ofa.files import FileFormatError, check_file_name, read_csv, read_json
from ofa.metrics import Metric, metric_of
from ofa.report.strategy import RecipeRecord
from ofa.search.pick import HEADROOM
from ofa.search.run import FLEET
from ofa.search.search_files import Percentiles, archs_of, read_front, read_selected
from ofa.space import Arch, SearchSpace, SpaceError
from ofa.states import States, states_from

BUNDLE_FORMATS = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class _Named(Record):
    name: str
    root: str | None = None
    num_train: int | None = None


@dataclass(frozen=True, kw_only=True)
class _RunRecord(Record):
    """What is read of ``supernet.json``, besides its space; a page can be made of what earlier versions wrote."""

    model: _Named
    data: _Named
    num_classes: int
    recipe: RecipeRecord = field(default_factory=RecipeRecord)
    versions: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str | None = None
    origin: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _BundleLatency(Percentiles):
    num_runs: int = 0
    quantiles: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _BundleScore(Record):
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class _BundleRecord(Record):
    """What is read of ``bundle.json``; without a score where it was judged by another metric."""

    device: str
    arch: dict[str, Any]
    budget_ms: float | None
    latency_ms: _BundleLatency
    score: _BundleScore | None


@dataclass(frozen=True, kw_only=True)
class DeviceResults:
    """What is known of one device; whatever has not been made yet is ``None`` or empty.

    ``front`` holds the run's metric as ``measured_score`` and ``predicted_score``, and ``worth``, of which more is
    better. ``selected`` is the content of ``selected.json``, ``table`` that of the latency table's JSON file, and
    ``archs`` are the architectures of ``selected["picks"]``. ``bundles`` are contents of ``bundle.json``, each with its
    ``folder`` besides, relative to the run's.
    """

    name: str
    front: pd.DataFrame | None
    selected: dict[str, Any] | None
    archs: tuple[Arch, ...]
    table: dict[str, Any] | None
    table_csv: Path | None
    bundles: Sequence[dict[str, Any]]
    metric: Metric

    @property
    def picks(self) -> list[dict[str, Any]]:
        """As in ``selected.json``, each with its ``measured_score`` and ``promised_score`` besides; promises of earlier
        versions are ``None``."""
        picks = self.selected["picks"] if self.selected else []
        names = {f"{what}_score": self.metric.of(what) for what in ("measured", "promised")}
        later: dict[str, Any] = {"promised_interval": None, "choices": [], "class_losses": []}
        return [{**later, **pick, **{score: pick.get(name) for score, name in names.items()}} for pick in picks]

    @property
    def budgets_ms(self) -> list[float]:
        """Of the picks, each once, ascending."""
        return sorted({float(pick["budget_ms"]) for pick in self.picks})

    @property
    def headroom(self) -> float:
        """How far a pick's measured median stays below its budget, as a share of the median."""
        return (self.selected or {}).get("headroom_percent", 100 * HEADROOM) / 100

    @property
    def interval_percent(self) -> float | None:
        """By how many percent subnets may be slower or faster than the table says; ``None`` where it does not tell."""
        held_out = (self.table or {}).get("held_out", {})
        found = interval_percent(*(held_out.get(key, ()) for key in ("predicted_ms", "measured_ms")))
        return found if math.isfinite(found) else None

    @property
    def states(self) -> States | None:
        """The speeds that the machine ran at when the table was made."""
        return states_from((self.table or {}).get("details", {}).get("states"))

    def bundle_of(self, arch: Mapping[str, Any], budget_ms: float | None = None) -> dict[str, Any] | None:
        """The bundle of an architecture, made for ``budget_ms`` if that is given."""
        same = (bundle for bundle in self.bundles if bundle["arch"] == dict(arch))
        return next((bundle for bundle in same if budget_ms in (None, bundle["budget_ms"])), None)


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run folder; ``supernet`` is the content of ``supernet.json``, ``damaged`` says which tables are left out."""

    run_dir: Path
    search_dir: Path
    supernet: dict[str, Any]
    space: SearchSpace
    metric: Metric
    metrics: pd.DataFrame | None
    devices: tuple[DeviceResults, ...]
    damaged: tuple[str, ...] = ()

    def names_of(self, device: DeviceResults) -> list[str]:
        """The device's name; those of all others where it is the fleet."""
        return [each.name for each in self.devices if each.name != FLEET] if device.name == FLEET else [device.name]

    @property
    def data_name(self) -> str:
        """What reads the data, and the last part of where it lay."""
        data = self.supernet["data"]
        return " · ".join(filter(None, [data["name"], Path(data.get("root") or "").name]))

    @property
    def origin(self) -> dict[str, str]:
        """Whose weights were imported; empty where they were trained here."""
        return {name: str(value) for name, value in self.supernet.get("origin", {}).items()}

    @property
    def bounds(self) -> list[float]:
        """Scores of the largest and the smallest subnet when they were last evaluated, as far as they were."""
        if self.metrics is None:
            return []
        known = (self.metrics[column].dropna() for column in bounds_columns(self.metric) if column in self.metrics)
        return [values.iloc[-1] for values in known if len(values)]

    @property
    def dims(self) -> dict[str, str]:
        """What varies and how: the last part of the dims' names to the values that it takes."""
        values: dict[str, set[Any]] = {}
        for dim in self.space.dims:
            values.setdefault(dim.name.split(".")[-1], set()).update(dim.values)
        return {
            name: ", ".join(map(str, sorted(each, key=lambda v: (isinstance(v, str), v))))
            for name, each in values.items()
        }


def read_run(
    run_dir: Path | str, *, tables_dir: Path | str | None = None, search_dir: Path | str | None = None
) -> RunFiles:
    """Read a run folder.

    Args:
        tables_dir: Where latency tables are looked for before ``run_dir/latency_tables``.
        search_dir: Where a search left its files; ``run_dir/search`` if ``None``.

    Damaged latency tables are left out: they may be of anything.

    Raises:
        FileFormatError: If ``supernet.json`` is missing, or if any other file is truncated, of another format, or
            belongs to another search space.
    """
    run_dir = Path(run_dir)
    search_dir = run_dir / "search" if search_dir is None else Path(search_dir)
    supernet = read_json(
        run_dir / "supernet.json", kind="run folder", remedy="run `ofa train` first or give another --run"
    )
    check_record(_RunRecord, supernet, where=str(run_dir / "supernet.json"), remedy="train again")
    space, metric = SearchSpace.from_json(supernet.get("space")), metric_of(supernet)
    metrics_path = run_dir / "metrics.csv"
    table_roots = [Path(root) for root in (tables_dir, run_dir / "latency_tables") if root is not None]
    tables, damaged = _find_tables(table_roots, space)
    paths = [*sorted(run_dir.glob("bundles/**/bundle.json")), *sorted(run_dir.glob("deploy/*/bundle.json"))]
    bundles = [_read_bundle(path, metric) | {"folder": path.parent.relative_to(run_dir).as_posix()} for path in paths]
    searched = [path.name for path in sorted(search_dir.glob("*")) if path.is_dir()]
    names = dict.fromkeys([*searched, *(bundle["device"] for bundle in bundles), *tables])
    return RunFiles(
        run_dir=run_dir,
        search_dir=search_dir,
        supernet=supernet,
        space=space,
        metric=metric,
        metrics=_read_metrics(metrics_path, metric) if metrics_path.exists() else None,
        damaged=damaged,
        devices=tuple(
            _read_device(
                search_dir / name,
                space,
                metric,
                tables.get(name, (None, None)),
                [bundle for bundle in bundles if bundle["device"] == name],
            )
            for name in names
        ),
    )


LOSSES = {
    "loss_largest": ("Largest", "front"),
    "loss_random": ("Random", "random"),
    "loss_smallest": ("Smallest", "random_front"),
}


def bounds_columns(metric: Metric) -> dict[str, tuple[str, str]]:
    """Of ``metrics.csv``: what the largest and the smallest subnet are worth."""
    return {metric.of("largest"): ("Largest", "front"), metric.of("smallest"): ("Smallest", "random_front")}


def _read_metrics(path: Path, metric: Metric) -> pd.DataFrame:
    return read_csv(
        path,
        numbers=["epoch", "step"],
        optional=[*LOSSES, *bounds_columns(metric)],
        kind="metrics",
        remedy="train again",
    )


def _read_bundle(path: Path, metric: Metric) -> dict[str, Any]:
    remedy = "export it again with `ofa export`"
    bundle = read_json(path, kind="bundle", remedy=remedy, formats=BUNDLE_FORMATS)
    record = {**bundle, "score": bundle.get(metric.name)}
    check_file_name("device", check_record(_BundleRecord, record, where=f"bundle {path}", remedy=remedy).device)
    return bundle


def _read_front(path: Path, metric: Metric, remedy: str) -> pd.DataFrame:
    scores = {metric.of(what): f"{what}_score" for what in ("predicted", "measured")}
    table = read_front(path, metric, remedy=remedy)
    archs_of(table, path, remedy=remedy)
    front = table.rename(columns=scores)
    return front.assign(worth=metric.sign * front["measured_score"])


def _find_tables(
    roots: Iterable[Path], space: SearchSpace
) -> tuple[dict[str, tuple[Path, dict[str, Any]]], tuple[str, ...]]:
    """For each device, the first latency table that was made for ``space``; and what is wrong with damaged ones."""
    tables: dict[str, tuple[Path, dict[str, Any]]] = {}
    damaged = []
    for root in roots:
        for path in sorted(root.glob("*/*.json")):
            if path.parent.name in tables:
                continue
            try:
                table = read_json(path, kind="latency table", remedy="measure it again with `ofa profile`")
                if "csv" in table and table.get("space") == space.to_json():  # what else has a space: supernet.json
                    check_table(table, where=f"latency table {path}")
                    tables[path.parent.name] = path.with_suffix(".csv"), table
            except FileFormatError as error:
                damaged.append(str(error))
    return tables, tuple(damaged)


def _read_device(
    search_dir: Path,
    space: SearchSpace,
    metric: Metric,
    csv_and_table: tuple[Path, dict[str, Any]] | tuple[None, None],
    bundles: Sequence[dict[str, Any]],
) -> DeviceResults:
    remedy = f"search again with `ofa search --device {search_dir.name}`"
    table_csv, table = csv_and_table
    front_path, selected_path = search_dir / "front.csv", search_dir / "selected.json"
    selected = read_selected(selected_path, remedy=remedy) if selected_path.exists() else None
    try:
        archs = tuple(space.arch(pick["arch"]) for pick in selected["picks"]) if selected else ()
    except SpaceError as error:
        raise FileFormatError(f"{selected_path} does not fit this run's search space: {error}; {remedy}") from None
    return DeviceResults(
        name=search_dir.name,
        front=_read_front(front_path, metric, remedy) if front_path.exists() else None,
        selected=selected,
        archs=archs,
        table=table,
        table_csv=table_csv,
        bundles=bundles,
        metric=metric,
    )
