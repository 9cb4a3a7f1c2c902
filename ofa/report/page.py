"""``RUN/report.html``: one page that needs no network, to look at and to send around."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ofa.files import write_text_atomic
from ofa.report import charts
from ofa.report.cross_device import cross_device
from ofa.report.drawing import architecture_svg, legend_svgs
from ofa.report.explorer import Choice, budget_range_ms, choices_of, measured_points
from ofa.report.palette import PALETTE
from ofa.report.run_files import DeviceResults, RunFiles, read_run
from ofa.report.strategy import describe_recipe
from ofa.search.run import FLEET

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
SCRIPTS = ("chart.js", "explorer.js", "page.js")
MAX_DOWNLOAD_BYTES = 3_000_000
"""Of all CSV files together, packed: what is beyond is named, but not carried."""


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
    environment.filters |= {"count": pretty_count, "si": si, "ms": ms, "fixed": fixed, "fixed_range": fixed_range}
    script = _script()
    explored, drawings = _explorer(run)
    all_charts = charts.charts_of(run)
    data = {
        "explorer": explored,
        "drawings": drawings,
        "charts": {name: chart.to_json() for name, chart in all_charts.items()},
    }
    return environment.get_template("report.html.j2").render(
        run=run,
        fleet=FLEET,
        palette=PALETTE,
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_packed(json.dumps(data, separators=(",", ":"), allow_nan=False).encode()),
        explored=explored,
        charts=set(all_charts),
        picks={device.name: list(_pick_rows(device)) for device in run.devices},
        cross=cross_device(run),
        bounds=_bounds(run),
        errors=[
            device.table["held_out"]["mape_percent"]
            for device in run.devices
            if device.table and "mape_percent" in device.table.get("held_out", {})
        ],
        data_name=" · ".join(
            filter(None, [run.supernet["data"]["name"], Path(run.supernet["data"].get("root") or "").name])
        ),
        drawings={device.name: [architecture_svg(run.space, arch) for arch in device.archs] for device in run.devices},
        legend=legend_svgs(run.space),
        dims=_dims(run),
        commands=_commands(run),
        strategy=describe_recipe(run.supernet.get("recipe", {}), run.space),
        recipe=dict(flatten(run.supernet.get("recipe", {}))),
        fingerprints={
            device.name: dict(flatten((device.table or {}).get("fingerprint", {}))) for device in run.devices
        },
        downloads=_downloads(run),
    )


def _script() -> str:
    folder = resources.files("ofa.report") / "templates"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)


def _packed(content: bytes) -> str:
    """Compressed, as base64; the page unpacks it. The same content gives the same text."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


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


def fixed_range(values: Sequence[float]) -> str:
    """The least and the greatest: ``98.0–98.9``; one number where they look alike."""
    return "–".join(dict.fromkeys(fixed(value) for value in (min(values), max(values))))


# -- the explorer ----------------------------------------------------------------------------------------------------


def _explorer(run: RunFiles) -> tuple[list[dict[str, Any]], list[str]]:
    """What the explorer knows of each device that something was measured on, and the drawings that it refers to."""
    drawings: dict[str, int] = {}
    devices = []
    for device in run.devices:
        measured = choices_of(device, run.space)
        if not measured:
            continue
        assert device.front is not None
        budgets_ms = sorted({float(pick["budget_ms"]) for pick in device.picks})
        low, high = budget_range_ms(measured, budgets_ms, device.headroom)
        points = measured_points(device.front)
        devices.append(
            {
                "name": device.name,
                "where": "every device" if device.name == FLEET else device.name,
                "budgets_ms": budgets_ms,
                "low_ms": low,
                "high_ms": high,
                "headroom": device.headroom,
                "choices": [
                    _choice_data(choice, drawings.setdefault(architecture_svg(run.space, choice.arch), len(drawings)))
                    for choice in measured
                ],
                "chart": charts.measured_front(points, budgets_ms, device=device.name, metric=run.metric).to_json(),
                "commands": _export_commands(run, device),
            }
        )
    return devices, list(drawings)


def _choice_data(choice: Choice, drawing: int) -> dict[str, Any]:
    """A choice as JSON data: ``text`` is shown as it is, the rest decides where things are drawn."""
    bundle = choice.bundle.info if choice.bundle else None
    test = choice.bundle.score if choice.bundle else None
    latency_ms: dict[str, Any] = bundle["latency_ms"] if bundle else dict(choice.latency_ms)
    quantiles_ms = latency_ms.get("quantiles") or []
    median_ms = choice.latency_ms["p50"]
    text = {
        "score": fixed(choice.score),
        "interval": "–".join(map(fixed, choice.interval)) if choice.interval else "",
        "num_images": f"{choice.num_images:,}" if choice.num_images else "",
        "median": ms(median_ms),
        "predicted": ms(choice.predicted_latency_ms),
        "error": f"{(choice.predicted_latency_ms / median_ms - 1) * 100:+.1f} %",
        "macs": si(choice.macs),
        "params": si(choice.params),
        "details": choice.details,
        "bundle": choice.bundle.folder if choice.bundle else "",
        "num_runs": f"{latency_ms['num_runs']:,}" if "num_runs" in latency_ms else "",
        "test": fixed(test["value"]) if test else "",
        "test_interval": "–".join(fixed(test[side]) for side in ("low", "high")) if test else "",
    }
    return {
        "text": text,
        "arch": dict(choice.arch),
        "drawing": drawing,
        "score": choice.score,
        "median_ms": median_ms,
        "predicted_ms": choice.predicted_latency_ms,
        "percentiles_ms": {name: latency_ms[name] for name in ("p10", "p50", "p90") if name in latency_ms},
        "quantiles_ms": quantiles_ms if len(quantiles_ms) == NUM_QUANTILES else [],
    }


NUM_QUANTILES = 21
"""Milliseconds at 0, 5 ... 100 % of the runs, as bundles keep them."""


def _export_commands(run: RunFiles, device: DeviceResults) -> list[list[str]]:
    """Commands that export the pick of a budget; each in parts, between which the budget stands."""
    targets = [other.name for other in run.devices if other.name != FLEET] if device.name == FLEET else [device.name]
    search = ["--search", str(run.run_dir / "search" / FLEET)] if device.name == FLEET else []
    return [
        [
            shlex.join(["ofa", "export", "--run", str(run.run_dir), "--device", name, *search, "--budget-ms"]) + " ",
            " --out " + shlex.quote(f"{run.run_dir}/bundles/{name}-"),
            "ms",
        ]
        for name in targets
    ]


# -- what else the template shows ------------------------------------------------------------------------------------


def _pick_rows(device: DeviceResults) -> Iterator[dict[str, Any]]:
    for pick in device.picks:
        bundle = device.bundle_of(pick["arch"], pick["budget_ms"])
        latency_ms = bundle.info["latency_ms"] if bundle else pick["latency_ms"]
        yield pick | {
            "latency_ms": latency_ms,
            "test": bundle.score if bundle else None,
            "holds": latency_ms["p50"] <= pick["budget_ms"],
        }


def _bounds(run: RunFiles) -> list[float]:
    """Scores of the largest and the smallest subnet when they were last evaluated, as far as they were."""
    if run.metrics is None:
        return []
    known = (run.metrics[column].dropna() for column in charts.bounds_columns(run.metric) if column in run.metrics)
    return [values.iloc[-1] for values in known if len(values)]


def _dims(run: RunFiles) -> dict[str, str]:
    """What varies and how: the last part of the dims' names to the values that it takes."""
    values: dict[str, set[Any]] = {}
    for dim in run.space.dims:
        values.setdefault(dim.name.split(".")[-1], set()).update(dim.values)
    return {
        name: ", ".join(map(str, sorted(each, key=lambda v: (isinstance(v, str), v)))) for name, each in values.items()
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
            if device.name == FLEET:
                names = [word for other in run.devices if other.name != FLEET for word in ("--device", other.name)]
                commands.append(command("search", "--run", path, *names, "--fleet", *budgets))
            else:
                commands.append(command("search", "--run", path, "--device", device.name, *budgets))
        for bundle in device.bundles:
            budget = f"{bundle.info['budget_ms']:g}"
            out = f"{path}/{bundle.folder}"
            words = ["--run", path, "--device", device.name, "--budget-ms", budget, "--out", out]
            commands.append(command("export", *words))
    return [*commands, command("report", "--run", path)]


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as pairs of a dotted name and a value, without what is empty."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif value is not None and value != "":
            yield prefix + name, value


@dataclass(frozen=True, kw_only=True)
class Download:
    """A CSV file that the page offers; ``packed`` is ``None`` where it would make the page too large."""

    name: str
    path: Path
    packed: str | None


def _downloads(run: RunFiles) -> list[Download]:
    packed = [(name, path, _packed(path.read_bytes())) for name, path in _csv_files(run)]
    downloads, left = {}, MAX_DOWNLOAD_BYTES
    for name, path, content in sorted(packed, key=lambda entry: len(entry[2])):
        left -= len(content)
        downloads[name] = Download(name=name, path=path, packed=content if left >= 0 else None)
    return [downloads[name] for name, _, _ in packed]


def _csv_files(run: RunFiles) -> Iterator[tuple[str, Path]]:
    if run.metrics is not None:
        yield "metrics.csv", run.run_dir / "metrics.csv"
    for device in run.devices:
        if device.front is not None:
            yield f"front_{device.name}.csv", run.run_dir / "search" / device.name / "front.csv"
        if device.table_csv is not None and device.table_csv.exists():
            yield f"latency_table_{device.name}.csv", device.table_csv
