"""What it costs to use one device's subnet on another."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ofa.cost import LatencyTable
from ofa.report.run_files import DeviceResults, RunFiles
from ofa.space import Arch


@dataclass(frozen=True, kw_only=True)
class OnePick:
    """The pick that stands for a device: that of its middle budget."""

    device: str
    arch: Arch
    budget_ms: float
    score: float


@dataclass(frozen=True, kw_only=True)
class CrossDevice:
    """Latencies of each device's pick on every device, all predicted by the latency tables.

    Args:
        picks: ``P`` rows.
        devices: Names of the ``T`` devices with a table, the columns.
        latency_ms: Shape ``(P, T)``; not-a-number where the table lacks a part.
        slowdown_percent: Shape ``(P, T)``: how much longer the pick takes than the fastest evaluated subnet that is at
            least as good. Scores do not depend on the device, so the evaluations of all devices count, and the
            pick itself is one of them: it is never below 0.
    """

    picks: tuple[OnePick, ...]
    devices: tuple[str, ...]
    latency_ms: npt.NDArray[np.float64]
    slowdown_percent: npt.NDArray[np.float64]


def cross_device(run: RunFiles) -> CrossDevice | None:
    """The comparison; ``None`` where fewer than two devices have a table, or where nothing was picked.

    Raises:
        FileFormatError: If a table is damaged.
    """
    csv_of = {device.name: device.table_csv for device in run.devices if device.table_csv is not None}
    picks = tuple(_middle_pick(device) for device in run.devices if device.picks)
    if len(csv_of) < 2 or not picks:
        return None
    score_of = {pick.arch: pick.score for pick in picks} | _evaluations(run)
    archs, worth = list(score_of), run.metric.sign * np.array(list(score_of.values()))
    population = run.space.to_population(archs)
    # A table that was refused for its noise is good enough for this, and the page says that it was.
    tables = [LatencyTable.load(path, force=True) for path in csv_of.values()]
    all_ms = np.stack([table.cost_model.predict(population) for table in tables], axis=1)
    rows = [archs.index(pick.arch) for pick in picks]
    fastest_ms = np.stack([np.nanmin(all_ms[worth >= worth[row]], axis=0, initial=np.inf) for row in rows])
    return CrossDevice(
        picks=picks,
        devices=tuple(csv_of),
        latency_ms=all_ms[rows],
        slowdown_percent=100 * (all_ms[rows] / fastest_ms - 1),
    )


def _middle_pick(device: DeviceResults) -> OnePick:
    order = sorted(range(len(device.picks)), key=lambda index: float(device.picks[index]["budget_ms"]))
    middle = order[len(order) // 2]
    pick = device.picks[middle]
    return OnePick(
        device=device.name,
        arch=device.archs[middle],
        budget_ms=pick["budget_ms"],
        score=pick["measured_score"],
    )


def _evaluations(run: RunFiles) -> dict[Arch, float]:
    """Score of every subnet that was evaluated for any device."""
    found: dict[Arch, float] = {}
    for device in run.devices:
        if device.front is not None:
            evaluated = device.front.dropna(subset=["measured_score"])
            archs = [Arch(json.loads(text)) for text in evaluated["arch"]]
            found |= zip(archs, evaluated["measured_score"], strict=True)
    return found
