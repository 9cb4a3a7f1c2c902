"""Everything that a run folder holds, as far as it is there, read once for the page and the plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ofa.errors import UsageError, shown
from ofa.files import FileFormatError, check_keys, check_numbers, read_csv, read_json
from ofa.metrics import Metric, metric_of
from ofa.search.pick import HEADROOM, read_selected
from ofa.search.run import FLEET
from ofa.space import Arch, SearchSpace, SpaceError

BUNDLE_FORMATS = (1, 2)
REMEDY = "run `ofa train` first or give another --run"


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
        """As in ``selected.json``, each with its ``measured_score`` besides."""
        picks = self.selected["picks"] if self.selected else []
        return [{**pick, "measured_score": pick[self.metric.of("measured")]} for pick in picks]

    @property
    def budgets_ms(self) -> list[float]:
        """Of the picks, each once, ascending."""
        return sorted({float(pick["budget_ms"]) for pick in self.picks})

    @property
    def headroom(self) -> float:
        """How far a pick's measured median stays below its budget, as a share of the median."""
        return (self.selected or {}).get("headroom_percent", 100 * HEADROOM) / 100

    def bundle_of(self, arch: Mapping[str, Any], budget_ms: float | None = None) -> dict[str, Any] | None:
        """The bundle of an architecture, made for ``budget_ms`` if that is given."""
        same = (bundle for bundle in self.bundles if bundle["arch"] == dict(arch))
        return next((bundle for bundle in same if budget_ms in (None, bundle["budget_ms"])), None)


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run folder; ``supernet`` is the content of ``supernet.json``, ``damaged`` says which tables are left out."""

    run_dir: Path
    supernet: dict[str, Any]
    space: SearchSpace
    metric: Metric
    metrics: pd.DataFrame | None
    devices: tuple[DeviceResults, ...]
    damaged: tuple[str, ...] = ()

    def names_of(self, device: DeviceResults) -> list[str]:
        """The device's name; those of all others where it is the fleet."""
        return [each.name for each in self.devices if each.name != FLEET] if device.name == FLEET else [device.name]


def read_run(run_dir: Path | str, *, tables_dir: Path | str | None = None) -> RunFiles:
    """Read a run folder.

    Args:
        tables_dir: Where latency tables are looked for before ``run_dir/latency_tables``.

    Damaged latency tables are left out: they may be of anything.

    Raises:
        FileFormatError: If ``supernet.json`` is missing, or if any other file is truncated, of another format, or
            belongs to another search space.
    """
    run_dir = Path(run_dir)
    supernet = read_json(run_dir / "supernet.json", kind="run folder", remedy=REMEDY)
    check_keys(supernet, SUPERNET, where=str(run_dir / "supernet.json"), remedy=REMEDY)
    try:
        space, metric = SearchSpace.from_json(supernet["space"]), metric_of(supernet)
    except (SpaceError, UsageError) as error:
        raise FileFormatError(f"{run_dir / 'supernet.json'}: {error}; {REMEDY}") from None
    table_roots = [Path(root) for root in (tables_dir, run_dir / "latency_tables") if root is not None]
    tables, damaged = _find_tables(table_roots, space)
    paths = [*sorted(run_dir.glob("bundles/**/bundle.json")), *sorted(run_dir.glob("deploy/*/bundle.json"))]
    bundles = [_read_bundle(path, metric) | {"folder": path.parent.relative_to(run_dir).as_posix()} for path in paths]
    searched = [path.name for path in sorted(run_dir.glob("search/*")) if path.is_dir()]
    names = dict.fromkeys([*searched, *(bundle["device"] for bundle in bundles), *tables])
    return RunFiles(
        run_dir=run_dir,
        supernet=supernet,
        space=space,
        metric=metric,
        metrics=_read_metrics(run_dir / "metrics.csv", metric),
        damaged=damaged,
        devices=tuple(
            _read_device(
                run_dir / "search" / name,
                space,
                metric,
                tables.get(name, (None, None)),
                [bundle for bundle in bundles if bundle["device"] == name],
            )
            for name in names
        ),
    )


FRONT_NUMBERS = ("predicted_latency_ms", "measured_latency_ms", "macs", "params")
LATENCY = {"p10": float, "p50": float, "p90": float, "num_runs?": int, "quantiles?": [float]}
RECIPE = {
    **{"name?": str, "strategy?": {"teacher_share?": float}, "model?": dict},
    "train?": {"epochs?": float, "learning_rate?": float},
}
SUPERNET = {"space": list, "num_classes": int, "model": {"name": str}, "recipe?": RECIPE, "versions?": dict}
SUPERNET |= {"data": {"name": str, "root?": str, "num_train?": int}}
TABLE = {
    "fingerprint?": dict,
    "repeatability_percent?": float,
    "held_out?": {"mape_percent?": float, "predicted_ms?": [float], "measured_ms?": [float]},
}


def _read_bundle(path: Path, metric: Metric) -> dict[str, Any]:
    remedy = "export it again with `ofa export`"
    try:
        bundle = read_json(path, kind="bundle", remedy=remedy, format=BUNDLE_FORMATS[0])
    except FileFormatError:
        bundle = read_json(path, kind="bundle", remedy=remedy, format=BUNDLE_FORMATS[1])
    score = {f"{metric.name}?": {"value": float, "low": float, "high": float}}
    shape = {"arch": dict, "device": str, "budget_ms": float, "latency_ms": LATENCY, **score}
    check_keys(bundle, shape, where=str(path), remedy=remedy)
    if Path(bundle["device"]).name != bundle["device"]:
        raise FileFormatError(f"{path}: device {shown(bundle['device'])} leaves the folder; {remedy}")
    return bundle


def _read_metrics(path: Path, metric: Metric) -> pd.DataFrame | None:
    if not path.exists():
        return None
    remedy = "train again"
    table = read_csv(path, numbers=["epoch", "step"], remedy=remedy)
    bounds = [metric.of(which) for which in ("largest", "smallest")]
    drawn = [column for column in map(str, table) if column in bounds or column.startswith("loss_")]
    check_numbers(table, drawn, where=path, remedy=remedy)
    return table


# Files of earlier versions lack these.
LATER_FRONT_COLUMNS = ("latency_ms_p10", "latency_ms_p90", "num_images")


def _read_front(path: Path, metric: Metric, remedy: str) -> pd.DataFrame:
    scores = {metric.of(what): f"{what}_score" for what in ("predicted", "measured")}
    front = read_csv(path, ["origin"], numbers=[*scores, *FRONT_NUMBERS], json_in=["arch"], remedy=remedy)
    later = [column for column in (*LATER_FRONT_COLUMNS, *metric.columns[1:]) if column in front]
    check_numbers(front, later, where=path, remedy=remedy)
    front = front.rename(columns=scores)
    front["worth"] = metric.sign * front["measured_score"]
    return front.reindex(columns=list(dict.fromkeys([*front.columns, *LATER_FRONT_COLUMNS])))


def _find_tables(
    roots: Iterable[Path], space: SearchSpace
) -> tuple[dict[str, tuple[Path, dict[str, Any]]], tuple[str, ...]]:
    """For each device, the first latency table that was made for ``space``; and what is wrong with damaged ones."""
    tables: dict[str, tuple[Path, dict[str, Any]]] = {}
    damaged = []
    remedy = "measure it again with `ofa profile`"
    for root in roots:
        for path in sorted(root.glob("*/*.json")):
            if path.parent.name in tables:
                continue
            try:
                table = read_json(path, kind="latency table", remedy=remedy)
                if "csv" in table and table.get("space") == space.to_json():  # what else has a space: supernet.json
                    check_keys(table, TABLE, where=str(path), remedy=remedy)
                    _check_held_out(table.get("held_out") or {}, path, remedy)
                    tables[path.parent.name] = path.with_suffix(".csv"), table
            except FileFormatError as error:
                damaged.append(str(error))
    return tables, tuple(damaged)


def _check_held_out(held_out: Mapping[str, Any], path: Path, remedy: str) -> None:
    predicted, measured = (held_out.get(f"{what}_ms") or [] for what in ("predicted", "measured"))
    if len(predicted) != len(measured) or not all(value > 0 for value in [*predicted, *measured]):
        raise FileFormatError(f"{path}: held_out must have pairs of positive latencies; {remedy}")


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
