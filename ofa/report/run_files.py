"""Everything that a run folder holds, as far as it is there, read once for the page and the plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ofa.files import FileFormatError, read_json
from ofa.space import Arch, SearchSpace, SpaceError


@dataclass(frozen=True, kw_only=True)
class DeviceResults:
    """What is known of one device; whatever has not been made yet is ``None`` or empty.

    ``selected`` is the content of ``selected.json``, ``table`` that of the latency table's JSON file, ``archs`` are
    the architectures of ``selected["picks"]``, and ``bundles`` the contents of the ``bundle.json`` files.
    """

    name: str
    front: pd.DataFrame | None
    selected: dict[str, Any] | None
    archs: tuple[Arch, ...]
    table: dict[str, Any] | None
    table_csv: Path | None
    bundles: tuple[dict[str, Any], ...]

    @property
    def picks(self) -> list[dict[str, Any]]:
        return self.selected["picks"] if self.selected else []

    def bundle_of(self, pick: Mapping[str, Any]) -> dict[str, Any] | None:
        """The bundle that was exported from ``pick``."""
        same = (b for b in self.bundles if b["arch"] == pick["arch"] and b["budget_ms"] == pick["budget_ms"])
        return next(same, None)


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run folder; ``supernet`` is the content of ``supernet.json``."""

    run_dir: Path
    supernet: dict[str, Any]
    space: SearchSpace
    metrics: pd.DataFrame | None
    devices: tuple[DeviceResults, ...]


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
    space = SearchSpace.from_json(supernet["space"])
    table_roots = [Path(root) for root in (tables_dir, run_dir / "latency_tables") if root is not None]
    tables = _find_tables(table_roots, space)
    bundles = [
        read_json(path, kind="bundle", remedy="export it again with `ofa export`")
        for path in sorted(run_dir.glob("bundles/*/bundle.json"))
    ]
    searched = [path.name for path in sorted(run_dir.glob("search/*")) if path.is_dir()]
    names = dict.fromkeys([*searched, *(bundle["device"] for bundle in bundles), *tables])
    metrics_path = run_dir / "metrics.csv"
    return RunFiles(
        run_dir=run_dir,
        supernet=supernet,
        space=space,
        metrics=read_csv(metrics_path, ["epoch", "step"], remedy="train again") if metrics_path.exists() else None,
        devices=tuple(
            _read_device(
                run_dir / "search" / name, space, tables.get(name), [b for b in bundles if b["device"] == name]
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


FRONT_COLUMNS = (
    "arch",
    "predicted_top1_percent",
    "predicted_latency_ms",
    "measured_top1_percent",
    "measured_latency_ms",
    "macs",
    "params",
    "origin",
)


def _find_tables(roots: Iterable[Path], space: SearchSpace) -> dict[str, tuple[Path, dict[str, Any]]]:
    """For each device, the first latency table that was made for ``space``."""
    tables: dict[str, tuple[Path, dict[str, Any]]] = {}
    for root in roots:
        for path in sorted(root.glob("*/*.json")):
            if path.parent.name in tables:
                continue
            table = read_json(path, kind="latency table", remedy="measure it again with `ofa profile`")
            if table.get("space") == space.to_json():
                tables[path.parent.name] = path, table
    return tables


def _read_device(
    search_dir: Path,
    space: SearchSpace,
    table: tuple[Path, dict[str, Any]] | None,
    bundles: Iterable[dict[str, Any]],
) -> DeviceResults:
    remedy = f"search again with `ofa search --device {search_dir.name}`"
    front_path, selected_path = search_dir / "front.csv", search_dir / "selected.json"
    selected = read_json(selected_path, kind="search result", remedy=remedy) if selected_path.exists() else None
    try:
        archs = tuple(space.arch(pick["arch"]) for pick in selected["picks"]) if selected else ()
    except SpaceError as error:
        raise FileFormatError(f"{selected_path} does not fit this run's search space: {error}; {remedy}") from None
    return DeviceResults(
        name=search_dir.name,
        front=read_csv(front_path, FRONT_COLUMNS, remedy=remedy) if front_path.exists() else None,
        selected=selected,
        archs=archs,
        table=table[1] if table else None,
        table_csv=table[0].with_suffix(".csv") if table else None,
        bundles=tuple(bundles),
    )
