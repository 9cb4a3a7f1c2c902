from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from ofa.report.charts import best_of, describe, plot_points
from ofa.space import SearchSpace

NAN = float("nan")
POINT = st.tuples(st.integers(1, 20), st.integers(80, 99))


def test_only_picks_stand_at_their_measured_latency() -> None:
    front = pd.DataFrame(
        {
            "arch": ['{"resolution":32,"stage1.depth":2,"stage2.depth":3}'] * 4,
            "predicted_score": [90.0, 91.0, 92.0, 93.0],
            "predicted_latency_ms": [3.0, 2.0, 1.0, 4.0],
            "measured_score": [90.5, 91.5, 92.5, NAN],
            "worth": [90.5, 91.5, 92.5, NAN],
            "measured_latency_ms": [3.3, 2.2, NAN, NAN],
            "macs": 1e6,
            "params": 1e6,
            "origin": ["pick", "front", "random", "front"],
        }
    )
    points = plot_points(front)
    assert points["latency_ms"].to_list() == [1.0, 2.0, 3.3]
    assert points["score"].to_list() == [92.5, 91.5, 90.5]


@given(rows=st.lists(POINT, max_size=30))
def test_nothing_beats_the_best(rows: list[tuple[int, int]]) -> None:
    points = pd.DataFrame(rows, columns=["latency_ms", "worth"]).astype(np.float64)
    best = best_of(points)
    assert best["latency_ms"].is_monotonic_increasing and best["worth"].is_monotonic_increasing
    for latency_ms, top1_percent in rows:
        assert ((best["latency_ms"] <= latency_ms) & (best["worth"] >= top1_percent)).any()


def test_describing_what_varies(space: SearchSpace) -> None:
    assert describe(space.largest()) == "224 px, depths 4-4-4-4-4"
    assert describe({"resolution": 32, "stage1.depth": 2, "stage1.block0.kernel": 3}) == "32 px, depths 2"
    assert describe({}) == ""
