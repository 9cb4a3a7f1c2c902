"""The page's interactive figures, drawn in the palette's light colours; the page recolours them for the dark."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ofa.report.palette import LIGHT
from ofa.report.points import best_of, plot_points

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
HOVER = "<b>%{y:.2f} %</b> at <b>%{x:.3g} ms</b><br>%{customdata}<extra></extra>"
MAX_CURVE_POINTS = 400


def accuracy_latency(front: pd.DataFrame, budgets_ms: list[float]) -> go.Figure:
    """Every evaluated subnet, both fronts, the picks, and a line at each budget."""
    points = plot_points(front)
    random, searched, picks = (points[points["origin"] == origin] for origin in ("random", "front", "pick"))
    figure = go.Figure()
    figure.add_scatter(name="Evaluated subnets", marker={"color": LIGHT["random"], "size": 6}, **_xy(random))
    figure.add_scatter(
        name="Best of random",
        line={"color": LIGHT["random_front"], "width": 1.5, "dash": "dot", "shape": "hv"},
        **_xy(best_of(random), mode="lines"),
    )
    figure.add_scatter(
        name="Pareto front",
        line={"color": LIGHT["front"], "width": 1.5, "shape": "hv"},
        **_xy(best_of(points[points["origin"] != "pick"]), mode="lines"),
    )
    figure.add_scatter(
        name="Found by the search",
        marker={"color": LIGHT["front"], "size": 7},
        **_xy(searched),
    )
    figure.add_scatter(
        name="Picks",
        marker={
            "color": LIGHT["pick"],
            "size": 13,
            "symbol": "diamond",
            "line": {"color": LIGHT["page"], "width": 1.5},
        },
        **_xy(picks),
    )
    for budget_ms in budgets_ms:
        figure.add_vline(
            budget_ms,
            line={"color": LIGHT["muted"], "width": 1, "dash": "2px,4px"},
            annotation={
                "text": f"{budget_ms:g} ms",
                "font": {"color": LIGHT["muted"], "size": 11},
                "yref": "paper",
                "y": 1,
                "yanchor": "bottom",
                "xanchor": "center",
                "showarrow": False,
            },
        )
    return _finish(figure, x="Latency (ms)", y="Top-1 accuracy (%)")


def _xy(points: pd.DataFrame, mode: str = "markers") -> dict[str, Any]:
    rows = points[["macs", "params", "details", "predicted_latency_ms", "measured_latency_ms"]]
    notes = [
        f"{macs / 1e6:.3g} M MACs, {params / 1e6:.3g} M parameters<br>{details}<br>predicted {predicted:.3g} ms"
        + (f", measured {measured:.3g} ms" if np.isfinite(measured) else "")
        for macs, params, details, predicted, measured in rows.itertuples(index=False)
    ]
    return {
        "x": points["latency_ms"].to_numpy(),
        "y": points["top1_percent"].to_numpy(),
        "customdata": notes,
        "mode": mode,
    } | ({"hovertemplate": HOVER} if mode == "markers" else {"hoverinfo": "skip"})


PREDICTION_MARKERS: dict[str, dict[str, Any]] = {
    "Held-out subnets": {"color": LIGHT["front"], "size": 7, "opacity": 0.8},
    "Measured by the search": {"color": LIGHT["pick"], "size": 8, "symbol": "diamond", "opacity": 0.8},
}


def predicted_measured(groups: dict[str, tuple[np.ndarray, np.ndarray]]) -> go.Figure:
    """Predicted against measured latency.

    Args:
        groups: Predicted and measured latencies in ms, each of shape ``(N,)``, by name: any of
            :data:`PREDICTION_MARKERS`.
    """
    figure = go.Figure()
    every = np.concatenate([values for pair in groups.values() for values in pair])
    low, high = every.min() * 0.96, every.max() * 1.04
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        line={"color": LIGHT["muted"], "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    for name, (predicted, measured) in groups.items():
        figure.add_scatter(
            x=measured,
            y=predicted,
            mode="markers",
            name=name,
            marker=PREDICTION_MARKERS[name],
            customdata=(predicted / measured - 1) * 100,
            hovertemplate="predicted <b>%{y:.3f} ms</b><br>measured <b>%{x:.3f} ms</b><br>"
            "%{customdata:+.1f} %<extra></extra>",
        )
    _finish(figure, x="Measured (ms)", y="Predicted (ms)")
    return figure.update_layout(xaxis_range=[low, high], yaxis_range=[low, high])


def search_progress(curve: dict[str, list[float]]) -> go.Figure:
    """How the hypervolume grew with the evaluations, of the search and of random search.

    Args:
        curve: ``hypervolume_curve`` of ``selected.json``.
    """
    figure = go.Figure()
    for side, name, dash in (("front", "Search", "solid"), ("random", "Random search", "dot")):
        figure.add_scatter(
            x=curve["num_evaluations"],
            y=curve[side],
            name=name,
            mode="lines",
            line={"color": LIGHT["front" if side == "front" else "random_front"], "width": 2, "dash": dash},
            hovertemplate="%{y:.4g}",
        )
    return _finish(figure, x="Evaluations", y="Hypervolume (% × ms)").update_layout(hovermode="x unified")


LOSSES = {
    "loss_largest": ("Largest", "front"),
    "loss_random": ("Random", "random"),
    "loss_smallest": ("Smallest", "random_front"),
}
ACCURACIES = {"largest_top1_percent": ("Largest", "front"), "smallest_top1_percent": ("Smallest", "random_front")}


def training_curves(metrics: pd.DataFrame, columns: dict[str, tuple[str, str]], *, y: str) -> go.Figure | None:
    """One line per column that has two values or more; ``None`` if there is none.

    Args:
        columns: For each column of ``metrics.csv``, the name and the palette's role of its line.
    """
    x = "epoch" if metrics["epoch"].is_unique else "step"
    figure = go.Figure()
    for column, (name, role) in columns.items():
        if column not in metrics or metrics[column].count() < 2:
            continue
        curve = metrics[[x, column]].dropna()
        # More points than pixels serve nobody: average neighbours.
        curve = curve.groupby(np.arange(len(curve)) * min(len(curve), MAX_CURVE_POINTS) // len(curve)).mean()
        figure.add_scatter(
            x=curve[x].to_numpy(),
            y=curve[column].to_numpy(),
            name=name,
            mode="lines+markers" if len(curve) <= 60 else "lines",
            line={"color": LIGHT[role], "width": 2},
            marker={"size": 5},
            hovertemplate="%{y:.4g}",
        )
    if not figure.data:
        return None
    return _finish(figure, x=x.capitalize(), y=y).update_layout(hovermode="x unified")


def _finish(figure: go.Figure, *, x: str, y: str) -> go.Figure:
    def axis(text: str) -> dict[str, Any]:
        title = {"text": text, "font": {"color": LIGHT["muted"], "size": 13}, "standoff": 12}
        colors = {"gridcolor": LIGHT["rule"], "linecolor": LIGHT["rule"]}
        return {"title": title, "zeroline": False, "ticks": "", "automargin": True} | colors

    return figure.update_layout(
        template=None,
        font={"family": FONT, "size": 13, "color": LIGHT["ink"]},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 12, "t": 28, "b": 8},
        xaxis=axis(x) | {"showgrid": False, "showline": True},
        yaxis=axis(y),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.06, "yanchor": "bottom", "title": {"text": ""}},
        hoverlabel={
            "bgcolor": LIGHT["raised"],
            "bordercolor": LIGHT["rule"],
            "font": {"family": FONT, "color": LIGHT["ink"]},
        },
        showlegend=True,
    )
