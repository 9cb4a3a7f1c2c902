from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.files import FileFormatError
from ofa.metrics import TOP1, wilson_interval
from ofa.report.explorer import budget_range_ms, choices_of, measured_points
from ofa.report.numbers import fixed
from ofa.report.run_files import DeviceResults, read_run
from ofa.search.pick import best_within, pick_from_ms
from ofa.search.posterior import Posterior
from ofa.space import Dim, SearchSpace

SPACE = SearchSpace((Dim("width", tuple(range(30))),))
SUBNET = st.tuples(st.integers(0, 29), st.integers(80, 99), st.one_of(st.none(), st.integers(1, 20)))


def device_of(rows: list[tuple[int, int, int | None]], **bundle: object) -> DeviceResults:
    front = pd.DataFrame(
        {
            "arch": [json.dumps({"width": width}) for width, _, _ in rows],
            "predicted_score": 90.0,
            "predicted_latency_ms": 1.0,
            "measured_score": [float(top1) for _, top1, _ in rows],
            "worth": [float(top1) for _, top1, _ in rows],
            "measured_latency_ms": [float("nan") if ms is None else float(ms) for _, _, ms in rows],
            "macs": 1e6,
            "params": 1e6,
            "origin": "front",
            "latency_ms_p10": 1.0,
            "latency_ms_p90": float("nan"),
            "num_images": 500,
            "pick_from_ms": float("nan"),
        }
    )
    bundles = [{"folder": "bundles/a", **bundle}] if bundle else []
    files = {"selected": None, "archs": (), "table": None, "table_csv": None}
    return DeviceResults(name="a", front=front, bundles=bundles, metric=TOP1, **files)


def choices(rows: list[tuple[int, int, int | None]], **bundle: object) -> list[dict[str, Any]]:
    device = device_of(rows, **bundle)
    assert device.front is not None
    return choices_of(device, measured_points(device.front), SPACE, {})


def pick(choices: list[dict[str, Any]], budget_ms: float, headroom: float) -> dict[str, Any] | None:
    """As the page does it."""
    return next((c for c in reversed(choices) if c["from_ms"] <= budget_ms / (1 + headroom)), None)


@settings(max_examples=40)
@given(rows=st.lists(SUBNET, max_size=25, unique_by=lambda row: row[0]), budget_ms=st.floats(0.5, 25))
def test_any_budget_picks_what_the_search_would_pick(rows: list[tuple[int, int, int | None]], budget_ms: float) -> None:
    device = device_of(rows)
    assert device.front is not None
    measured = device.front.dropna(subset=["measured_latency_ms"])
    sure = Posterior(TOP1, np.tile(measured["measured_score"], (2, 1)), np.zeros(len(measured)))
    judged = measured.assign(pick_from_ms=pick_from_ms(measured["measured_latency_ms"].to_numpy(), sure))
    expected = best_within(judged, budget_ms / 1.03)
    # In a front of an earlier version, which does not say what is picked, all are sure.
    for known in (choices(rows), choices_of(device, measured_points(judged), SPACE, {})):
        found = pick(known, budget_ms, 0.03)
        if expected is None:
            assert found is None
        else:
            assert found is not None
            assert found["score"] == measured.loc[expected, "measured_score"]
            assert found["median_ms"] == measured.loc[expected, "measured_latency_ms"]


def test_what_is_known_of_a_choice() -> None:
    rows: list[tuple[int, int, int | None]] = [(3, 98, 2), (4, 97, 2)]
    (choice,) = choices(rows)
    assert choice["arch"] == {"width": 3}
    assert choice["text"]["interval"] == "–".join(map(fixed, wilson_interval(490, 500)))
    assert choice["percentiles_ms"] == {"p10": 1.0, "p50": 2.0}  # nobody kept the p90
    assert choice["text"]["bundle"] == ""
    (choice,) = choices(rows, arch={"width": 3}, budget_ms=1.0, latency_ms={"p50": 1.5})
    assert choice["text"]["bundle"] == "bundles/a"
    assert choice["percentiles_ms"] == {"p50": 1.5} and choice["median_ms"] == 2.0
    assert choices([(3, 98, None)]) == []


def test_the_range_reaches_from_what_nothing_keeps_to_what_all_keep() -> None:
    medians_ms = [choice["median_ms"] for choice in choices([(1, 90, 1), (2, 95, 10)])]
    low, high = budget_range_ms(medians_ms, [], 0.03)
    assert low < 1.03 < 10.3 < high
    low, high = budget_range_ms(medians_ms, [0.6, 15, 1_000], 0.03)
    assert (low, high) == (pytest.approx(0.54), pytest.approx(16.5))


def test_an_architecture_of_another_space_is_named() -> None:
    with pytest.raises(FileFormatError, match=r"front.csv of device 'a' does not fit.*cannot be 99.*ofa search"):
        choices([(99, 90, 1)])


def test_bundles_of_both_formats_and_places_are_found(one_device: Path) -> None:
    run = read_run(one_device)
    (device,) = run.devices
    assert [bundle["folder"] for bundle in device.bundles] == ["bundles/cpu-1t-0.8ms", "deploy/cpu-1t-1.2ms"]
    first, second, third = device.archs
    assert device.bundle_of(first, 0.8) is device.bundles[0] and device.bundle_of(first, 1.2) is None
    assert device.bundle_of(second) is device.bundles[1]
    assert device.bundle_of(third) is None
