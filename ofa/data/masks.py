"""Masks: pictures whose pixels are indices of classes, and come to a size as the pictures that they belong to do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ofa.data.config import DataError
from ofa.data.picture import to_pixels
from ofa.data.readers.source import EncodedImages
from ofa.errors import shown

VOID = 255
"""Stands in stored masks for what belongs to no class."""
IGNORED = -100
"""Stands for it in targets: what torch's losses ignore."""
INDEX_MODES = ("1", "L", "P", "I", "I;16")

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class EncodedMasks(EncodedImages):
    """Masks from files, or from their bytes, each with its name.

    Args:
        void: Indices in the files that belong to no class.
        num_classes: Indices from it on are refused; 0 takes all.
    """

    void: tuple[int, ...] = (VOID,)
    num_classes: int = 0

    def mask(self, index: int) -> Mask:
        """Indices of classes and ``VOID``, uint8 ``(H, W)``, in the file's own size.

        Raises:
            DataError: If the file cannot be read, or holds something else.
        """
        found = indices_of(self[index], self.name(index))
        values = np.flatnonzero(np.bincount(found.ravel(), minlength=256))
        strangers = [value for value in values.tolist() if value not in self.void and value != VOID]
        if self.num_classes and strangers and max(strangers) >= self.num_classes:
            raise DataError(
                f"{self.name(index)} has index {max(strangers)}, but the {self.num_classes} classes are counted "
                f"from 0; name it in task.void if it belongs to none, or give all names in task.names"
            )
        return with_void(found, self.void)

    @cached_property
    def highest(self) -> int:
        """The highest index of all masks that is not void; reads them all."""
        highest = -1
        for index in range(len(self)):
            counts = np.bincount(self.mask(index).ravel(), minlength=256)[:VOID]
            highest = max(highest, int(np.flatnonzero(counts).max(initial=-1)))
        return highest


def indices_of(picture: Any, name: str) -> Mask:
    """What a mask's file holds, of a Pillow image; :class:`DataError` if that is no index for each pixel."""
    if picture.mode not in INDEX_MODES:
        raise DataError(
            f"{name} has pixels of mode {picture.mode}, not an index of a class each; write masks as grey or palette "
            "PNG"
        )
    values = np.asarray(picture)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= VOID:
        raise DataError(f"{name} has indices of {values.min()} to {values.max()}; they must be from 0 to {VOID}")
    return np.ascontiguousarray(values, dtype=np.uint8)


def with_void(mask: Mask, void: Collection[int]) -> Mask:
    """The same with ``VOID`` for each of some indices."""
    return np.where(np.isin(mask, list(void)), np.uint8(VOID), mask)


def framed(mask: Mask, size: tuple[int, int], *, fit: str, crop_pct: float) -> Mask:
    """Brought to height and width as its picture is, each pixel the nearest; what a letterbox adds is void."""
    from PIL import Image

    look = {"color": "L", "fit": fit, "crop_pct": crop_pct, "ground": (VOID,) * 3, "interpolation": "nearest"}
    return to_pixels(Image.fromarray(mask), [size], **look)[..., 0]  # type: ignore[arg-type]


def targets_of(masks: Tensor) -> Tensor:
    """Stored masks ``(N, H, W)`` as what losses and judges take: int64, with ``IGNORED`` where it is void."""
    targets = masks.long()
    return targets.masked_fill_(targets == VOID, IGNORED)


def check_size(mask: Mask, picture: Any, name: str) -> None:
    """:class:`DataError` unless a mask has its picture's height and width."""
    height, width = mask.shape
    if picture.size != (width, height):
        raise DataError(
            f"{shown(name)} has {width} x {height} pixels, its picture {picture.size[0]} x {picture.size[1]}; they "
            "must be of one size"
        )
