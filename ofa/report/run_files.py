"""Everything that a run folder holds, as far as it is there, read once for the page and the plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ofa.files import FileFormatError, read_json
from ofa.metrics import Metric, metric_of
from ofa.search.pick import HEADROOM
from ofa.search.run import FLEET
from ofa.space import Arch, SearchSpace, SpaceError

BUNDLE_FORMATS = (1, 2, 3)


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
    """A run folder; ``supernet`` is the content of ``supernet.json``."""

    run_dir: Path
    supernet: dict[str, Any]
    space: SearchSpace
    metric: Metric
    metrics: pd.DataFrame | None
    devices: tuple[DeviceResults, ...]

    def names_of(self, device: DeviceResults) -> list[str]:
        """The device's name; those of all others where it is the fleet."""
        return [each.name for each in self.devices if each.name != FLEET] if device.name == FLEET else [device.name]


def read_run(run_dir: Path | str, *, tables_dir: Path | str | None = None) -> RunFiles:
    """Read a run folder.

    Args:
        tables_dir: Where latency tables are looked for before ``run_dir/latency_tables``.

    Raises:
        FileFormatError: If ``supernet.json`` is missing, or if any file is truncated, of another format, or belongs to
            another search space.
    """
    run_dir = Path(run_dir)
    supernet = read_json(
        run_dir / "supernet.json", kind="run folder", remedy="run `ofa train` first or give another --run"
    )
    space, metric = SearchSpace.from_json(supernet["space"]), metric_of(supernet)
    table_roots = [Path(root) for root in (tables_dir, run_dir / "latency_tables") if root is not None]
    tables = _find_tables(table_roots, space)
    paths = [*sorted(run_dir.glob("bundles/**/bundle.json")), *sorted(run_dir.glob("deploy/*/bundle.json"))]
    bundles = [
        read_json(path, kind="bundle", remedy="export it again with `ofa export`", formats=BUNDLE_FORMATS)
        | {"folder": path.parent.relative_to(run_dir).as_posix()}
        for path in paths
    ]
    searched = [path.name for path in sorted(run_dir.glob("search/*")) if path.is_dir()]
    names = dict.fromkeys([*searched, *(bundle["device"] for bundle in bundles), *tables])
    metrics_path = run_dir / "metrics.csv"
    return RunFiles(
        run_dir=run_dir,
        supernet=supernet,
        space=space,
        metric=metric,
        metrics=read_csv(metrics_path, ["epoch", "step"], remedy="train again") if metrics_path.exists() else None,
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


def read_csv(path: Path, columns: Iterable[str], *, remedy: str) -> pd.DataFrame:
    """A CSV file that has at least ``columns``; :class:`FileFormatError` otherwise."""
    try:
        data = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not a readable CSV file ({error}); {remedy}") from None
    missing = [column for column in columns if column not in data]
    if missing:
        raise FileFormatError(f"{path} lacks the columns {', '.join(missing)}; {remedy}")
    return data


FRONT_COLUMNS = ("arch", "predicted_latency_ms", "measured_latency_ms", "macs", "params", "origin")


# Files of earlier versions lack these.
LATER_FRONT_COLUMNS = ("latency_ms_p10", "latency_ms_p90", "num_images")


def _read_front(path: Path, metric: Metric, remedy: str) -> pd.DataFrame:
    scores = {metric.of(what): f"{what}_score" for what in ("predicted", "measured")}
    front = read_csv(path, [*FRONT_COLUMNS, *scores], remedy=remedy).rename(columns=scores)
    front["worth"] = metric.sign * front["measured_score"]
    return front.reindex(columns=list(dict.fromkeys([*front.columns, *LATER_FRONT_COLUMNS])))


def _find_tables(roots: Iterable[Path], space: SearchSpace) -> dict[str, tuple[Path, dict[str, Any]]]:
    """For each device, the first latency table that was made for ``space``."""
    tables: dict[str, tuple[Path, dict[str, Any]]] = {}
    for root in roots:
        for path in sorted(root.glob("*/*.json")):
            if path.parent.name in tables:
                continue
            table = read_json(path, kind="latency table", remedy="measure it again with `ofa profile`")
            if "csv" in table and table.get("space") == space.to_json():  # what else has a space: supernet.json
                tables[path.parent.name] = path.with_suffix(".csv"), table
    return tables


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
    selected = read_json(selected_path, kind="search result", remedy=remedy) if selected_path.exists() else None
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
