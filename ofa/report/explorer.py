"""The subnets that a latency budget can pick on a device, all of them measured there, as the page explores them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ofa.files import FileFormatError
from ofa.report.charts import best_of, describe, measured_front, plot_points
from ofa.report.drawing import architecture_svg
from ofa.report.numbers import ms, si
from ofa.report.run_files import DeviceResults, RunFiles
from ofa.search.pick import FROM_MS
from ofa.search.run import FLEET
from ofa.space import SearchSpace, SpaceError

NUM_QUANTILES = 21
"""Milliseconds at 0, 5 ... 100 % of the runs, as bundles keep them."""


def explorer_data(run: RunFiles) -> tuple[list[dict[str, Any]], list[str]]:
    """What the explorer knows of each device that something was measured on, and the drawings that it refers to.

    Raises:
        FileFormatError: If an architecture is not of the space.
    """
    drawings: dict[str, int] = {}
    devices = []
    for device in run.devices:
        if device.front is None or (points := measured_points(device.front)).empty:
            continue
        choices = choices_of(device, points, run.space, drawings)
        low, high = budget_range_ms([choice["from_ms"] for choice in choices], device.budgets_ms, device.headroom)
        devices.append(
            {
                "name": device.name,
                "where": "every device" if device.name == FLEET else device.name,
                "budgets_ms": device.budgets_ms,
                "low_ms": low,
                "high_ms": high,
                "headroom": device.headroom,
                "choices": choices,
                "chart": measured_front(device, points).to_json(),
                "commands": _export_commands(run, device),
            }
        )
    return devices, list(drawings)


def measured_points(front: pd.DataFrame) -> pd.DataFrame:
    """The measured and evaluated rows of ``front.csv``, each architecture once, at its measured latency."""
    measured = front.dropna(subset=["measured_latency_ms", "measured_score"]).drop_duplicates("arch")
    points = plot_points(measured)
    return points.assign(latency_ms=points["measured_latency_ms"]).sort_values("latency_ms", kind="stable")


def choices_of(
    device: DeviceResults, points: pd.DataFrame, space: SearchSpace, drawings: dict[str, int]
) -> list[dict[str, Any]]:
    """All that any budget can pick, the least budget first.

    A budget's pick is the last whose ``from_ms`` times ``1 + headroom`` is within it, as :mod:`ofa.search.pick` picks;
    where an earlier version searched, each is better than whatever is as fast.

    Args:
        points: See :func:`measured_points`.
        drawings: Drawing -> its number; those of the choices are added.

    Raises:
        FileFormatError: If an architecture is not of the space.
    """
    best = points.dropna(subset=FROM_MS).sort_values(FROM_MS)
    if best.empty:  # of equals in both, the first; of equals in accuracy, the fastest
        best = best_of(points).drop_duplicates("latency_ms")
        best = best.assign(**{FROM_MS: best["latency_ms"]})
    try:
        return [_choice(row, space, device, drawings) for _, row in best.iterrows()]
    except SpaceError as error:
        raise FileFormatError(
            f"front.csv of device {device.name!r} does not fit this run's search space: {error}; search again with "
            f"`ofa search --device {device.name}`"
        ) from None


def _choice(row: pd.Series, space: SearchSpace, device: DeviceResults, drawings: dict[str, int]) -> dict[str, Any]:
    """A choice as JSON data: ``text`` is shown as it is, the rest decides where things are drawn."""
    arch, metric = space.arch(json.loads(row["arch"])), device.metric
    score, median_ms, predicted_ms = (float(row[name]) for name in ("score", "latency_ms", "predicted_latency_ms"))
    num_images = int(row["num_images"]) if np.isfinite(row["num_images"]) else 0
    interval = metric.interval({**row, metric.name: score}) if num_images else ()
    bundle = device.bundle_of(arch)
    percentiles = {"p10": float(row["latency_ms_p10"]), "p50": median_ms, "p90": float(row["latency_ms_p90"])}
    measured_ms = {name: value for name, value in percentiles.items() if np.isfinite(value)}
    latency_ms: dict[str, Any] = bundle["latency_ms"] if bundle else measured_ms
    quantiles_ms = latency_ms.get("quantiles") or []
    test = bundle.get(metric.name) if bundle else None
    text = {
        "score": metric.number(score),
        "interval": "–".join(map(metric.number, interval)),
        "num_images": f"{num_images:,}" if num_images else "",
        "median": ms(median_ms),
        "predicted": ms(predicted_ms),
        "error": f"{(predicted_ms / median_ms - 1) * 100:+.1f} %",
        "macs": si(float(row["macs"])),
        "params": si(float(row["params"])),
        "details": describe(arch),
        "bundle": bundle["folder"] if bundle else "",
        "num_runs": f"{latency_ms['num_runs']:,}" if "num_runs" in latency_ms else "",
        "test": metric.number(test["value"]) if test else "",
        "test_interval": "–".join(metric.number(test[side]) for side in ("low", "high")) if test else "",
    }
    return {
        "text": text,
        "arch": dict(arch),
        "drawing": drawings.setdefault(architecture_svg(space, arch), len(drawings)),
        "score": score,
        "median_ms": median_ms,
        "from_ms": float(row[FROM_MS]),
        "predicted_ms": predicted_ms,
        "percentiles_ms": {name: latency_ms[name] for name in percentiles if name in latency_ms},
        "quantiles_ms": quantiles_ms if len(quantiles_ms) == NUM_QUANTILES else [],
    }


def budget_range_ms(begins_ms: Sequence[float], budgets_ms: Sequence[float], headroom: float) -> tuple[float, float]:
    """From a little below what anything keeps to a little above what the slowest needs; searched budgets included.

    A searched budget that is far off does not count: most of the range would be empty.

    Args:
        begins_ms: ``from_ms`` of all choices, ascending.
    """
    fastest, slowest = (begins_ms[index] * (1 + headroom) for index in (0, -1))
    near = [budget for budget in budgets_ms if fastest / 2 <= budget <= 2 * slowest]
    return 0.9 * min([fastest, *near]), 1.1 * max([slowest, *near])


def _export_commands(run: RunFiles, device: DeviceResults) -> list[list[str]]:
    """Commands that export the pick of a budget; each in parts, between which the budget stands."""
    is_elsewhere = run.search_dir != run.run_dir / "search"
    search = ["--search", str(run.search_dir / device.name)] if device.name == FLEET or is_elsewhere else []
    return [
        [
            shlex.join(["ofa", "export", "--run", str(run.run_dir), "--device", name, *search, "--budget-ms"]) + " ",
            " --out " + shlex.quote(f"{run.run_dir}/bundles/{name}-"),
            "ms",
        ]
        for name in run.names_of(device)
    ]
