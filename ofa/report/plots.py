"""Plots for papers and READMEs: the page's charts at the width of a column, and the cross-device matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa.errors import UsageError
from ofa.files import atomic_path
from ofa.report.charts import Chart, charts_of
from ofa.report.cross_device import CrossDevice, cross_device
from ofa.report.palette import LIGHT
from ofa.report.run_files import read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
COLUMN_INCHES = 3.4
DOTS_PER_INCH = 300
SYMBOLS = {"circle": "o", "diamond": "D", "square": "s", "triangle": "^", "cross": "P"}
POINTS_PER_PIXEL = 0.55
"""Of marks: a column is half as wide as the page, so they are smaller than on the screen."""
SETTINGS: dict[Any, Any] = {
    "font.size": 8,
    "font.family": "sans-serif",
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["random"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.linewidth": 0.6,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "pdf.fonttype": 42,  # text stays text: editors and search find it
    "svg.fonttype": "none",
    "svg.hashsalt": "ofa",
    "text.parse_math": False,  # a device may be named with dollars
}


def write_plots(
    run_dir: Path | str,
    out_dir: Path | str,
    tables_dir: Path | str | None = None,
    format: str = "png",
    *,
    search_dir: Path | str | None = None,
) -> list[Path]:
    """Draw what a run's files allow: fronts, search progress, prediction error, training, the cross-device matrix.

    Figures are 3.4 inches wide, a column of most papers, with text of 8 points. The same run gives the same files.

    Args:
        tables_dir: Where latency tables are looked for before ``run_dir/latency_tables``.
        format: ``png`` (300 dots per inch), ``pdf`` or ``svg``.
        search_dir: Where a search left its files; ``run_dir/search`` if ``None``.

    Returns:
        The files that were written: ``fronts``, ``front_DEVICE``, ``progress_DEVICE``, ``prediction_DEVICE``,
        ``speed_DEVICE``, ``loss``, ``accuracy`` and ``cross_device``, as far as the run has them.

    Raises:
        ValueError: If the format is not one of these.
        FileFormatError: If ``supernet.json`` is missing, or a file of the run is damaged or of another format.
    """
    import matplotlib

    if format not in FORMATS:
        raise UsageError(f"plots cannot be written as {format!r}; choose one of {', '.join(FORMATS)}")
    run, out_dir = read_run(run_dir, tables_dir=tables_dir, search_dir=search_dir), Path(out_dir)
    matrix = cross_device(run)
    written = []
    with matplotlib.rc_context(SETTINGS):
        for name, chart in charts_of(run).items():
            written.append(_save(draw_chart(chart), out_dir / f"{name}.{format}"))
        if matrix is not None:
            written.append(_save(draw_matrix(matrix), out_dir / f"cross_device.{format}"))
    return written


def _save(figure: Figure, path: Path) -> Path:
    # Without a date, the same run gives the same bytes.
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[path.suffix]
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata)
    return path


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    # A figure of its own, without pyplot, draws on Agg and leaves the process's backend and figures alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_INCHES, height_inches), layout="constrained", facecolor="white")
    return figure, figure.add_subplot(facecolor="white")


def draw_chart(chart: Chart) -> Figure:
    """A chart as a figure one column wide."""
    figure, axes = _figure(3.2 if chart.square else 2.6)
    for series in chart.series:
        style: dict[str, Any] = {"color": LIGHT[series.role], "label": series.name}
        if series.kind == "points":
            diameter = series.size * POINTS_PER_PIXEL
            axes.scatter(
                series.x,
                series.y,
                s=diameter**2,
                marker=SYMBOLS[series.symbol],
                edgecolors="white",
                linewidths=0.3,
                zorder=3 if series.role == "pick" else 2,
                **style,
            )
        else:
            line = ":" if series.dashed else "-"
            drawstyle = "steps-post" if series.kind == "steps" else "default"
            axes.plot(series.x, series.y, line, lw=1.2, drawstyle=drawstyle, zorder=2.5, **style)
    for side, axis in (("x", chart.x), ("y", chart.y)):
        axes.set(**{f"{side}label": axis.title})
        if axis.log:
            axes.set(**{f"{side}scale": "log"})
            _plain_ticks(getattr(axes, f"{side}axis"), np.concatenate([getattr(each, side) for each in chart.series]))
    if chart.square:
        # Both axes alike, with the line on which they are equal.
        bounds = np.array([axes.get_xlim(), axes.get_ylim()])
        both = bounds.min(), bounds.max()
        axes.plot(both, both, ":", color=LIGHT["random"], lw=0.8, zorder=0)
        axes.set(xlim=both, ylim=both, box_aspect=1)
    low, high = axes.get_xlim()
    for guide in chart.guides:
        if low <= guide <= high:
            axes.axvline(guide, color=LIGHT["random"], lw=0.6, ls=(0, (1, 3)), zorder=0)
    axes.grid(axis="y", color=LIGHT["rule"], lw=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=2, width=0.5)
    _legend(figure, axes)
    return figure


def _plain_ticks(axis: Any, values: np.ndarray) -> None:
    """Numbers as they are written, not as powers of ten, and a handful of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    decades = float(np.ptp(np.log10(values))) if len(values) else 1.0
    digits = (1, 1.5, 2, 3, 5, 7) if decades < 0.7 else (1, 2, 5) if decades < 2 else (1,)
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the axes, in columns; what has one name is one entry."""
    handles, labels = axes.get_legend_handles_labels()
    merged: dict[str, list[Any]] = {}
    for handle, label in zip(handles, labels, strict=True):
        merged.setdefault(label, []).append(handle)
    if len(merged) < 2:
        return
    together: list[Any] = [tuple(each) for each in merged.values()]
    figure.legend(
        together,
        list(merged),
        loc="outside upper left",
        ncols=3 if sum(map(len, merged)) < 30 else 2,
        frameon=False,
        handlelength=1.6,
        columnspacing=1.2,
        borderaxespad=0.1,
    )


def draw_matrix(matrix: CrossDevice) -> Figure:
    """Slowdown of each device's pick on each device, as numbers on shades."""
    from matplotlib.colors import LinearSegmentedColormap

    rows, columns = matrix.slowdown_percent.shape
    figure, axes = _figure(0.9 + 0.34 * rows)
    shades = LinearSegmentedColormap.from_list("slowdown", ["#ffffff", LIGHT["pick"]])
    # The strongest shade is not the full colour: dark text must stay readable on it.
    axes.imshow(
        matrix.slowdown_percent, cmap=shades.with_extremes(bad=LIGHT["raised"]), vmin=0, vmax=300, aspect="auto"
    )
    for (row, column), slowdown in np.ndenumerate(matrix.slowdown_percent):
        text = f"+{slowdown:.0f} %" if np.isfinite(slowdown) else "–"
        is_own = matrix.picks[row]["device"] == matrix.devices[column]
        axes.text(column, row, text, ha="center", va="center", weight="bold" if is_own else "normal")
    axes.set_xticks(range(columns), matrix.devices)
    axes.set_yticks(range(rows), [f"{pick['device']}, {pick['budget_ms']:g} ms" for pick in matrix.picks])
    axes.set(xlabel="runs on", ylabel="picked for")
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(columns - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(rows - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0)
    return figure
