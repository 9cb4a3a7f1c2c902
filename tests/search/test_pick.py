from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import ofa.search.pick
from ofa.metrics import TOP1
from ofa.search.pick import InfeasibleBudgetError, pick_within_budgets
from ofa.space import Dim, SearchSpace

SPACE = SearchSpace((Dim("size", tuple(range(20))),))


def make_candidates(predicted_ms, predicted_top1, measured_top1=np.nan, is_front=False):
    archs = SPACE.to_archs(np.arange(len(predicted_ms))[:, None])
    return pd.DataFrame(
        {
            "arch": archs,
            "predicted_latency_ms": predicted_ms,
            "predicted_top1_percent": predicted_top1,
            "measured_top1_percent": measured_top1,
            "is_front": is_front,
        }
    )


def pick(candidates, budgets_ms, top1, p50_ms, **options):
    """Run with true values given per row; return picks, the table, and the rows that were measured, by call."""
    calls = []

    def measure(archs):
        rows = [arch["size"] for arch in archs]
        calls.append(rows)
        p50 = np.array(p50_ms)[rows]
        return pd.DataFrame({"latency_ms_p10": p50 * 0.9, "latency_ms_p50": p50, "latency_ms_p90": p50 * 1.2})

    table, picks = pick_within_budgets(
        candidates,
        budgets_ms,
        metric=TOP1,
        evaluate=lambda archs: np.array(top1, dtype=float)[[arch["size"] for arch in archs]],
        measure_ms=measure,
        device="cpu-1t",
        **options,
    )
    return picks, table, calls


def test_a_mispredicted_favourite_is_not_picked():
    candidates = make_candidates([1.0, 2.0, 3.0], [90, 95, 99])
    picks, table, _ = pick(candidates, [2.5], top1=[90, 95, 99], p50_ms=[1.0, 2.6, 3.1])
    assert picks == [0]
    assert table["latency_ms_p50"].tolist() == pytest.approx([1.0, 2.6, np.nan], nan_ok=True)
    assert table.loc[0, "measured_top1_percent"] == 90


def test_true_accuracy_decides_not_the_prediction():
    candidates = make_candidates([1.0, 2.0], [90, 95])
    picks, _, _ = pick(candidates, [5.0], top1=[94, 92], p50_ms=[1.0, 2.0])
    assert picks == [0]


def test_headroom_is_kept(monkeypatch):
    candidates = make_candidates([1.0, 2.0], [90, 95])
    assert pick(candidates, [2.05], [90, 95], [1.0, 2.0])[0] == [0]
    assert pick(candidates, [2.07], [90, 95], [1.0, 2.0])[0] == [1]
    monkeypatch.setattr(ofa.search.pick, "HEADROOM", 0)
    assert pick(candidates, [2.0], [90, 95], [1.0, 2.0])[0] == [1]


def test_goes_on_to_faster_candidates_at_the_slowdown_found():
    latency = np.linspace(1, 20, 20)
    candidates = make_candidates(latency, 80 + latency)
    picks, _, calls = pick(candidates, [15.0], top1=80 + latency, p50_ms=2 * latency, num_candidates=2)
    assert calls == [[12, 13], [5, 6]]  # predicted 14 and 13 ms took twice as long: next come 7 and 6 ms
    assert picks == [6]


def test_a_faster_device_than_predicted_is_used():
    latency = np.linspace(1, 20, 20)
    picks, _, _ = pick(make_candidates(latency, 80 + latency), [5.0], top1=80 + latency, p50_ms=latency / 2)
    assert latency[picks[0]] / 2 == pytest.approx(4.5)


def test_several_budgets_are_measured_together_and_share_what_is_known():
    latency = np.linspace(1, 20, 20)
    truth = 80 + latency
    picks, _, calls = pick(make_candidates(latency, truth), [6.2, 12.4], truth, latency, num_candidates=2)
    assert picks == [5, 11]
    assert calls == [[4, 5, 10, 11]]


def test_rounds_are_bounded():
    latency = np.linspace(1, 20, 20)
    rising = 80 + latency[::-1]  # the more is measured, the better it gets, without end
    candidates = make_candidates(latency, 90 + latency)
    _, _, calls = pick(candidates, [30.0], top1=rising, p50_ms=latency, num_candidates=1)
    assert len(calls) == 5


def test_predictions_are_corrected_by_what_the_front_showed():
    # The predictor promises 5 % too much; row 2 is known to be as good as rows 1 and 3 are likely to be.
    candidates = make_candidates(
        [1.0, 1.9, 2.0, 2.1], [90, 94.9, 95, 94.8], [85.0, np.nan, 90.0, np.nan], is_front=True
    )
    picks, _, calls = pick(candidates, [3.0], top1=[85, 89.9, 90, 89.8], p50_ms=[1.0, 1.9, 2.0, 2.1], num_candidates=1)
    assert picks == [2] and calls == [[2]]


def test_nothing_holds():
    latency = np.linspace(1, 20, 20)
    with pytest.raises(
        InfeasibleBudgetError, match=r"budget of 2 ms on device 'cpu-1t': the fastest is measured at 3"
    ) as e:
        pick(make_candidates(latency, 80 + latency), [2.0, 100.0], 80 + latency, 2 + latency)
    assert e.value.nearest_ms == pytest.approx(3.09)
    assert pick(make_candidates(latency, 80 + latency), [e.value.nearest_ms], 80 + latency, 2 + latency)[0] == [0]


def test_what_is_asked_for_is_measured_too():
    candidates = make_candidates([1.0, 2.0, 3.0, 4.0], [90, 95, 99, 99.5])
    _, table, calls = pick(candidates, [2.5], top1=[90, 95, 99, 99], p50_ms=[1.0, 2.0, 3.0, 4.0], also=[3])
    assert 3 in calls[0] and table.loc[3, "latency_ms_p50"] == 4.0
