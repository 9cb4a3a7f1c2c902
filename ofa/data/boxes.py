"""Objects in pictures: a class and a box each, that move along with what is done to the picture.

Shapes: ``(..., M, 5)`` float32: index of a class, left, top, right and bottom as shares of the picture's sides; where
there are fewer objects the class is ``NONE`` and the rest 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NONE = -1
"""Stands in place of a class where there is no object."""
MIN_VISIBLE = 0.3
"""Share of a box that must be left where something is cut off; otherwise the object is gone."""

Objects = npt.NDArray[np.float32]


def padded(found: Sequence[npt.ArrayLike]) -> Objects:
    """Objects of some pictures, ``(n, 5)`` each, as one array ``(N, M, 5)``."""
    arrays = [np.asarray(each, dtype=np.float32).reshape(-1, 5) for each in found]
    result = np.zeros((len(arrays), max([1, *map(len, arrays)]), 5), dtype=np.float32)
    result[..., 0] = NONE
    for row, array in enumerate(arrays):
        result[row, : len(array)] = array
    return result


def windowed(objects: Tensor, left: Any, top: Any, width: Any, height: Any) -> Tensor:
    """Objects as shares of a window of their picture, which may be larger than it; what is outside is cut off.

    Args:
        left, top, width, height: Of the window, as shares of the picture's sides: numbers, or ``(N, 1)``.
    """
    classes, boxes = objects[..., 0], objects[..., 1:]
    sides = (torch.as_tensor(each, dtype=torch.float32, device=objects.device) for each in (left, top, width, height))
    x, y, across, down = (side.expand(classes.shape) for side in sides)
    moved = (boxes - torch.stack([x, y, x, y], -1)) / torch.stack([across, down, across, down], -1)
    kept = moved.clamp(0, 1)
    visible = _area(kept) > MIN_VISIBLE * _area(moved)
    return _where(visible, torch.cat([classes[..., None], kept], -1))


def shifted(objects: Tensor, right: Tensor, down: Tensor, is_mirrored: Tensor) -> Tensor:
    """Objects of pictures that were shifted, by shares of their sides ``(N, 1)``, and then mirrored or not."""
    moved = windowed(objects, -right, -down, 1.0, 1.0)
    kind, left, top, right, bottom = moved.unbind(-1)
    mirrored = torch.stack([kind, 1 - right, top, 1 - left, bottom], -1)
    return _where(moved[..., 0] != NONE, torch.where(is_mirrored[..., None], mirrored, moved))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def _where(is_there: Tensor, objects: Tensor) -> Tensor:
    nothing = objects.new_tensor([NONE, 0, 0, 0, 0])
    return torch.where(is_there[..., None], objects, nothing)
