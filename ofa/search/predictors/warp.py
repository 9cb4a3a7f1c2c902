"""A scale on which values are spread like a bell: few very bad ones no longer hide what the good ones differ by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NUM_FOR_SLOPE = 3  # steps at either end, by which the scale goes on beyond it


class Warp:
    """Normal scores: by its rank among the values, each becomes a quantile of the normal distribution.

    Between the values the scale is linear, and beyond them it goes on as steep as over the last few: what is predicted
    to be better than anything known is better by about what the best differ by.

    Args:
        values: Shape ``(N,)``; equal ones share their mean rank.

    References:
        Salinas et al., arXiv:1909.13595 (a Gaussian copula before the process).
    """

    def __init__(self, values: Floats) -> None:
        from scipy.special import ndtri

        self._values, counts = np.unique(values, return_counts=True)
        self._scores = ndtri((np.cumsum(counts) - 0.5 * counts) / len(values))

    def __call__(self, values: Floats) -> Floats:
        """On the scale, any shape."""
        return _along(values, self._values, self._scores)

    def inverse(self, scores: Floats) -> Floats:
        """The values, any shape."""
        return _along(scores, self._scores, self._values)


def _along(positions: Floats, known: Floats, others: Floats) -> Floats:
    """Piecewise linear from ``known``, which ascends, to ``others``, and on beyond both ends."""
    steps = min(NUM_FOR_SLOPE, len(known) - 1)
    if not steps:
        return np.full(np.shape(positions), others[0])
    first = (others[steps] - others[0]) / (known[steps] - known[0])
    last = (others[-1] - others[-1 - steps]) / (known[-1] - known[-1 - steps])
    below, above = np.minimum(positions - known[0], 0), np.maximum(positions - known[-1], 0)
    return np.asarray(np.interp(positions, known, others) + first * below + last * above)
