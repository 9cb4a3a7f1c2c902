"""Latencies of parts at resolutions between those that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ofa.cost.latency_table import LATENCIES, SlotLike
from ofa.errors import UsageError
from ofa.space import SearchSpace


def spread_resolutions(space: SearchSpace, num: int) -> list[int]:
    """``num`` resolutions of a space, the lowest and the highest among them, at even distances in pixels.

    Raises:
        ValueError: If ``num`` is less than 2, or more than there are.
    """
    values = [int(value) for value in space["resolution"].values]
    if not 2 <= num <= len(values):
        raise UsageError(f"num_resolutions must lie between 2 and the {len(values)} of this space, not {num}")
    positions = np.linspace(0, len(values) - 1, num).round().astype(int)
    return [values[position] for position in positions]


def interpolate_resolutions(
    entries: pd.DataFrame,
    slots: Sequence[SlotLike],
    space: SearchSpace,
    measured: Sequence[int],
    *,
    fields: Callable[[str], Mapping[str, Any]],
) -> pd.DataFrame:
    """Add the parts at the other resolutions, on straight lines between their measured neighbours.

    The latency of a part is nearly proportional to its number of pixels, so that is what the lines are over. Whatever
    cannot vary with the resolution at all is measured already, as its key is the same at all of them.

    Args:
        entries: Of a latency table, with all parts at the ``measured`` resolutions.
        fields: Gives the readable sizes of a part; ``resolution`` is the side of its input.

    Returns:
        ``entries``, and after them the new ones, with ``num_runs`` 0.
    """
    table = entries.set_index("key")
    latencies = {key: row for key, row in zip(entries["key"], table[LATENCIES].to_numpy(float), strict=True)}
    known, sides = set(latencies), dict(zip(entries["key"], entries["resolution"], strict=True))
    readable: dict[str, Mapping[str, Any]] = {}
    indices = [space["resolution"].index(value) for value in measured]
    for slot in slots:
        if "resolution" not in slot.dims:
            continue
        columns = np.moveaxis(slot.keys, slot.dims.index("resolution"), 0).reshape(
            slot.keys.shape[slot.dims.index("resolution")], -1
        )
        for column in columns.T:
            missing = [key for key in column if key and key not in latencies]
            if not missing:
                continue
            anchors = sorted({key for key in column[indices] if key in known}, key=lambda key: sides[key])
            readable |= {key: fields(key) for key in missing}
            pixels = np.array([float(sides[key]) ** 2 for key in anchors])
            at = np.array([float(readable[key]["resolution"]) ** 2 for key in missing])
            values = np.array([latencies[key] for key in anchors])
            between = np.stack(
                [np.interp(at, pixels, values[:, percentile]) for percentile in range(len(LATENCIES))], axis=1
            )
            latencies |= dict(zip(missing, between, strict=True))
    rows = [
        {"key": key, **dict(zip(LATENCIES, latencies[key].round(6), strict=True)), "num_runs": 0, **readable[key]}
        for key in readable
    ]
    if not rows:
        return entries
    added = pd.DataFrame(rows).convert_dtypes().assign(precision=entries["precision"].iloc[0])
    return pd.concat([entries, added.reindex(columns=entries.columns)], ignore_index=True)
