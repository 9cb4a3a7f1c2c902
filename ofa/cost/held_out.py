"""How far a latency table can be trusted: its errors on subnets that it has not seen, beside two simple baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ofa.cost.correction import Floats

LIMITS = (5, 10)


def held_out_errors(
    predicted_ms: Floats, measured_ms: Floats, *, baselines: Mapping[str, Floats], fit_ms: Floats
) -> dict[str, Any]:
    """Errors of a table, as the JSON file holds them.

    Args:
        predicted_ms: What the table predicts, shape ``(N,)``.
        measured_ms: Whole subnets that had no part in building it, shape ``(N,)``.
        baselines: For each baseline (``macs_only``), its quantity for the ``F`` subnets of ``fit_ms``, then the ``N``.
        fit_ms: Latencies that a straight line through each baseline is fitted on, shape ``(F,)``.

    Returns:
        ``bias_percent`` is positive if the table predicts too much; ``within_5_percent`` and ``within_10_percent``
        say of how many percent of the subnets the error is at most that. A rank correlation is ``None`` if one side is
        constant.
    """
    errors_percent = (predicted_ms / measured_ms - 1) * 100
    result: dict[str, Any] = {
        "num": len(measured_ms),
        "mape_percent": float(np.abs(errors_percent).mean()),
        "bias_percent": float(errors_percent.mean()),
        "worst_percent": float(np.abs(errors_percent).max()),
        **{f"within_{limit}_percent": 100 * float((np.abs(errors_percent) <= limit + 1e-9).mean()) for limit in LIMITS},
        "spearman": spearman(predicted_ms, measured_ms),
    }
    for name, quantity in baselines.items():
        seen, unseen = np.split(quantity, [len(fit_ms)])
        result[f"{name}_spearman"] = spearman(unseen, measured_ms)
        if len(fit_ms):
            line_ms = _line(seen, fit_ms, unseen)
            result[f"{name}_mape_percent"] = float(np.abs(line_ms / measured_ms - 1).mean() * 100)
    return result | {"predicted_ms": predicted_ms.round(6).tolist(), "measured_ms": measured_ms.round(6).tolist()}


def spearman(first: Floats, second: Floats) -> float | None:
    """Rank correlation, equal values sharing their mean rank."""
    ranks = np.array([pd.Series(values).rank() for values in (first, second)])
    if (ranks.std(axis=1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _line(x: Floats, y: Floats, at: Floats) -> Floats:
    """The least-squares line through ``x`` and ``y``, evaluated."""
    spread = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread if spread > 0 else 0.0
    line: Floats = y.mean() + slope * (at - x.mean())
    return line
