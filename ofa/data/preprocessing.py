"""From a picture to the network's input, in words: the one definition for training, evaluation and deployment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ofa.config import ConfigError
from ofa.data.image_data import ImageData
from ofa.data.resizing import INTERPOLATION

MAX_IMAGE_SIZE = 4096


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a picture to the model's input; made by :func:`preprocessing`, followed by ``predict.py``.

    Raises:
        ConfigError: If values contradict each other or no image of that size is processed here.
    """

    color: Literal["L", "RGB"]
    channels: int
    resize: tuple[int, ...]
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, ...]
    layout: Literal["NCHW", "NHWC"]
    dtype: Literal["float32", "uint8"]
    steps: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.resize or not all(1 <= size <= MAX_IMAGE_SIZE for size in self.resize):
            raise ConfigError(f"resize needs sizes of 1 to {MAX_IMAGE_SIZE} pixels, not {list(self.resize)}")
        size = (self.resize[-1],) * 2
        pixels = (*size, 1 if self.color == "L" else 3)
        if (self.layout, self.dtype, self.input_size) not in (
            ("NCHW", "float32", (self.channels, *size)),
            ("NHWC", "uint8", pixels),
        ):
            raise ConfigError(
                f"input_size is {list(self.input_size)} in {self.dtype} {self.layout}, which 'color', 'channels' and "
                "'resize' do not give"
            )
        if not len(self.mean) == len(self.std) == self.channels or (self.color == "RGB" and self.channels != 3):
            raise ConfigError(f"color, channels ({self.channels}), mean and std do not fit together")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or 0 in self.std:
            raise ConfigError("mean and std must be finite, std not 0")


def preprocessing(data: ImageData, resolution: int, *, in_graph: bool = False) -> Preprocessing:
    """What ``bundle.json`` says about the input of a subnet at ``resolution``.

    Following ``steps`` with Pillow and numpy gives exactly what ``data.batches(..., image_size=resolution)`` yields.

    Args:
        in_graph: The network scales, normalises and arranges the pixels itself.

    Raises:
        DataError: If ``resolution`` is above the size that the data was loaded at.
    """
    grey = data.source.grey
    steps = [
        "convert the image to the Pillow mode in 'color'",
        "crop the central square: side = min(width, height), left = (width - side) // 2, top alike",
        "resize the 8-bit image with Pillow's 'interpolation' to each size in 'resize' in turn",
    ]
    if in_graph:
        steps += ["arrange as 'layout'; the network does the rest, and gives probabilities"]
    else:
        steps += [
            "convert to 'dtype' and divide by 255; repeat a single channel to 'channels'",
            "subtract 'mean' and divide by 'std', per channel",
            "arrange as 'layout'",
        ]
    return Preprocessing(
        color="L" if grey else "RGB",
        channels=data.channels,
        resize=tuple(data.resize_steps(resolution)),
        interpolation=INTERPOLATION.name.lower(),  # type: ignore[arg-type]
        mean=data.mean,
        std=data.std,
        input_size=(resolution, resolution, 1 if grey else 3) if in_graph else (data.channels, resolution, resolution),
        layout="NHWC" if in_graph else "NCHW",
        dtype="uint8" if in_graph else "float32",
        steps=tuple(steps),
    )
