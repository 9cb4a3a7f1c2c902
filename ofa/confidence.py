"""How sure an accuracy is."""

from __future__ import annotations

from statistics import NormalDist


def wilson_interval(num_right: int, num_images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share, by Wilson's score; it holds for few images and near 100 % too.

    Returns:
        Lower and upper bound, in percent.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = num_right / num_images, z**2 / num_images
    middle = (share + weight / 2) / (1 + weight)
    reach = (weight * share * (1 - share) + weight**2 / 4) ** 0.5 / (1 + weight)
    return 100 * max(middle - reach, 0.0), 100 * min(middle + reach, 1.0)


def is_hopeless(num_right: int, num_images: int, floor_percent: float) -> bool:
    """Whether an accuracy that these images tell is surely (99.9 %, one-sided) below a floor."""
    return wilson_interval(num_right, num_images, confidence=0.998)[1] < floor_percent
