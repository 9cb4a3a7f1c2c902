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
from ofa.report.points import best_of, describe, plot_points
from ofa.report.run_files import DeviceResults, RunFiles
from ofa.search.run import FLEET

MAX_CURVE_POINTS = 400
MAX_POINTS = 2_000
"""Points of one chart: a run may have evaluated far more, and pages must stay small."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis; ``unit`` stands behind every value."""

    label: str
    unit: str = ""
    is_log: bool = False

    @property
    def title(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together.

    Args:
        name: What the legend says; series of one name are shown and hidden together.
        role: Colour, of :data:`~ofa.report.palette.PALETTE`.
        x, y: Shape ``(N,)``.
        kind: ``steps`` go right first, then up: what holds until something better comes.
        notes: What else is known of each point, or nothing.
    """

    name: str
    role: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    kind: Literal["points", "line", "steps"] = "points"
    symbol: str = "circle"
    size: float = 6
    is_dashed: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Series on two axes.

    Args:
        label: The chart in words, for those who cannot see it.
        guides_x: Where vertical lines stand, such as budgets.
        is_square: Both axes are alike, and a diagonal shows where they are equal.
        device: The device whose latencies these are, if it is one.
    """

    label: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    guides_x: tuple[float, ...] = ()
    is_square: bool = False
    device: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The chart as JSON data, numbers with five digits."""
        return {
            "label": self.label,
            "x": {"label": self.x.label, "unit": self.x.unit, "title": self.x.title, "log": self.x.is_log},
            "y": {"label": self.y.label, "unit": self.y.unit, "title": self.y.title, "log": self.y.is_log},
            "guides": list(self.guides_x),
            "square": self.is_square,
            "device": self.device,
            "series": [
                {
                    "name": series.name,
                    "role": series.role.replace("_", "-"),
                    "kind": series.kind,
                    "symbol": series.symbol,
                    "size": series.size,
                    "dashed": series.is_dashed,
                    "x": _short(series.x),
                    "y": _short(series.y),
                    "notes": list(series.notes),
                }
                for series in self.series
            ],
        }


def _short(values: npt.NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


LATENCY = Axis(label="Latency", unit="ms", is_log=True)


def score_axis(metric: Metric) -> Axis:
    return Axis(label=metric.label, unit=metric.symbol)


def score_latency(front: pd.DataFrame, budgets_ms: Sequence[float], *, device: str, metric: Metric) -> Chart:
    """Every evaluated subnet, both fronts, the picks, and a line at each budget."""
    points = plot_points(front)
    random, searched, picks = (points[points["origin"] == origin] for origin in ("random", "front", "pick"))
    return Chart(
        label=f"{metric.label} against latency on {device}: evaluated subnets, the best of random search, the Pareto "
        "front and the picks.",
        x=LATENCY,
        y=score_axis(metric),
        series=(
            _of_points("Random subnets", "random", _thinned(random), size=4.5),
            _of_points(
                "Best of random", "random_front", best_of(random), kind="steps", is_dashed=True, with_notes=False
            ),
            _of_points("Found by the search", "front", _thinned(searched), size=5.5),
            _of_points(
                "Pareto front", "front", best_of(points[points["origin"] != "pick"]), kind="steps", with_notes=False
            ),
            _of_points("Picks", "pick", picks, symbol="diamond", size=11),
        ),
        guides_x=tuple(budgets_ms),
        device=device,
    )


def fronts_of_devices(fronts: Mapping[str, pd.DataFrame], *, metric: Metric) -> Chart:
    """The front of each device: what it gives at any latency."""
    series = []
    for number, (device, front) in enumerate(fronts.items()):
        points = plot_points(front)
        best = _thinned(best_of(points[points["origin"] != "pick"]), len(fronts))
        role, symbol = DEVICE_ROLES[number % len(DEVICE_ROLES)], DEVICE_SYMBOLS[number % len(DEVICE_SYMBOLS)]
        series += [
            _of_points(device, role, best, kind="steps", is_dashed=number >= len(DEVICE_ROLES), with_notes=False),
            _of_points(device, role, best, symbol=symbol),
        ]
    label = f"The Pareto fronts of {', '.join(fronts)}: {metric.title} against latency."
    return Chart(label=label, x=LATENCY, y=score_axis(metric), series=tuple(series))


def measured_front(choices: pd.DataFrame, budgets_ms: Sequence[float], *, device: str, metric: Metric) -> Chart:
    """What was measured on a device and what a budget can pick of it.

    Args:
        choices: As :func:`~ofa.report.points.plot_points` gives it, ``latency_ms`` measured.
    """
    return Chart(
        label=f"{metric.label} against measured latency on {device}. The marked subnet is described beside the chart.",
        x=Axis(label="Measured latency", unit="ms", is_log=True),
        y=score_axis(metric),
        series=(
            _of_points("Measured subnets", "random", choices, size=6),
            _of_points("Best within a budget", "front", best_of(choices), kind="steps", with_notes=False),
            _of_points("Best within a budget", "front", best_of(choices), size=7),
        ),
        guides_x=tuple(budgets_ms),
        device=device,
    )


def _of_points(name: str, role: str, points: pd.DataFrame, *, with_notes: bool = True, **options: Any) -> Series:
    columns = ["arch", "macs", "params", "predicted_latency_ms", "measured_latency_ms"]
    rows = points[columns].itertuples(index=False) if with_notes else ()
    notes = [
        f"{macs / 1e6:.3g} M MACs, {params / 1e6:.3g} M parameters\n{describe(json.loads(arch))}\n"
        f"predicted {predicted:.3g} ms" + (f", measured {measured:.3g} ms" if np.isfinite(measured) else "")
        for arch, macs, params, predicted, measured in rows
    ]
    return Series(
        name=name,
        role=role,
        x=points["latency_ms"].to_numpy(dtype=np.float64),
        y=points["score"].to_numpy(dtype=np.float64),
        notes=notes,
        **options,
    )


def _thinned(points: pd.DataFrame, num_parts: int = 1) -> pd.DataFrame:
    """Every n-th row, where there are too many."""
    return points.iloc[:: -(-len(points) * num_parts // MAX_POINTS) or 1]


PREDICTIONS: dict[str, dict[str, Any]] = {
    "Held-out subnets": {"role": "front"},
    "Measured by the search": {"role": "pick", "symbol": "diamond", "size": 7},
}


def predicted_measured(groups: Mapping[str, tuple[np.ndarray, np.ndarray]], *, device: str) -> Chart:
    """Predicted against measured latency.

    Args:
        groups: Predicted and measured latencies in ms, each of shape ``(N,)``, by name: any of :data:`PREDICTIONS`.
    """
    return Chart(
        label=f"Predicted against measured latency on {device}.",
        x=Axis(label="Measured", unit="ms", is_log=True),
        y=Axis(label="Predicted", unit="ms", is_log=True),
        series=tuple(
            Series(
                name=name,
                x=measured,
                y=predicted,
                notes=[f"error {error:+.1f} %" for error in (predicted / measured - 1) * 100],
                **PREDICTIONS[name],
            )
            for name, (predicted, measured) in groups.items()
        ),
        is_square=True,
    )


def search_progress(curve: Mapping[str, Sequence[float]], *, device: str, metric: Metric) -> Chart:
    """How the hypervolume grew with the evaluations, of the search and of random search.

    Args:
        curve: ``hypervolume_curve`` of ``selected.json``.
    """
    sides = (("front", "Search", "front"), ("random", "Random search", "random_front"))
    return Chart(
        label=f"Hypervolume against the number of evaluations on {device}, of the search and of random search.",
        x=Axis(label="Evaluations"),
        y=Axis(label="Hypervolume", unit=f"{metric.symbol} × ms".removeprefix(" × ")),
        series=tuple(
            Series(
                name=name,
                role=role,
                x=np.asarray(curve["num_evaluations"], dtype=np.float64),
                y=np.asarray(curve[side], dtype=np.float64),
                kind="line",
                is_dashed=side == "random",
            )
            for side, name, role in sides
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
        series.append(
            Series(
                name=name,
                role=role,
                x=curve[x].to_numpy(dtype=np.float64),
                y=curve[column].to_numpy(dtype=np.float64),
                kind="line",
            )
        )
    if not series:
        return None
    return Chart(label=f"{y.label} during training.", x=Axis(label=x.capitalize()), y=y, series=tuple(series))


# -- the charts of a run ---------------------------------------------------------------------------------------------


def charts_of(run: RunFiles) -> dict[str, Chart]:
    """All charts that the run's files allow, by names that are good for files too."""
    fronts = {device.name: device.front for device in run.devices if device.front is not None and device.name != FLEET}
    charts: dict[str, Chart | None] = {
        "fronts": fronts_of_devices(fronts, metric=run.metric) if len(fronts) > 1 else None
    }
    for device in run.devices:
        if device.front is not None:
            budgets_ms = sorted({pick["budget_ms"] for pick in device.picks})
            charts[f"front_{device.name}"] = score_latency(
                device.front, budgets_ms, device=device.name, metric=run.metric
            )
        if device.selected and "hypervolume_curve" in device.selected:
            curve = device.selected["hypervolume_curve"]
            charts[f"progress_{device.name}"] = search_progress(curve, device=device.name, metric=run.metric)
        if pairs := _prediction_pairs(device):
            charts[f"prediction_{device.name}"] = predicted_measured(pairs, device=device.name)
    if run.metrics is not None and not run.metrics.empty:
        charts["loss"] = training_curves(run.metrics, LOSSES, y=Axis(label="Loss"))
        charts["accuracy"] = training_curves(run.metrics, bounds_columns(run.metric), y=score_axis(run.metric))
    return {name: chart for name, chart in charts.items() if chart is not None}


def _prediction_pairs(device: DeviceResults) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predicted and measured latencies of the table's held-out subnets and of what the search measured."""
    groups = {}
    held_out = (device.table or {}).get("held_out", {})
    if "predicted_ms" in held_out and "measured_ms" in held_out:
        groups["Held-out subnets"] = np.asarray(held_out["predicted_ms"]), np.asarray(held_out["measured_ms"])
    if device.front is not None:
        measured = device.front.dropna(subset=["predicted_latency_ms", "measured_latency_ms"]).drop_duplicates("arch")
        if len(measured):
            pairs = measured[["predicted_latency_ms", "measured_latency_ms"]].to_numpy(dtype=np.float64).T
            groups["Measured by the search"] = pairs[0], pairs[1]
    return groups
