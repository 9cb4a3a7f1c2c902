"""PNG plots for READMEs and papers."""

from __future__ import annotations

from pathlib import Path

from ofa.files import FileFormatError, atomic_path
from ofa.report.palette import LIGHT
from ofa.report.points import best_of, plot_points
from ofa.report.run_files import read_run


def write_front_png(run_dir: Path | str, path: Path | str, *, device: str | None = None) -> Path:
    """Draw accuracy against latency: every evaluated subnet, both fronts and the picks.

    Args:
        device: The device to draw; the first that has been searched if ``None``.

    Returns:
        ``path``.

    Raises:
        FileFormatError: If the run is damaged, or ``device`` has no front yet.
    """
    # A figure of its own, without pyplot, draws on Agg and leaves the process's backend and figures alone.
    from matplotlib.figure import Figure

    run = read_run(run_dir)
    searched = {found.name: found for found in run.devices if found.front is not None}
    name = next(iter(searched), None) if device is None else device
    if name not in searched:
        raise FileFormatError(
            f"no front of device {name or 'any'!r} in {run_dir}; "
            f"run `ofa search --run {run_dir} --device {name or 'NAME'} --budget-ms X` first"
        )
    front = searched[name].front
    assert front is not None
    points = plot_points(front)
    random, found, picks = (points[points["origin"] == origin] for origin in ("random", "front", "pick"))

    figure = Figure(figsize=(8, 4.8), layout="constrained", facecolor=LIGHT["page"])
    axes = figure.add_subplot(facecolor=LIGHT["page"])
    axes.scatter(random["latency_ms"], random["top1_percent"], s=14, color=LIGHT["random"], label="evaluated subnets")
    for name_of, rows, style, role in (
        ("best of random", best_of(random), ":", "random_front"),
        ("Pareto front", best_of(points[points["origin"] != "pick"]), "-", "front"),
    ):
        axes.step(
            rows["latency_ms"], rows["top1_percent"], style, where="post", lw=1.5, color=LIGHT[role], label=name_of
        )
    axes.scatter(found["latency_ms"], found["top1_percent"], s=20, color=LIGHT["front"], label="found by the search")
    axes.scatter(
        picks["latency_ms"],
        picks["top1_percent"],
        s=90,
        marker="D",
        color=LIGHT["pick"],
        edgecolors=LIGHT["page"],
        zorder=3,
        label="picks",
    )
    for pick in searched[name].picks:
        axes.axvline(pick["budget_ms"], color=LIGHT["muted"], lw=0.8, ls=(0, (2, 4)), zorder=0)
    axes.set_xlabel(f"latency on {name} (ms)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(f"{run.supernet['model']['name']} on {run.supernet['data']['name']}", loc="left")
    axes.grid(axis="y", color=LIGHT["rule"])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    return Path(path)
