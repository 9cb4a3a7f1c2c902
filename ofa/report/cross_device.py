"""What it costs to use one device's subnet on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.cost import LatencyTable
from ofa.report.run_files import DeviceResults, RunFiles
from ofa.space import Arch


@dataclass(frozen=True, kw_only=True)
class CrossDevice:
    """Latencies of each device's pick on every device, all predicted by the latency tables.

    Args:
        picks: ``P`` rows: each device's pick of its middle budget, with ``device`` besides.
        devices: Names of the ``T`` devices with a table, the columns.
        latency_ms: Shape ``(P, T)``; not-a-number where the table lacks a part.
        slowdown_percent: Shape ``(P, T)``: how much longer the pick takes than the fastest evaluated subnet that is at
            least as good. Scores do not depend on the device, so the evaluations of all devices count, and the
            pick itself is one of them: it is never below 0.
    """

    picks: Sequence[dict[str, Any]]
    devices: tuple[str, ...]
    latency_ms: npt.NDArray[np.float64]
    slowdown_percent: npt.NDArray[np.float64]


def cross_device(run: RunFiles) -> CrossDevice | None:
    """The comparison; ``None`` where fewer than two devices have a table, or where nothing was picked.

    Raises:
        FileFormatError: If a table is damaged.
    """
    csv_of = {device.name: device.table_csv for device in run.devices if device.table_csv is not None}
    picks = [{**_middle_pick(device), "device": device.name} for device in run.devices if device.picks]
    if len(csv_of) < 2 or not picks:
        return None
    score_of = {Arch(pick["arch"]): pick["measured_score"] for pick in picks} | _evaluations(run)
    archs, worth = list(score_of), run.metric.sign * np.array(list(score_of.values()))
    population = run.space.to_population(archs)
    # A table that was refused for its noise is good enough for this, and the page says that it was.
    tables = [LatencyTable.load(path, force=True) for path in csv_of.values()]
    all_ms = np.stack([table.cost_model.predict(population) for table in tables], axis=1)
    rows = [archs.index(Arch(pick["arch"])) for pick in picks]
    fastest_ms = np.stack([np.nanmin(all_ms[worth >= worth[row]], axis=0, initial=np.inf) for row in rows])
    return CrossDevice(
        picks=picks,
        devices=tuple(csv_of),
        latency_ms=all_ms[rows],
        slowdown_percent=100 * (all_ms[rows] / fastest_ms - 1),
    )


def _middle_pick(device: DeviceResults) -> dict[str, Any]:
    picks = sorted(device.picks, key=lambda pick: float(pick["budget_ms"]))
    return picks[len(picks) // 2]


def _evaluations(run: RunFiles) -> dict[Arch, float]:
    """Score of every subnet that was evaluated for any device."""
    fronts = [device.front.dropna(subset=["measured_score"]) for device in run.devices if device.front is not None]
    return {
        Arch.from_json(text): score
        for front in fronts
        for text, score in zip(front["arch"], front["measured_score"], strict=True)
    }
