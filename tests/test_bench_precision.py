"""How a loss of accuracy is told from chance."""

from __future__ import annotations

from types import SimpleNamespace

import bench_precision
import numpy as np
import pandas as pd
import pytest


def row(*right: bool) -> SimpleNamespace:
    return SimpleNamespace(right=np.packbits(right).tobytes().hex(), num_pictures=len(right))


def test_a_loss_is_paired_by_picture() -> None:
    """By hand: one of two subnets loses one of four pictures, so the means are 0, 1/2, 0, 0."""
    fp32 = [row(True, True, True, False), row(True, False, False, True)]
    int8 = [row(True, False, True, False), row(True, False, False, True)]
    assert bench_precision.lost(fp32, int8) == pytest.approx((12.5, 12.5))
    assert bench_precision.lost(fp32, fp32) == (0, 0)


def test_only_subnets_in_both_precisions_are_compared() -> None:
    rows = [(0, "fp32"), (1, "fp32"), (1, "int8"), (2, "int8")]
    table = pd.DataFrame([{"runtime": "litert", "subnet": number, "precision": each} for number, each in rows])
    pairs = bench_precision.pairs_of(table, "litert")
    assert [(before.precision, after.precision, before.subnet) for before, after in pairs] == [("fp32", "int8", 1)]
    assert not bench_precision.pairs_of(table, "openvino")
