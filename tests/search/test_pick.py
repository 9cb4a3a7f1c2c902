from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import ofa.search.pick
from ofa.errors import UsageError
from ofa.metrics import PSNR, TOP1
from ofa.search.pick import (
    InfeasibleBudgetError,
    InfeasibleMetricError,
    check_min_metric,
    check_replace_below,
    pick_entries,
    pick_from_ms,
    pick_within_budgets,
    same_picks,
)
from ofa.search.posterior import Posterior
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


def certain(values):
    """A posterior that is sure of each value."""
    return Posterior(TOP1, np.tile(np.array(values, dtype=float), (3, 1)), np.zeros(len(values)))


def pick(candidates, budgets_ms, top1, p50_ms, **options):
    """Run with true values given per row; return picks, the table, and the rows that were measured, by call."""
    calls = []

    def measure(archs):
        rows = [arch["size"] for arch in archs]
        calls.append(rows)
        p50 = np.array(p50_ms)[rows]
        return pd.DataFrame({"latency_ms_p10": p50 * 0.9, "latency_ms_p50": p50, "latency_ms_p90": p50 * 1.2})

    def evaluate(archs):
        return np.array(top1, dtype=float)[[arch["size"] for arch in archs]]

    def judge(archs):  # nothing is chance, nor is what was known before
        known = dict(zip(candidates["arch"], candidates["measured_top1_percent"], strict=True))
        found = evaluate(archs)
        values = [own if np.isnan(known[arch]) else known[arch] for arch, own in zip(archs, found, strict=True)]
        return certain(values)

    table, picks = pick_within_budgets(
        candidates,
        budgets_ms,
        metric=TOP1,
        evaluate=evaluate,
        judge=judge,
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


def test_what_promises_are_of_is_in_the_table():
    _, table, _ = pick(make_candidates([1.0, 2.0], [90, 95]), [5.0], top1=[94, 92], p50_ms=[1.0, 2.0])
    assert table.loc[0, ["promised_top1_percent", "promised_low", "promised_high"]].tolist() == [94, 94, 94]
    assert table["pick_from_ms"].tolist() == pytest.approx([1.0, np.nan], nan_ok=True)


def normal(means, deviations, seed=0):
    draws = np.array(means) + np.array(deviations) * np.random.default_rng(seed).standard_normal((4000, len(means)))
    return Posterior(TOP1, draws, np.zeros(len(means)))


def test_who_is_sure_climbs_the_front():
    latency_ms = np.array([3.0, 1.0, 2.0, 2.0, 4.0])
    first_ms = pick_from_ms(latency_ms, certain([95.0, 90.0, 94.0, 93.0, 94.9]))
    assert first_ms.tolist() == pytest.approx([3.0, 1.0, 2.0, np.nan, np.nan], nan_ok=True)
    assert pick_from_ms(latency_ms[:0], certain([])).tolist() == []


def test_a_faster_one_replaces_what_is_hardly_better():
    """0.2 points between normals of 1 point each are worse with a chance of 0.56; a point, of 0.76."""
    latency_ms, deviations = np.array([1.0, 2.0, 3.0]), [1.0, 1.0, 1.0]
    first_ms = pick_from_ms(latency_ms, normal([90.0, 90.2, 91.2], deviations))
    assert first_ms.tolist() == pytest.approx([1.0, np.nan, 3.0], nan_ok=True)
    every = pick_from_ms(latency_ms, normal([90.0, 90.2, 91.2], deviations), replace_below=0.5)
    assert every.tolist() == latency_ms.tolist()
    # The second is not picked for its own budget, but for that of the third, which is hardly better.
    first_ms = pick_from_ms(latency_ms, normal([90.0, 91.0, 91.2], deviations), replace_below=0.7)
    assert first_ms.tolist() == pytest.approx([1.0, 2.0, np.nan], nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_more_time_never_promises_less(seed):
    rng = np.random.default_rng(seed)
    latency_ms = rng.uniform(1, 5, 30)
    posterior = normal(80 + latency_ms + rng.normal(0, 1, 30), rng.uniform(0.2, 2, 30), seed)
    first_ms, means = pick_from_ms(latency_ms, posterior), posterior.means
    picks = []
    for limit in np.sort(latency_ms):
        within = np.flatnonzero(latency_ms <= limit)
        best = within[np.argmax(means[within])]
        picks.append(int(np.nanargmax(np.where(first_ms <= limit, first_ms, np.nan))))
        assert picks[-1] in within
        chance = posterior.chances_worse(best)[picks[-1]]
        assert chance < 0.6 or picks[-1] == best
    assert (np.diff(means[picks]) >= 0).all() and len(set(picks)) > 2


@pytest.mark.parametrize("chance", [0.0, 1.0, float("nan")])
def test_a_chance_is_between_0_and_1(chance):
    with pytest.raises(UsageError, match=r"below a chance between 0 and 1, such as 0\.6, not"):
        check_replace_below(chance)


def test_the_fastest_that_is_worth_enough_is_picked():
    """Faster candidates that look good enough are tried until none is left."""
    latency = np.linspace(1, 20, 20)
    candidates = make_candidates(latency, 82 + latency)  # all are worth 2 % less than predicted
    picks, table, calls = pick(candidates, [], 80 + latency, latency, min_metric=[90.5, 85], num_candidates=2)
    assert latency[picks].tolist() == [11.0, 5.0]
    assert calls[0] == [2, 3, 8, 9]  # what is predicted to be just enough
    assert table.loc[picks, "promised_top1_percent"].tolist() == [91.0, 85.0]
    assert pick(candidates, [5.5], 80 + latency, latency, min_metric=[99.9], num_candidates=2)[0] == [4, 19]


def test_nothing_is_worth_so_much():
    latency = np.linspace(1, 20, 20)
    with pytest.raises(
        InfeasibleMetricError,
        match=r"on device 'cpu-1t' is worth a top-1 accuracy of at least 95.0 %: the best .* promises 90.0 % \(90.0 to",
    ) as error:
        pick(make_candidates(latency, 80 + latency), [], 70 + latency, latency, min_metric=[95])
    assert error.value.best == 90


@pytest.mark.parametrize("value", [-1.0, 100.5, float("nan"), float("inf")])
def test_a_share_is_of_a_hundred(value):
    with pytest.raises(UsageError, match="top-1 accuracy is never"):
        check_min_metric([95, value], TOP1)
    check_min_metric([1000.0], PSNR)


def test_entries_of_what_was_asked():
    """What has to be worth something gets the budget that it needs."""
    _, table, _ = pick(make_candidates([1.0, 2.0], [90, 95]), [5.0], top1=[90, 95], p50_ms=[1.0, 2.0])
    rows = table.assign(num_images=1000).loc[[1, 0]].to_dict("records")
    entries = pick_entries(rows, TOP1, [5.0], [89.0], [], "latency_ms_p50")
    assert [entry["budget_ms"] for entry in entries] == [5.0, 1.03]
    assert [entry.get("min_top1_percent") for entry in entries] == [None, 89.0]
    assert same_picks([*entries, entries[0] | {"budget_ms": 7.0}]) == [[5.0, 7.0]]


def test_who_is_as_fast_replaces_nobody():
    first_ms = pick_from_ms(np.array([1.0, 1.0, 1.0]), normal([90.0, 90.2, 90.1], [1.0, 1.0, 1.0]))
    assert first_ms.tolist() == pytest.approx([np.nan, 1.0, np.nan], nan_ok=True)
