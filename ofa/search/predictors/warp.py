"""A scale on which values are spread like a bell: few very bad ones no longer hide what the good ones differ by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

POWERS = 1 + 0.3 * np.arange(-10, 11)  # 1 leaves values as they are; 0 and 2 would need formulas of their own
MIN_SAMPLES = 8  # of fewer, no shape is to be seen


class Warp:
    """Yeo and Johnson's power of the values, the most likely one of :data:`POWERS`; mean 0, standard deviation 1.

    Args:
        values: Shape ``(N,)``.

    References:
        Yeo and Johnson 2000, eq. 2.1 and sec. 3; before a Gaussian process as in HEBO (Cowen-Rivers et al.,
        arXiv:2012.03826). The inverse is cut where it goes beyond the values by more than their range.
    """

    def __init__(self, values: Floats) -> None:
        self._middle, self._unit = float(np.median(values)), float(values.std()) or 1.0
        self._power, self._mean, self._std = 1.0, 0.0, 1.0
        if len(values) >= MIN_SAMPLES:
            standardised = (values - self._middle) / self._unit
            self._power = float(max(POWERS, key=lambda power: _log_likelihood(standardised, power)))
        raised = self(values)
        self._mean, self._std = float(raised.mean()), float(raised.std()) or 1.0
        low, high = values.min(), values.max()
        self._limits = self(np.array([2 * low - high, 2 * high - low]))

    def __call__(self, values: Floats) -> Floats:
        """On the scale, any shape."""
        return np.asarray((_raised((values - self._middle) / self._unit, self._power) - self._mean) / self._std)

    def slope(self, values: Floats) -> Floats:
        """Of the scale by the values, any shape: by how much it stretches them."""
        standardised = (values - self._middle) / self._unit
        stretched = np.exp((self._power - 1) * np.sign(standardised) * np.log1p(np.abs(standardised)))
        return np.asarray(stretched / (self._unit * self._std))

    def inverse(self, warped: Floats) -> Floats:
        """The values, any shape."""
        raised = np.clip(warped, *self._limits) * self._std + self._mean
        up, down = self._power, 2 - self._power
        # Each of the two is of its own sign; of the other, logarithms might not exist.
        above = np.expm1(np.log1p(up * np.maximum(raised, 0)) / up)
        below = np.expm1(np.log1p(-down * np.minimum(raised, 0)) / down)
        return np.asarray((above - below) * self._unit + self._middle)


def _raised(values: Floats, power: float) -> Floats:
    up, down = power, 2 - power
    above = np.expm1(up * np.log1p(np.maximum(values, 0))) / up
    below = np.expm1(down * np.log1p(-np.minimum(values, 0))) / down
    return np.asarray(above - below)


def _log_likelihood(values: Floats, power: float) -> float:
    """Of values that are normal when they are raised, but for a constant."""
    variance = max(float(_raised(values, power).var()), 1e-300)
    return (power - 1) * float(np.sum(np.sign(values) * np.log1p(np.abs(values)))) - 0.5 * len(values) * np.log(
        variance
    )
