"""From a picture to pixels of the network's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

INTERPOLATION = Image.Resampling.BICUBIC


def to_pixels(image: Image.Image, sizes: Sequence[int], *, grey: bool) -> npt.NDArray[np.uint8]:
    """Crop the central square and resize it to each of ``sizes`` in turn; ``(1 or 3, size, size)``, uint8."""
    image = image.convert("L" if grey else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    for size in sizes:
        image = image.resize((size, size), INTERPOLATION)
    pixels = np.asarray(image)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
