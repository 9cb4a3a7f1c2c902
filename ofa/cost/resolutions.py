"""Latencies of parts at resolutions between those that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ofa.cost.latency_table import ENERGY, LATENCIES, SlotLike
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
    names = [name for name in (*LATENCIES, ENERGY) if name in entries]
    known = dict(zip(entries["key"], entries[names].to_numpy(float), strict=True))
    sides = dict(zip(entries["key"], entries["resolution"], strict=True))
    added: dict[str, dict[str, Any]] = {}
    indices = [space["resolution"].index(value) for value in measured]
    for slot in slots:
        if "resolution" not in slot.dims:
            continue
        by_resolution = np.moveaxis(slot.keys, slot.dims.index("resolution"), -1)
        for column in by_resolution.reshape(-1, by_resolution.shape[-1]):
            missing = {key: fields(key) for key in column if key and key not in known and key not in added}
            if not missing:
                continue
            anchors = sorted({key for key in column[indices] if key in known}, key=lambda key: sides[key])
            pixels = [float(sides[key]) ** 2 for key in anchors]
            at = [float(own["resolution"]) ** 2 for own in missing.values()]
            each = np.array([known[key] for key in anchors]).T  # one row per name
            lines = [np.interp(at, pixels, values).round(6) for values in each]
            for (key, own), *values in zip(missing.items(), *lines, strict=True):
                added[key] = {"key": key, **dict(zip(names, values, strict=True)), "num_runs": 0, **own}
    if not added:
        return entries
    rows = pd.DataFrame(added.values()).convert_dtypes().assign(precision=entries["precision"].iloc[0])
    return pd.concat([entries, rows.reindex(columns=entries.columns)], ignore_index=True)
