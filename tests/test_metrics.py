"""What metrics are called, which way is up, and how sure values are."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from ofa.errors import UsageError
from ofa.metrics import METRICS, TOP1, Metric, Score, metric_of, name_in_file, wilson_interval

ERROR_RATE = Metric(
    quantity="error_rate", unit="percent", title="error rate", symbol="%", higher_is_better=False, perfect=0.0
)
PSNR = Metric(quantity="psnr", unit="db", title="PSNR", symbol="dB", perfect=0.0, interval_by="bootstrap")
RANK = Metric(
    quantity="kendall_tau", unit="", title="rank correlation", symbol="", perfect=1.0, interval_by="bootstrap"
)


def test_names_of_classification_are_those_of_old_files() -> None:
    assert TOP1.name == "top1_percent"
    assert TOP1.of("measured") == "measured_top1_percent"
    assert TOP1.interval_key == "top1_interval_percent"
    assert TOP1.error_name == "top1_error_percent"
    assert TOP1.columns == ("top1_percent", "num_images")


def test_names_of_others_follow() -> None:
    assert (PSNR.name, PSNR.interval_key) == ("psnr_db", "psnr_interval_db")
    assert (RANK.name, RANK.interval_key) == ("kendall_tau", "kendall_tau_interval")
    assert PSNR.columns == ("psnr_db", "num_images", "low", "high")


@pytest.mark.parametrize("metric", [*METRICS.values(), ERROR_RATE, PSNR, RANK], ids=lambda metric: metric.name)
def test_errors_fall_as_values_get_better_and_lead_back(metric: Metric) -> None:
    worse, better = np.array([10.0, 90.0])[:: metric.sign]
    assert metric.error(better) < metric.error(worse)
    assert metric.value(metric.error(worse)) == pytest.approx(worse)
    assert metric.error(metric.perfect) == 0
    assert metric.sign * better > metric.sign * worse
    assert metric.sign * worse >= metric.sign * metric.worst or metric.interval_by != "share"


@pytest.mark.parametrize(
    ("num_right", "num_images", "low", "high"),
    # From R's prop.test(x, n, correct = FALSE).
    [(0, 10, 0.0, 0.2775328), (8, 10, 0.4901625, 0.9433178), (10, 10, 0.7224672, 1.0)],
)
def test_wilson_interval(num_right: int, num_images: int, low: float, high: float) -> None:
    assert wilson_interval(num_right, num_images) == pytest.approx((100 * low, 100 * high), abs=1e-4)


def test_hopeless_is_what_cannot_be_reached_any_more() -> None:
    assert not TOP1.is_hopeless(85.0, 100, 90.0)  # 85 of 100 may still be 90 %
    assert TOP1.is_hopeless(80.0, 1000, 90.0)
    assert not TOP1.is_hopeless(0.0, 1, TOP1.worst) and not TOP1.is_hopeless(100.0, 1, 100.0)
    assert ERROR_RATE.is_hopeless(20.0, 1000, 10.0) and not ERROR_RATE.is_hopeless(15.0, 100, 10.0)
    assert not ERROR_RATE.is_hopeless(100.0, 1000, ERROR_RATE.worst)
    assert not PSNR.is_hopeless(1.0, 1000, 30.0)  # nothing is known before the end


def test_intervals_of_rows() -> None:
    assert TOP1.interval({"top1_percent": 80.0, "num_images": 10}) == wilson_interval(8, 10)
    assert PSNR.interval({"psnr_db": 30.0, "num_images": 10, "low": 29.0, "high": 31.0}) == (29.0, 31.0)
    score = Score(value=30.0, low=29.0, high=31.0, num_images=10)
    assert PSNR.row(score) == (30.0, 10, 29.0, 31.0) and TOP1.row(score) == (30.0, 10)
    assert PSNR.interval_text(score) == "30.00 dB (29.00 to 31.00)"
    assert RANK.text(0.5) == "0.5000" and RANK.number(0.31416) == "0.3142" and RANK.number(None) == "–"
    assert RANK.number(1224.09) == "1224" and RANK.number(123456.7) == "123457" and RANK.number(31.4159) == "31.42"


def test_a_file_names_its_metric_unless_it_is_top1() -> None:
    assert metric_of({}) is TOP1
    for metric in METRICS.values():
        assert metric_of(name_in_file(metric)) is metric
    assert name_in_file(TOP1) == {}
    with pytest.raises(UsageError, match="unknown metric 'top1_percnt'; did you mean 'top1_percent'"):
        metric_of({"metric": "top1_percnt"})


def test_a_file_says_in_full_what_is_not_ours() -> None:
    for metric in (ERROR_RATE, PSNR, RANK):
        assert metric_of(json.loads(json.dumps(name_in_file(metric)))) == metric
    for change, message in (
        ({"quantity": "a-b"}, "quantity and unit of a metric are small letters, digits and _, not 'a-b_db'"),
        ({"title": "x" * 200}, "a line of at most 100 characters"),
        ({"symbol": "\x1b[2J"}, "a line of at most 100 characters"),
        ({"perfect": "best"}, "perfect must be a finite number"),
        ({"shade": 1}, "unknown key 'shade'"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            metric_of({"metric": {**name_in_file(PSNR)["metric"], **change}})


def test_the_worst_is_below_everything() -> None:
    assert TOP1.worst == 0 and math.isinf(ERROR_RATE.worst)


def test_what_chance_does_to_a_value() -> None:
    """Binomial where the number of samples says it, or what the interval of 95 % stands for."""
    found = TOP1.variances(np.array([[80.0, 1000], [100.0, 98], [50.0, 100]]))
    assert found == pytest.approx([100**2 * 0.8 * 0.2 / 1000, 100**2 * 0.99 * 0.01 / 98, 25.0], rel=0.005)
    assert PSNR.variances(np.array([[30.0, 10, 29.0, 31.0]])) == pytest.approx([(1 / 1.959964) ** 2])
