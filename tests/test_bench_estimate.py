"""The benchmark of estimates: its list of models, its baseline and its figures."""

from __future__ import annotations

import bench_estimate
import numpy as np
import pandas as pd
import pytest
import timm

from ofa.estimate.networks import NETWORKS
from tests.estimate.test_operators import table_of


def family(name: str) -> str:
    return str(timm.models._registry._model_to_module[name])


def test_models_are_of_families_that_were_not_measured() -> None:
    assert len(set(bench_estimate.MODELS)) == 60
    assert not {family(name) for name in bench_estimate.MODELS} & {family(name) for name in NETWORKS}


def test_the_line_through_macs_is_fitted_on_whole_networks() -> None:
    table = table_of(10)
    whole = [each for each in table.networks.values() if each.is_whole]
    macs = np.array([sum(kernel.macs * count for kernel, count in each.kernels.items()) for each in whole])
    measured_ms = np.array([each.latency_ms for each in whole])
    line = bench_estimate.line_through_macs(table, macs)
    assert np.mean((line / measured_ms - 1) ** 2) < np.mean((macs * (measured_ms / macs).mean() / measured_ms - 1) ** 2)


def test_figures_are_those_of_the_rows() -> None:
    rows = pd.DataFrame(
        {
            "measured_ms": [10.0, 20.0, 40.0, 80.0],
            "estimated_ms": [10.4, 20.8, 36.4, 120.0],
            "low_ms": [9.0, 19.0, 34.0, 100.0],
            "high_ms": [12.0, 23.0, 39.0, 140.0],
            "macs": [1e6, 2e6, 4e6, 8e6],
        }
    )
    ours, macs_only = bench_estimate.summary(rows, table_of(10)).splitlines()[2:]
    # Errors of 4, 4, 9 and 50 %; two in their intervals.
    assert ours == "| `ofa estimate` | 6.5 % | 50 % | 75 % | 50 % | 1.000 |"
    assert macs_only.startswith("| MACs only |") and macs_only.endswith("| 1.000 |")


@pytest.mark.parametrize("number", [0.0, 7.04])
def test_rows_say_the_error_with_its_sign(number: float) -> None:
    row = {"model": "a", "measured_ms": 1.0, "estimated_ms": 1 + number / 100, "low_ms": 0.5, "high_ms": 2.0}
    cells = bench_estimate.cells_of({**row, "macs": 3e6, "unseen_percent": 0.0})
    assert cells == ["a", "1.00", f"{1 + number / 100:.2f}", "0.50 to 2.00", f"{number:+.1f}", "3", "0.0"]
