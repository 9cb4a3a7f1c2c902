"""``RUN/report.html``: one page that needs no network, to look at and to send around."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ofa.files import write_text_atomic
from ofa.report import figures
from ofa.report.drawing import architecture_svg, choices, legend_svgs
from ofa.report.palette import PALETTE
from ofa.report.run_files import DeviceResults, RunFiles, read_run
from ofa.search.run import FLEET

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def write_report(run_dir: Path | str, *, tables_dir: Path | str | None = None, out: Path | str | None = None) -> Path:
    """Write the page of a run; what has not been made yet is left out, with the command that makes it.

    Args:
        tables_dir: Where latency tables are looked for before ``run_dir/latency_tables``.
        out: The file to write; ``run_dir/report.html`` if ``None``.

    Returns:
        The file that was written.

    Raises:
        FileFormatError: If ``supernet.json`` is missing, or a file of the run is damaged or of another format.
    """
    run = read_run(run_dir, tables_dir=tables_dir)
    path = Path(run_dir) / "report.html" if out is None else Path(out)
    write_text_atomic(path, render(run))
    return path


def render(run: RunFiles) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ofa.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": pretty_count, "si": si, "ms": ms, "fixed": fixed, "figure": figure_json}
    return environment.get_template("report.html.j2").render(
        run=run,
        palette=PALETTE,
        plotly_js=Markup(get_plotlyjs()),
        picks={device.name: list(_pick_rows(device)) for device in run.devices},
        fronts={
            device.name: figures.accuracy_latency(device.front, [pick["budget_ms"] for pick in device.picks])
            for device in run.devices
            if device.front is not None
        },
        progress={
            device.name: figures.search_progress(device.selected["hypervolume_curve"])
            for device in run.devices
            if device.selected and "hypervolume_curve" in device.selected
        },
        predictions={
            device.name: figures.predicted_measured(pairs) for device in run.devices if (pairs := _pairs(device))
        },
        curves=_curves(run),
        bounds=_bounds(run),
        data_name=" · ".join(
            filter(None, [run.supernet["data"]["name"], Path(run.supernet["data"].get("root") or "").name])
        ),
        drawings={device.name: [architecture_svg(run.space, arch) for arch in device.archs] for device in run.devices},
        legend=legend_svgs(run.space),
        dims=_dims(run),
        commands=_commands(run),
        recipe=dict(flatten(run.supernet.get("recipe", {}))),
        fingerprints={
            device.name: dict(flatten((device.table or {}).get("fingerprint", {}))) for device in run.devices
        },
        downloads=[(name, _data_uri(file)) for name, file in _csv_files(run)],
    )


# -- numbers as people read them -------------------------------------------------------------------------------------


def pretty_count(number: float) -> str:
    """``1,204`` or, from a million on, ``2.2 × 10¹⁹``."""
    if number < 1e6:
        return f"{number:,}"
    mantissa, exponent = f"{number:.1e}".split("e+")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def si(number: float) -> str:
    """Three digits and a magnitude: ``23.5 M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:#.3g} {unit}".replace(". ", " ")
    return f"{number:g}"


def ms(value: float | None) -> str:
    """Milliseconds, three digits at least; a dash where there is none."""
    return "–" if value is None else f"{value:.2f}" if value >= 1 else f"{value:#.3g}"


def fixed(value: float | None, digits: int = 1) -> str:
    """So many digits after the point; a dash where there is no value."""
    return "–" if value is None else f"{value:.{digits}f}"


# -- what the template shows -----------------------------------------------------------------------------------------


def figure_json(figure: go.Figure) -> Markup:
    """A figure as JSON that may stand in a script element whatever strings are in it."""
    return Markup(figure.to_json().replace("<", "\\u003c"))


def _pick_rows(device: DeviceResults) -> Iterator[dict[str, Any]]:
    for pick in device.picks:
        bundle = device.bundle_of(pick)
        latency_ms = bundle["latency_ms"] if bundle else pick["latency_ms"]
        yield pick | {
            "latency_ms": latency_ms,
            "test": bundle["top1_percent"] if bundle else None,
            "holds": latency_ms["p50"] <= pick["budget_ms"],
        }


def _pairs(device: DeviceResults) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predicted and measured latencies of the table's held-out subnets and of what the search measured."""
    groups = {}
    held_out = (device.table or {}).get("held_out", {})
    if "predicted_ms" in held_out and "measured_ms" in held_out:
        groups["Held-out subnets"] = np.asarray(held_out["predicted_ms"]), np.asarray(held_out["measured_ms"])
    if device.front is not None:
        measured = device.front.dropna(subset=["predicted_latency_ms", "measured_latency_ms"])
        if len(measured):
            groups["Measured by the search"] = (
                measured["predicted_latency_ms"].to_numpy(),
                measured["measured_latency_ms"].to_numpy(),
            )
    return groups


def _curves(run: RunFiles) -> dict[str, go.Figure]:
    if run.metrics is None or run.metrics.empty:
        return {}
    curves = {
        "Loss": figures.training_curves(run.metrics, figures.LOSSES, y="Loss"),
        "Accuracy": figures.training_curves(run.metrics, figures.ACCURACIES, y="Top-1 accuracy (%)"),
    }
    return {name: figure for name, figure in curves.items() if figure is not None}


def _bounds(run: RunFiles) -> list[float]:
    """Accuracies of the largest and the smallest subnet when they were last evaluated, as far as they were."""
    if run.metrics is None:
        return []
    known = (run.metrics[column].dropna() for column in figures.ACCURACIES if column in run.metrics)
    return [values.iloc[-1] for values in known if len(values)]


def _dims(run: RunFiles) -> dict[str, str]:
    """What varies and how: the last part of the dims' names to the values that it takes."""
    names = dict.fromkeys(dim.name.split(".")[-1] for dim in run.space.dims)
    return {name: ", ".join(f"{value:g}" for value in choices(run.space, name)) for name in names}


def _commands(run: RunFiles) -> list[str]:
    """The commands that lead to this page, as far as the files tell."""
    recipe = run.supernet.get("recipe", {}).get("name", "RECIPE")
    commands = [f"ofa train {recipe} --out {run.run_dir}"]
    for device in run.devices:
        if device.table is not None:
            commands.append(f"ofa profile --run {run.run_dir} --device {device.name}")
        if device.selected is not None:
            budgets = " ".join(f"--budget-ms {pick['budget_ms']:g}" for pick in device.picks)
            if device.name == FLEET:
                names = " ".join(f"--device {other.name}" for other in run.devices if other.name != FLEET)
                commands.append(f"ofa search --run {run.run_dir} {names} --fleet {budgets}")
            else:
                commands.append(f"ofa search --run {run.run_dir} --device {device.name} {budgets}")
        commands += [
            f"ofa export --run {run.run_dir} --device {device.name} --budget-ms {bundle['budget_ms']:g} --out BUNDLE"
            for bundle in device.bundles
        ]
    return [*commands, f"ofa report --run {run.run_dir}"]


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as pairs of a dotted name and a value, without what is empty."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif value is not None and value != "":
            yield prefix + name, value


def _csv_files(run: RunFiles) -> Iterator[tuple[str, Path]]:
    if run.metrics is not None:
        yield "metrics.csv", run.run_dir / "metrics.csv"
    for device in run.devices:
        if device.front is not None:
            yield f"front_{device.name}.csv", run.run_dir / "search" / device.name / "front.csv"
        if device.table_csv is not None and device.table_csv.exists():
            yield f"latency_table_{device.name}.csv", device.table_csv


def _data_uri(path: Path) -> str:
    """The file, compressed: architectures repeat themselves a lot. The page unpacks it on a click."""
    packed = gzip.compress(path.read_bytes(), mtime=0)
    return f"data:application/gzip;base64,{base64.b64encode(packed).decode()}"
