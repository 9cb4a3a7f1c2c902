"""Random crops out of pictures as they are, before they are shrunk: what worker processes do for training."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ofa.data.augmentation import CROP_ASPECTS, boxes_of
from ofa.data.config import DataError
from ofa.data.draws import Floats
from ofa.data.picture import FORMATS, to_pixels, upright
from ofa.data.readers.source import DECODING_ERRORS, FileImages, Images, orientation

Window = tuple[int, int, int, int]
"""Left, top, width and height, in pixels."""

ON_TENSORS = ("bilinear", "bicubic")
"""Filters that torchvision has for tensors of bytes."""


def cropped(
    images: Images, index: int, numbers: Floats, *, size: tuple[int, int], look: Mapping[str, Any], least: float
) -> npt.NDArray[np.uint8]:
    """A random part of a picture, brought to a size; uint8 ``(C, *size)``.

    JPEG files are decoded and resized by torchvision, a third faster than by Pillow; but those of which a part is
    shrunk to half or less by Pillow, which then decodes less of them. What a picture comes to is nearly the same.

    Args:
        numbers: Four from 0 to below 1, which decide the part.
        look: Keywords of :func:`~ofa.data.picture.to_pixels`; the whole picture is seen, whatever they say of it.
        least: Share of the picture's area that the part has at least.

    Raises:
        DataError: If the picture cannot be read.

    References:
        Szegedy et al., Going deeper with convolutions, arXiv:1409.4842, sec. 6.
    """
    if isinstance(images, FileImages):
        with contextlib.suppress(*DECODING_ERRORS, RuntimeError):  # what is broken is told below
            found = _of_jpeg(images.read(index), numbers, size, look, least)
            if found is not None:
                return found
    picture = upright(images[index])
    left, top, width, height = window_in(picture.size, numbers, size, least)
    part = picture.crop((left, top, left + width, top + height))
    try:
        return to_pixels(part, [size], **{**look, "fit": "squash", "crop_pct": 1.0}).transpose(2, 0, 1)
    except DECODING_ERRORS as error:
        raise DataError(f"{images.name(index)} cannot be used: {error}") from error


def window_in(picture: tuple[int, int], numbers: Floats, size: tuple[int, int], least: float) -> Window:
    """Which part of a picture of some width and height, for an input of some height and width.

    It has the input's proportions, by a factor of 3/4 to 4/3.
    """
    width, height = picture
    skewed = (height / width) * (size[1] / size[0])
    aspects = (CROP_ASPECTS[0] * skewed, CROP_ASPECTS[1] * skewed)
    top, left, rows, columns = (side[0] for side in boxes_of(numbers[None], areas=(least, 1.0), aspects=aspects))
    columns, rows = max(1, round(columns * width)), max(1, round(rows * height))
    return min(round(left * width), width - columns), min(round(top * height), height - rows), columns, rows


def _of_jpeg(
    data: bytes, numbers: Floats, size: tuple[int, int], look: Mapping[str, Any], least: float
) -> npt.NDArray[np.uint8] | None:
    """``None`` if it is another kind of picture, or one that wants more than to be decoded."""
    color, interpolation = look["color"], look["interpolation"]
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        plain = image.format == "JPEG" and image.mode in ("L", "RGB") and color in ("L", "RGB")
        if not plain or orientation(image) != 1:
            return None
        width, height = image.size
        window = window_in(image.size, numbers, size, least)
        shrinks = min(window[2] // size[1], window[3] // size[0])
        if shrinks >= 2:  # JPEG decodes to half, quarter or eighth the size in less time
            image.draft(image.mode, (width // shrinks, height // shrinks))
            across, down = image.size[0] / width, image.size[1] / height
            left, top, columns, rows = window
            box = (left * across, top * down, (left + columns) * across, (top + rows) * down)
            part = image.convert(color).resize((size[1], size[0]), Image.Resampling[interpolation.upper()], box=box)
            return np.asarray(part).reshape(*size, -1).transpose(2, 0, 1)
    if interpolation not in ON_TENSORS:
        return None
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import InterpolationMode, functional

    mode = ImageReadMode.RGB if color == "RGB" else ImageReadMode.GRAY
    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=mode)
    left, top, columns, rows = window
    found = functional.resized_crop(
        pixels, top, left, rows, columns, list(size), interpolation=InterpolationMode(interpolation), antialias=True
    )
    return found.numpy()
