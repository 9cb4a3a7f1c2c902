"""How sure an accuracy is."""

from __future__ import annotations


def wilson_interval(num_right: int, num_images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share, by Wilson's score; it holds for few images and near 100 % too.

    Returns:
        Lower and upper bound, in percent.
    """
    from scipy.stats import binomtest

    interval = binomtest(num_right, num_images).proportion_ci(confidence, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def is_hopeless(num_right: int, num_images: int, floor_percent: float) -> bool:
    """Whether an accuracy that these images tell is surely (99.9 %, one-sided) below a floor."""
    return wilson_interval(num_right, num_images, confidence=0.998)[1] < floor_percent
