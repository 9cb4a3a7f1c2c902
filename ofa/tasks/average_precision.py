"""How well objects are found, over a whole set of pictures, as COCO judges it.

Shapes: T thresholds, n objects found, R ways to weigh the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ofa.data.boxes import NONE
from ofa.tasks.predict_boxes import Objects, overlaps

Floats = npt.NDArray[np.float64]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


class Matched(NamedTuple):
    """What was found in a picture, and what was there.

    Args:
        classes, scores: Of the objects that were found, ``(n,)``.
        is_right: At each threshold, ``(T, n)``.
        num_there: Objects of each class that are there, ``(K,)``.
    """

    classes: npt.NDArray[np.int64]
    scores: Floats
    is_right: npt.NDArray[np.bool_]
    num_there: npt.NDArray[np.int64]


def matched(found: Objects, there: npt.NDArray[np.float32], num_classes: int) -> Matched:
    """Give each found object, the surest first, the object of its class that it overlaps most and nobody has yet.

    Args:
        there: ``(M, 5)``, see :mod:`ofa.data.boxes`.
    """
    there = there[there[:, 0] != NONE]
    shared = overlaps(found.boxes, there[:, 1:].astype(np.float64))
    shared[found.classes[:, None] != there[None, :, 0]] = 0
    is_right = np.zeros((len(THRESHOLDS), len(found.scores)), dtype=bool)
    for row, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(there), dtype=bool)
        for index in np.flatnonzero((shared >= threshold).any(axis=1)) if len(there) else ():
            best = int(np.argmax(np.where(free, shared[index], -1)))
            if free[best] and shared[index, best] >= threshold:
                is_right[row, index], free[best] = True, False
    num_there = np.bincount(there[:, 0].astype(np.int64), minlength=num_classes)
    return Matched(found.classes.astype(np.int64), found.scores, is_right, num_there)


def average_precisions(pictures: Sequence[Matched], weights: npt.NDArray[np.int64]) -> Floats:
    """Average precision of each class at each threshold, ``(R, K, T)``; not-a-number where nothing of it is there.

    Args:
        weights: How often each picture counts, ``(R, N)``.

    References:
        Lin et al., Microsoft COCO, arXiv:1405.0312, and its evaluation: 101 recalls, precision made monotone.
    """
    counts = np.stack([each.num_there for each in pictures])  # (N, K)
    classes, scores = (np.concatenate([each[index] for each in pictures]) for index in (0, 1))
    is_right = np.concatenate([each.is_right for each in pictures], axis=1)
    picture_of = np.repeat(np.arange(len(pictures)), [len(each.scores) for each in pictures])
    result = np.full((len(weights), counts.shape[1], len(THRESHOLDS)), np.nan)
    for kind in range(counts.shape[1]):
        own = np.flatnonzero(classes == kind)
        own = own[np.argsort(-scores[own], kind="stable")]
        right, of_picture = is_right[:, own], picture_of[own]
        for row, weight in enumerate(weights):
            if (num := int(weight @ counts[:, kind])) > 0:
                result[row, kind] = _area(right, weight[of_picture], num)
    return result


def _area(right: npt.NDArray[np.bool_], weight: npt.NDArray[np.int64], num_there: int) -> Floats:
    """Mean precision over the recalls, ``(T,)``, of what was found ``(T, n)``, the surest first."""
    found = np.cumsum(right * weight, axis=1)
    precision = found / np.maximum(np.cumsum(weight), 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    at = [np.searchsorted(row / num_there, RECALLS) for row in found]
    padded = np.pad(precision, ((0, 0), (0, 1)))
    return np.array([row[index].mean() for row, index in zip(padded, at, strict=True)])
