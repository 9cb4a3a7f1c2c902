from __future__ import annotations

import pytest

from ofa.confidence import is_hopeless, wilson_interval


@pytest.mark.parametrize(
    ("num_right", "num_images", "low", "high"),
    # From R's prop.test(x, n, correct = FALSE).
    [(0, 10, 0.0, 0.2775328), (8, 10, 0.4901625, 0.9433178), (10, 10, 0.7224672, 1.0)],
)
def test_wilson_interval(num_right: int, num_images: int, low: float, high: float) -> None:
    assert wilson_interval(num_right, num_images) == pytest.approx((100 * low, 100 * high), abs=1e-4)


def test_hopeless_is_what_cannot_be_reached_any_more() -> None:
    assert not is_hopeless(85, 100, 90.0)  # 85 of 100 may still be 90 %
    assert is_hopeless(800, 1000, 90.0)
    assert not is_hopeless(0, 1, 0.0) and not is_hopeless(1, 1, 100.0)
