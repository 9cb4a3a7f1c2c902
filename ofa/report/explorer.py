"""The subnets that a latency budget can pick on a device, all of them measured there."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ofa.files import FileFormatError
from ofa.report.points import best_of, describe, plot_points
from ofa.report.run_files import Bundle, DeviceResults
from ofa.space import Arch, SearchSpace, SpaceError


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A measured subnet that is the best one within some budget.

    Args:
        score: By the run's metric.
        interval: Its 95 % interval; ``None`` where nobody kept what it follows from.
        latency_ms: Measured percentiles ``p50`` and, where they were kept, ``p10`` and ``p90``.
        bundle: What was exported from it for this device.
    """

    arch: Arch
    details: str
    score: float
    interval: tuple[float, float] | None
    num_images: int | None
    latency_ms: dict[str, float]
    predicted_latency_ms: float
    macs: float
    params: float
    bundle: Bundle | None


def measured_points(front: pd.DataFrame) -> pd.DataFrame:
    """The measured and evaluated rows of ``front.csv``, each architecture once, at its measured latency."""
    measured = front.dropna(subset=["measured_latency_ms", "measured_score"]).drop_duplicates("arch")
    points = plot_points(measured)
    return points.assign(latency_ms=points["measured_latency_ms"]).sort_values("latency_ms", kind="stable")


def choices_of(device: DeviceResults, space: SearchSpace) -> tuple[Choice, ...]:
    """All that any budget can pick, the fastest first: each is better than whatever is as fast.

    A budget's pick is the last whose median times ``1 + headroom`` is within it, as :mod:`ofa.search.pick` picks.

    Raises:
        FileFormatError: If an architecture is not of the space.
    """
    if device.front is None:
        return ()
    # Of equals in both, the first; of equals in accuracy, the fastest.
    best = best_of(measured_points(device.front)).drop_duplicates("latency_ms")
    try:
        return tuple(_choice(row, space, device) for _, row in best.iterrows())
    except SpaceError as error:
        raise FileFormatError(
            f"front.csv of device {device.name!r} does not fit this run's search space: {error}; search again with "
            f"`ofa search --device {device.name}`"
        ) from None


def _choice(row: pd.Series, space: SearchSpace, device: DeviceResults) -> Choice:
    arch = space.arch(json.loads(row["arch"]))
    num_images = int(row["num_images"]) if np.isfinite(row["num_images"]) else None
    percentiles = {"p10": row["latency_ms_p10"], "p50": row["latency_ms"], "p90": row["latency_ms_p90"]}
    return Choice(
        arch=arch,
        details=describe(arch),
        score=float(row["score"]),
        interval=device.metric.interval({**row, device.metric.name: row["score"]}) if num_images else None,
        num_images=num_images,
        latency_ms={name: float(value) for name, value in percentiles.items() if np.isfinite(value)},
        predicted_latency_ms=float(row["predicted_latency_ms"]),
        macs=float(row["macs"]),
        params=float(row["params"]),
        bundle=device.bundle_of(arch),
    )


def budget_range_ms(choices: tuple[Choice, ...], budgets_ms: list[float], headroom: float) -> tuple[float, float]:
    """From a little below what anything keeps to a little above what the slowest needs; searched budgets included.

    A searched budget that is far off does not count: most of the range would be empty.
    """
    fastest, slowest = (choices[index].latency_ms["p50"] * (1 + headroom) for index in (0, -1))
    near = [budget for budget in budgets_ms if fastest / 2 <= budget <= 2 * slowest]
    return 0.9 * min([fastest, *near]), 1.1 * max([slowest, *near])
