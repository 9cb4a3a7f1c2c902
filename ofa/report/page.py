"""``RUN/report.html``: one page that needs no network, to look at and to send around."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ofa.files import write_text_atomic
from ofa.report import charts
from ofa.report.cross_device import cross_device
from ofa.report.drawing import architecture_svg, legend_svgs
from ofa.report.explorer import explorer_data
from ofa.report.numbers import fixed, fixed_range, ms, pretty_count, si
from ofa.report.palette import PALETTE
from ofa.report.run_files import DeviceResults, RunFiles, read_run
from ofa.report.strategy import describe_origin, describe_recipe
from ofa.search.pick import same_picks
from ofa.search.run import FLEET
from ofa.supernet.model_sources import public_name
from ofa.tasks import Classification, Task, task_from_json
from ofa.tasks.task import Exhibit
from ofa.trust import UntrustedCodeError

SCRIPTS = ("chart.js", "explorer.js", "page.js")
MAX_DOWNLOAD_BYTES = 3_000_000
NUM_CHOICES = 5  # of a pick, that are worth most
"""Of all CSV files together, packed: what is beyond is named, but not carried."""


def write_report(
    run_dir: Path | str,
    *,
    tables_dir: Path | str | None = None,
    search_dir: Path | str | None = None,
    out: Path | str | None = None,
) -> Path:
    """Write the page of a run; what has not been made yet is left out, with the command that makes it.

    Args:
        tables_dir: Where latency tables are looked for before ``run_dir/latency_tables``.
        search_dir: Where a search left its files; ``run_dir/search`` if ``None``.
        out: The file to write; ``run_dir/report.html`` if ``None``.

    Returns:
        The file that was written.

    Raises:
        FileFormatError: If ``supernet.json`` is missing, or a file of the run is damaged or of another format.
    """
    run = read_run(run_dir, tables_dir=tables_dir, search_dir=search_dir)
    path = Path(run_dir) / "report.html" if out is None else Path(out)
    write_text_atomic(path, render(run))
    return path


def render(run: RunFiles) -> str:
    """The page as HTML."""
    environment = template_environment()
    templates = resources.files("ofa.report") / "templates"
    script = "\n".join((templates / name).read_text(encoding="utf-8") for name in SCRIPTS)
    explored, drawings = explorer_data(run)
    all_charts = charts.charts_of(run)
    data = {
        "explorer": explored,
        "drawings": drawings,
        "charts": {name: chart.to_json() for name, chart in all_charts.items()},
    }
    task = _task(run)
    return environment.get_template("report.html.j2").render(
        run=run,
        model=public_name(run.supernet["model"]["name"]),
        fleet=FLEET,
        palette=PALETTE,
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_packed(json.dumps(data, separators=(",", ":"), allow_nan=False).encode()),
        explored=explored,
        charts=set(all_charts),
        counted=task.counted,
        section=task.report_section(_exhibits(run)),
        picks={device.name: list(_pick_rows(device)) for device in run.devices},
        num_choices=NUM_CHOICES,
        same_picks={device.name: same_picks(device.picks) for device in run.devices},
        cross=cross_device(run),
        bounds=[run.metric.number(score) for score in run.bounds],
        errors=[
            device.table["held_out"]["mape_percent"]
            for device in run.devices
            if device.table and "mape_percent" in device.table.get("held_out", {})
        ],
        data_name=run.data_name,
        drawings={device.name: [architecture_svg(run.space, arch) for arch in device.archs] for device in run.devices},
        legend=legend_svgs(run.space),
        dims=run.dims,
        commands=_commands(run),
        strategy=describe_origin(run.origin) or describe_recipe(run.supernet.get("recipe", {}), run.space),
        recipe=dict(flatten(run.supernet.get("recipe", {}))),
        fingerprints={
            device.name: dict(flatten((device.table or {}).get("fingerprint", {}))) for device in run.devices
        },
        downloads=_downloads(run),
    )


def template_environment() -> jinja2.Environment:
    """What all pages are made with: every value in them is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ofa.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": pretty_count, "si": si, "ms": ms, "fixed": fixed, "fixed_range": fixed_range}
    return environment


def _packed(content: bytes) -> str:
    """Compressed, as base64; the page unpacks it. The same content gives the same text."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


# -- what else the template shows ------------------------------------------------------------------------------------


def _task(run: RunFiles) -> Task:
    """The run's, or where it is code of somebody's that is not trusted, one that has nothing of its own to show."""
    where = f"recipe in {run.run_dir / 'supernet.json'}"
    try:
        return task_from_json(run.supernet.get("recipe", {}).get("task"), where=where)
    except UntrustedCodeError:
        return Classification()


def _exhibits(run: RunFiles) -> list[Exhibit]:
    """All bundles of the run."""
    return [
        Exhibit(
            name=device.name + ("" if bundle["budget_ms"] is None else f", {bundle['budget_ms']:g} ms"),
            folder=run.run_dir / bundle["folder"],
            info=bundle,
        )
        for device in run.devices
        for bundle in device.bundles
    ]


def _pick_rows(device: DeviceResults) -> Iterator[dict[str, Any]]:
    for pick in device.picks:
        bundle = device.bundle_of(pick["arch"], pick["budget_ms"])
        latency_ms = (bundle or pick)["latency_ms"]
        yield pick | {
            "latency_ms": latency_ms,
            "test": (bundle or {}).get(device.metric.name),  # none where it was judged by another metric
            "holds": latency_ms["p50"] <= pick["budget_ms"],
        }


def _commands(run: RunFiles) -> list[str]:
    """The commands that lead to this page, as far as the files tell."""

    def command(*words: str) -> str:
        return shlex.join(["ofa", *words])

    path = str(run.run_dir)
    recipe = run.supernet.get("recipe", {}).get("name", "RECIPE")
    commands = [command("train", recipe, "--out", path)]
    for device in run.devices:
        if device.table is not None:
            commands.append(command("profile", "--run", path, "--device", device.name))
        if device.selected is not None:
            budgets = [word for pick in device.picks for word in ("--budget-ms", f"{pick['budget_ms']:g}")]
            names = [word for name in run.names_of(device) for word in ("--device", name)]
            fleet = ["--fleet"] if device.name == FLEET else []
            commands.append(command("search", "--run", path, *names, *fleet, *budgets))
        for bundle in device.bundles:
            budget = bundle["budget_ms"]
            which = ["--arch", json.dumps(bundle["arch"])] if budget is None else ["--budget-ms", f"{budget:g}"]
            words = ["--run", path, "--device", device.name, *which, "--out", f"{path}/{bundle['folder']}"]
            commands.append(command("export", *words))
    return [*commands, command("report", "--run", path)]


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as pairs of a dotted name and a value, without what is empty."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif value is not None and value != "":
            yield prefix + name, value


def _downloads(run: RunFiles) -> list[dict[str, Any]]:
    """CSV files that the page offers; ``packed`` is ``None`` where one would make the page too large."""
    files: list[dict[str, Any]] = [
        {"name": name, "path": path, "packed": _packed(path.read_bytes())} for name, path in _csv_files(run)
    ]
    left = MAX_DOWNLOAD_BYTES
    for file in sorted(files, key=lambda file: len(file["packed"])):
        left -= len(file["packed"])
        file["packed"] = file["packed"] if left >= 0 else None
    return files


def _csv_files(run: RunFiles) -> Iterator[tuple[str, Path]]:
    if run.metrics is not None:
        yield "metrics.csv", run.run_dir / "metrics.csv"
    for device in run.devices:
        if device.front is not None:
            yield f"front_{device.name}.csv", run.search_dir / device.name / "front.csv"
        if device.table_csv is not None and device.table_csv.exists():
            yield f"latency_table_{device.name}.csv", device.table_csv
