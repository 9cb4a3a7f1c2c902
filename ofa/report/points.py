"""What the accuracy-latency plots show, whichever library draws them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ofa.search.pareto import non_dominated


def plot_points(front: pd.DataFrame) -> pd.DataFrame:
    """The evaluated rows of ``front.csv`` with ``latency_ms``, ``score`` and ``worth`` (more is better); fastest first.

    Scores are measured. Latency is predicted, since only a few subnets are measured and the others stand beside them,
    but for picks: those are held against their budgets.
    """
    evaluated = front.dropna(subset=["measured_score", "predicted_latency_ms"])
    is_pick = evaluated["origin"] == "pick"
    return evaluated.assign(
        latency_ms=evaluated["predicted_latency_ms"].mask(is_pick, evaluated["measured_latency_ms"]),
        score=evaluated["measured_score"],
    ).sort_values("latency_ms", kind="stable")


def best_of(points: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both latency and worth, the fastest first."""
    if points.empty:
        return points
    values = np.column_stack([points["latency_ms"], -points["worth"]])
    return points[non_dominated(values)].sort_values("latency_ms")


def describe(arch: Mapping[str, Any]) -> str:
    """Resolution and depths, for example ``176 px, depths 3-2-4``."""
    depths = [str(value) for name, value in arch.items() if name.endswith(".depth")]
    parts = [f"{arch['resolution']} px"] if "resolution" in arch else []
    return ", ".join(parts + ([f"depths {'-'.join(depths)}"] if depths else []))
