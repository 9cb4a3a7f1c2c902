from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ofa.cost.held_out import held_out_errors, spearman


def test_errors_by_hand():
    errors = held_out_errors(
        np.array([1.1, 1.9, 4.0]),
        np.array([1.0, 2.0, 4.0]),
        baselines={"macs_only": np.array([10.0, 30.0, 10.0, 20.0, 40.0]), "depth_only": np.full(5, 7.0)},
        fit_ms=np.array([1.0, 3.0]),
    )
    assert errors["num"] == 3
    assert errors["mape_percent"] == pytest.approx(5.0)
    assert errors["bias_percent"] == pytest.approx(5 / 3)
    assert errors["worst_percent"] == pytest.approx(10.0)
    assert errors["within_5_percent"] == pytest.approx(200 / 3)  # ten percent too much, five too little, none
    assert errors["within_10_percent"] == pytest.approx(100)
    assert errors["spearman"] == pytest.approx(1.0)
    assert errors["macs_only_spearman"] == pytest.approx(1.0)
    assert errors["macs_only_mape_percent"] == pytest.approx(0.0)  # the line is macs / 10
    assert errors["depth_only_spearman"] is None
    assert errors["depth_only_mape_percent"] == pytest.approx(100 * (1 + 0 + 0.5) / 3)  # the mean, 2 ms
    assert errors["predicted_ms"] == [1.1, 1.9, 4.0]
    json.dumps(errors, allow_nan=False)


def test_without_subnets_to_fit_on_baselines_only_rank():
    errors = held_out_errors(np.ones(2), np.ones(2), baselines={"macs_only": np.ones(2)}, fit_ms=np.zeros(0))
    assert "macs_only_spearman" in errors
    assert "macs_only_mape_percent" not in errors


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_spearman_equals_scipy(pairs):
    first, second = np.array(pairs, dtype=float).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert spearman(first, second) is None
    else:
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
