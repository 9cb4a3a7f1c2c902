"""How much longer to measure: what a table errs by, how much of that is noise, and which blocks reduce it most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ofa.cost import LatencyTable
from ofa.cost.latency_table import stage_of
from ofa.hardware.timing import LOW, TimingResult
from ofa.space import Population

Floats = npt.NDArray[np.float64]

MORE_BLOCKS = 2  # of each model on average, in each step
MAX_MORE_BLOCKS = 6  # of one model
MIN_GAIN = 0.1  # of the error, for which it is worth while to measure on
MIN_BETTER_PERCENT = 0.25  # and by so much of a latency
MAX_STEP_SECONDS = 10.0  # between two blocks that were timed one after the other


@dataclass(frozen=True)
class Outlook:
    """What more blocks would bring.

    Args:
        error_percent: Root mean square error on held-out subnets.
        noise_percent: The part of it that timing errors explain, of subnets and of the parts that they are summed from.
        better_percent: The error that is to be expected after ``num_blocks``.
        num_blocks: Good blocks of each model then.
        seconds: How long that takes.
    """

    error_percent: float
    noise_percent: float
    better_percent: float
    num_blocks: Mapping[str, int]
    seconds: float

    @property
    def pays(self) -> bool:
        """Whether they are worth their time."""
        return self.error_percent - self.better_percent > max(MIN_BETTER_PERCENT, MIN_GAIN * self.error_percent)


def look_ahead(
    table: LatencyTable,
    result: TimingResult,
    *,
    num_blocks: Mapping[str, int],
    held_out: Population,
    held_out_names: Sequence[str],
    typical: Population,
) -> Outlook:
    """What is to be gained by more blocks, and where they belong.

    To the variance of a network's prediction a part adds the square of what it takes in the network, times its own
    relative variance. So blocks go to parts as these products have it over many networks (Neyman's allocation: in
    proportion to the spread that they leave), and to all whole networks alike.

    Args:
        num_blocks: Good blocks of each model that were asked for so far.
        held_out: Subnets that the table is judged on, shape ``(N, D)``; ``held_out_names`` are their names.
        typical: Subnets of all kinds that the table is for, shape ``(M, D)``.
    """
    names = list(num_blocks)
    parts = [name for name in names if name in table.measured_keys]
    part_errors = result.error_percent(parts, LOW) / 100
    asked = np.array([num_blocks[name] for name in parts])
    shares = part_shares(table, parts, held_out)
    own = (result.error_percent(held_out_names) / 100) ** 2
    predicted_ms, measured_ms = (np.array(table.held_out[key]) for key in ("predicted_ms", "measured_ms"))
    square = float(np.mean((predicted_ms / measured_ms - 1) ** 2))
    noise = float(np.mean(own + shares**2 @ part_errors**2))

    importance = np.sqrt(np.mean(part_shares(table, parts, typical) ** 2, axis=0)) * part_errors * np.sqrt(asked)
    total = asked.sum() + MORE_BLOCKS * len(parts)
    ideal = total * importance / importance.sum() if importance.sum() else asked
    more = np.clip(np.round(ideal).astype(int), asked, asked + MAX_MORE_BLOCKS)
    after = {name: number + MORE_BLOCKS for name, number in num_blocks.items()}
    after |= dict(zip(parts, more.tolist(), strict=True))
    shrunk = np.array([num_blocks[name] / after[name] for name in held_out_names])
    left = float(np.mean(own * shrunk + shares**2 @ (part_errors**2 * asked / more)))
    better = max(square - noise, 0.0) + left if noise < square else square * left / noise
    num_more = sum(after[name] - num_blocks[name] for name in names)
    return Outlook(
        error_percent=100 * square**0.5,
        noise_percent=100 * noise**0.5,
        better_percent=100 * better**0.5,
        num_blocks=after,
        seconds=num_more * measured_seconds(result) / max(len(result.blocks), 1),
    )


def part_shares(table: LatencyTable, parts: Sequence[str], archs: Population) -> Floats:
    """By how many percent networks slow down where a part does by one: shape ``(N, P)`` for ``P`` parts."""
    position = {key: index for index, key in enumerate(parts)}
    part_ms = dict(zip(table.entries["key"], table.entries["latency_ms_p10"].astype(float), strict=True))
    shares = np.zeros((len(archs), len(parts)))
    rows = np.arange(len(archs))
    for slot in table.slots:
        keys = slot.keys[tuple(archs[:, table.space.column(dim)] for dim in slot.dims)]
        keys = np.broadcast_to(keys, len(archs))  # a slot that nothing decides
        columns = np.array([position.get(key, -1) for key in keys])
        ms = np.array([part_ms.get(key, 0.0) for key in keys]) * table.correction.scale.get(stage_of(slot), 1.0)
        known = columns >= 0
        np.add.at(shares, (rows[known], columns[known]), ms[known])
    totals = table.cost_model.predict(archs)
    return np.asarray(shares / np.where(np.isfinite(totals), totals, np.inf)[:, None])


def measured_seconds(result: TimingResult) -> float:
    """How long was measured, pauses between two starts left out."""
    times = np.sort([block.at_s for block in result.blocks])
    steps = np.diff(times)
    return float(steps[steps < MAX_STEP_SECONDS].sum())
