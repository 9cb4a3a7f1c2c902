"""What each chart shows, whoever draws it: the page in the browser, :mod:`ofa.report.plots` on paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.metrics import Metric
from ofa.report.palette import DEVICE_ROLES, DEVICE_SYMBOLS
from ofa.report.run_files import LOSSES, DeviceResults, RunFiles, bounds_columns
from ofa.search.pareto import non_dominated
from ofa.search.run import FLEET
from ofa.states import STATES

MAX_CURVE_POINTS = 400
MAX_POINTS = 2_000
"""Points of one chart: a run may have evaluated far more, and pages must stay small."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis; ``unit`` stands behind every value."""

    label: str
    unit: str = ""
    log: bool = False

    @property
    def title(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together.

    Args:
        name: What the legend says; series of one name are shown and hidden together.
        role: Colour, of :data:`~ofa.report.palette.PALETTE`.
        kind: ``steps`` go right first, then up: what holds until something better comes.
        x, y: Shape ``(N,)``.
        notes: What else is known of each point, or nothing.
    """

    name: str
    role: str
    kind: Literal["points", "line", "steps"] = "points"
    symbol: str = "circle"
    size: float = 6
    dashed: bool = False
    x: npt.ArrayLike
    y: npt.ArrayLike
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Series on two axes.

    Args:
        label: The chart in words, for those who cannot see it.
        guides: Where vertical lines stand, such as budgets.
        square: Both axes are alike, and a diagonal shows where they are equal.
        device: The device whose latencies these are, if it is one.
    """

    label: str
    x: Axis
    y: Axis
    guides: Sequence[float] = ()
    square: bool = False
    device: str | None = None
    series: Sequence[Series]

    def to_json(self) -> dict[str, Any]:
        """The chart as JSON data, numbers with five digits."""
        axes = {
            side: {"label": axis.label, "unit": axis.unit, "title": axis.title, "log": axis.log}
            for side, axis in (("x", self.x), ("y", self.y))
        }
        series = [
            vars(each) | {"role": each.role.replace("_", "-"), "x": _short(each.x), "y": _short(each.y)}
            for each in self.series
        ]
        return vars(self) | axes | {"series": series}


def _short(values: npt.ArrayLike) -> list[float]:
    return [float(f"{value:.5g}") for value in np.asarray(values, dtype=np.float64).tolist()]


def plot_points(front: pd.DataFrame) -> pd.DataFrame:
    """The evaluated rows of ``front.csv`` with ``latency_ms``, ``score`` and ``worth`` (more is better); fastest first.

    Scores are measured. Latency is predicted, since only a few subnets are measured and the others stand beside them,
    but for picks: those are held against their budgets.
    """
    evaluated = front.dropna(subset=["measured_score", "predicted_latency_ms"])
    is_pick = evaluated["origin"] == "pick"
    return evaluated.assign(
        latency_ms=evaluated["predicted_latency_ms"].mask(is_pick, evaluated["measured_latency_ms"]),
        score=evaluated["measured_score"],
    ).sort_values("latency_ms", kind="stable")


def best_of(points: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both latency and worth, the fastest first."""
    if points.empty:
        return points
    values = np.column_stack([points["latency_ms"], -points["worth"]])
    return points[non_dominated(values)].sort_values("latency_ms")


def describe(arch: Mapping[str, Any]) -> str:
    """Size of the input and depths, for example ``176 px, depths 3-2-4``."""
    depths = [str(value) for name, value in arch.items() if name.endswith(".depth")]
    units = {"resolution": "px", "tokens": "tokens", "seconds": "s"}
    parts = [f"{arch[axis]} {unit}" for axis, unit in units.items() if axis in arch]
    return ", ".join(parts + ([f"depths {'-'.join(depths)}"] if depths else []))


LATENCY = Axis(label="Latency", unit="ms", log=True)


def score_axis(metric: Metric) -> Axis:
    return Axis(label=metric.label, unit=metric.symbol)


def score_latency(device: DeviceResults, front: pd.DataFrame) -> Chart:
    """Every evaluated subnet, both fronts, the picks, and a line at each budget."""
    points = plot_points(front)
    random, searched, picks = (points[points["origin"] == origin] for origin in ("random", "front", "pick"))
    return Chart(
        label=f"{device.metric.label} against latency on {device.name}: evaluated subnets, the best of random search, "
        "the Pareto front and the picks.",
        x=LATENCY,
        y=score_axis(device.metric),
        series=(
            _of_points("Random subnets", "random", _thinned(random), size=4.5),
            _of_points("Best of random", "random_front", best_of(random), kind="steps", dashed=True, with_notes=False),
            _of_points("Found by the search", "front", _thinned(searched), size=5.5),
            _of_points(
                "Pareto front", "front", best_of(points[points["origin"] != "pick"]), kind="steps", with_notes=False
            ),
            _of_points("Picks", "pick", picks, symbol="diamond", size=11),
        ),
        guides=device.budgets_ms,
        device=device.name,
    )


def fronts_of_devices(fronts: Mapping[str, pd.DataFrame], *, metric: Metric) -> Chart:
    """The front of each device: what it gives at any latency."""
    series = []
    for number, (device, front) in enumerate(fronts.items()):
        points = plot_points(front)
        best = _thinned(best_of(points[points["origin"] != "pick"]), len(fronts))
        role, symbol = DEVICE_ROLES[number % len(DEVICE_ROLES)], DEVICE_SYMBOLS[number % len(DEVICE_SYMBOLS)]
        series += [
            _of_points(device, role, best, kind="steps", dashed=number >= len(DEVICE_ROLES), with_notes=False),
            _of_points(device, role, best, symbol=symbol),
        ]
    label = f"The Pareto fronts of {', '.join(fronts)}: {metric.title} against latency."
    return Chart(label=label, x=LATENCY, y=score_axis(metric), series=series)


def measured_front(device: DeviceResults, points: pd.DataFrame) -> Chart:
    """What was measured on a device and what a budget can pick of it.

    Args:
        points: As :func:`plot_points` gives it, ``latency_ms`` measured.
    """
    return Chart(
        label=f"{device.metric.label} against measured latency on {device.name}. The marked subnet is described beside "
        "the chart.",
        x=Axis(label="Measured latency", unit="ms", log=True),
        y=score_axis(device.metric),
        series=(
            _of_points("Measured subnets", "random", points, size=6),
            _of_points("Best within a budget", "front", best_of(points), kind="steps", with_notes=False),
            _of_points("Best within a budget", "front", best_of(points), size=7),
        ),
        guides=device.budgets_ms,
        device=device.name,
    )


def _of_points(name: str, role: str, points: pd.DataFrame, *, with_notes: bool = True, **options: Any) -> Series:
    columns = ["arch", "macs", "params", "predicted_latency_ms", "measured_latency_ms"]
    rows = points[columns].itertuples(index=False) if with_notes else ()
    notes = [
        f"{macs / 1e6:.3g} M MACs, {params / 1e6:.3g} M parameters\n{describe(json.loads(arch))}\n"
        f"predicted {predicted:.3g} ms" + (f", measured {measured:.3g} ms" if np.isfinite(measured) else "")
        for arch, macs, params, predicted, measured in rows
    ]
    return Series(name=name, role=role, x=points["latency_ms"], y=points["score"], notes=notes, **options)


def _thinned(points: pd.DataFrame, num_parts: int = 1) -> pd.DataFrame:
    """Every n-th row, where there are too many."""
    return points.iloc[:: -(-len(points) * num_parts // MAX_POINTS) or 1]


def predicted_measured(device: DeviceResults) -> Chart | None:
    """Predicted against measured latency of the table's held-out subnets and of what the search measured, if any."""
    held_out = (device.table or {}).get("held_out", {})
    series = []
    if "predicted_ms" in held_out and "measured_ms" in held_out:
        if (percent := device.interval_percent) is not None and percent < 100:
            ends = np.array([min(held_out["measured_ms"]), max(held_out["measured_ms"])])
            for factor in (1 + percent / 100, 1 - percent / 100):
                name = "90 of 100 lie between"
                series.append(Series(name=name, role="random", kind="line", dashed=True, x=ends, y=ends / factor))
        series.append(_predictions("Held-out subnets", held_out["predicted_ms"], held_out["measured_ms"], role="front"))
    if device.front is not None:
        columns = ["predicted_latency_ms", "measured_latency_ms"]
        pairs = device.front.dropna(subset=columns).drop_duplicates("arch")[columns].to_numpy(dtype=np.float64)
        if len(pairs):
            series.append(_predictions("Measured by the search", *pairs.T, role="pick", symbol="diamond", size=7))
    if not series:
        return None
    return Chart(
        label=f"Predicted against measured latency on {device.name}.",
        x=Axis(label="Measured", unit="ms", log=True),
        y=Axis(label="Predicted", unit="ms", log=True),
        series=series,
        square=True,
    )


def _predictions(name: str, predicted_ms: npt.ArrayLike, measured_ms: npt.ArrayLike, **options: Any) -> Series:
    errors = (np.divide(predicted_ms, measured_ms) - 1) * 100
    notes = [f"error {error:+.1f} %" for error in errors]
    return Series(name=name, x=measured_ms, y=predicted_ms, notes=notes, **options)


def machine_speed(device: DeviceResults) -> Chart | None:
    """What the anchor took while the table was measured, which blocks were measured again, and the speeds found."""
    course, states = (device.table or {}).get("details", {}).get("course"), device.states
    if not course or states is None or len(course["seconds"]) < 2:
        return None
    table = pd.DataFrame(course)
    minutes = table["seconds"] / 60
    ends = [minutes.min(), minutes.max()]
    series = [
        Series(name=name, role=role, size=4, x=minutes[chosen], y=table["anchor_ms"][chosen])
        for name, role, chosen in (
            ("Blocks that count", "front", ~table["repeated"]),
            ("Measured again", "pick", table["repeated"]),
        )
    ]
    for speed_ms in sorted({states.ms(state) for state in STATES}):
        series.append(Series(name="Speeds", role="random", kind="line", dashed=True, x=ends, y=[speed_ms] * 2))
    return Chart(
        label=f"What the same small network took on {device.name} in the course of the measurement.",
        x=Axis(label="Measuring", unit="min"),
        y=Axis(label="Anchor", unit="ms", log=True),
        series=series,
    )


def search_progress(device: DeviceResults, curve: Mapping[str, Sequence[float]]) -> Chart:
    """How the hypervolume grew with the evaluations, of the search and of random search.

    Args:
        curve: ``hypervolume_curve`` of ``selected.json``.
    """
    evaluations = curve["num_evaluations"]
    return Chart(
        label=f"Hypervolume against the number of evaluations on {device.name}, of the search and of random search.",
        x=Axis(label="Evaluations"),
        y=Axis(label="Hypervolume", unit=f"{device.metric.symbol} × ms".removeprefix(" × ")),
        series=(
            Series(name="Search", role="front", kind="line", x=evaluations, y=curve["front"]),
            Series(
                name="Random search", role="random_front", kind="line", dashed=True, x=evaluations, y=curve["random"]
            ),
        ),
    )


def training_curves(metrics: pd.DataFrame, columns: Mapping[str, tuple[str, str]], *, y: Axis) -> Chart | None:
    """One line per column that has two values or more; ``None`` if there is none.

    Args:
        columns: For each column of ``metrics.csv``, the name and the palette's role of its line.
    """
    x = "epoch" if metrics["epoch"].is_unique else "step"
    series = []
    for column, (name, role) in columns.items():
        if column not in metrics or metrics[column].count() < 2:
            continue
        curve = metrics[[x, column]].dropna()
        # More points than pixels serve nobody: average neighbours.
        curve = curve.groupby(np.arange(len(curve)) * min(len(curve), MAX_CURVE_POINTS) // len(curve)).mean()
        series.append(Series(name=name, role=role, kind="line", x=curve[x], y=curve[column]))
    if not series:
        return None
    return Chart(label=f"{y.label} during training.", x=Axis(label=x.capitalize()), y=y, series=series)


# -- the charts of a run ---------------------------------------------------------------------------------------------


def charts_of(run: RunFiles) -> dict[str, Chart]:
    """All charts that the run's files allow, by names that are good for files too."""
    fronts = {device.name: device.front for device in run.devices if device.front is not None and device.name != FLEET}
    charts: dict[str, Chart | None] = {
        "fronts": fronts_of_devices(fronts, metric=run.metric) if len(fronts) > 1 else None
    }
    for device in run.devices:
        if device.front is not None:
            charts[f"front_{device.name}"] = score_latency(device, device.front)
        if device.selected and "hypervolume_curve" in device.selected:
            charts[f"progress_{device.name}"] = search_progress(device, device.selected["hypervolume_curve"])
        charts[f"prediction_{device.name}"] = predicted_measured(device)
        charts[f"speed_{device.name}"] = machine_speed(device)
    if run.metrics is not None and not run.metrics.empty:
        charts["loss"] = training_curves(run.metrics, LOSSES, y=Axis(label="Loss"))
        charts["accuracy"] = training_curves(run.metrics, bounds_columns(run.metric), y=score_axis(run.metric))
    return {name: chart for name, chart in charts.items() if chart is not None}
