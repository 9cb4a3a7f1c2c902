"""From a picture to the network's input, in words: what a bundle says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ofa.config import ConfigError
from ofa.data.config import Fit, Interpolation
from ofa.data.image_data import MODES, ImageData

MAX_IMAGE_SIZE = 4096


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a picture to the model's input; made by :func:`preprocessing`, followed by ``predict.py``.

    Args:
        resize: Heights and widths; bundles of format 2 have one number for both.
        fit, crop_pct, ground, white: See :class:`~ofa.data.DataConfig`; bundles of format 2 do not say them.

    Raises:
        ConfigError: If values contradict each other or no image of that size is processed here.
    """

    color: Literal["L", "LA", "RGB", "RGBA"]
    channels: int
    resize: tuple[int | tuple[int, ...], ...]
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, ...]
    layout: Literal["NCHW", "NHWC"]
    dtype: Literal["float32", "uint8"]
    steps: tuple[str, ...]
    fit: Fit = "crop"
    crop_pct: float = 1.0
    ground: tuple[int, ...] = (255, 255, 255)
    white: float | None = None

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Heights and widths of ``resize``."""
        return tuple((size, size) if isinstance(size, int) else size for size in self.resize)

    def __post_init__(self) -> None:
        sizes = self.sizes
        if not sizes or not all(len(size) == 2 and 1 <= min(size) <= max(size) <= MAX_IMAGE_SIZE for size in sizes):
            raise ConfigError(f"resize needs heights and widths of 1 to {MAX_IMAGE_SIZE} pixels, not {self.resize}")
        object.__setattr__(self, "resize", sizes)
        if (self.layout, self.dtype, self.input_size) not in (
            ("NCHW", "float32", (self.channels, *sizes[-1])),
            ("NHWC", "uint8", (*sizes[-1], len(self.color))),
        ):
            raise ConfigError(
                f"input_size is {list(self.input_size)} in {self.dtype} {self.layout}, which 'color', 'channels' and "
                "'resize' do not give"
            )
        fits = self.color == MODES.get(self.channels) or (self.color, self.channels) == ("L", 3)
        if not len(self.mean) == len(self.std) == self.channels or not fits:
            raise ConfigError(f"color, channels ({self.channels}), mean and std do not fit together")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or 0 in self.std:
            raise ConfigError("mean and std must be finite, std not 0")
        if not 0 < self.crop_pct <= 1 or len(self.ground) != 3 or not all(0 <= value <= 255 for value in self.ground):
            raise ConfigError("crop_pct must be above 0, up to 1, and ground three numbers from 0 to 255")
        if self.white is not None and not self.white > 0:
            raise ConfigError(f"white must be above 0, not {self.white}")


FITS = {
    "crop": "cut out the largest centred rectangle of the proportions of the first size",
    "squash": "take the whole image, whatever its proportions",
    "letterbox": "shrink or enlarge the image until it just fits into the first size, and fill the rest with 'ground'",
}


def preprocessing(data: ImageData, resolution: int, *, in_graph: bool = False) -> Preprocessing:
    """What ``bundle.json`` says about the input of a subnet at ``resolution``.

    Following ``steps`` with Pillow and numpy gives exactly what ``data.batches(..., image_size=resolution)`` yields.

    Args:
        in_graph: The network scales, normalises and arranges the pixels itself.

    Raises:
        DataError: If ``resolution`` is above the size that the data was loaded at.
    """
    look, sizes = data.look, tuple(data.resize_steps(resolution))
    stored = len(look["color"])
    framing = FITS[look["fit"]]
    if look["fit"] != "letterbox" and look["crop_pct"] < 1:
        framing += ", and of its sides the share 'crop_pct' around the centre"
    steps = [
        "turn the image upright as its EXIF orientation says",
        "if it has more than 8 bits a channel, divide by 'white' (65535 if none) and multiply by 255, rounded",
        f"lay it onto 'ground' where it is transparent, and convert it to the Pillow mode {look['color']}"
        if not look["color"].endswith("A")
        else f"convert it to the Pillow mode {look['color']}; treat alpha as any other channel",
        f"{framing}; but an image of the first size stays as it is",
        "resize it, in 8 bits, with Pillow's 'interpolation' to each size in 'resize' in turn",
    ]
    if in_graph:
        steps += ["arrange as 'layout'; the network does the rest"]
    else:
        steps += [
            "convert to 'dtype' and divide by 255; repeat a single channel to 'channels'",
            "subtract 'mean' and divide by 'std', per channel",
            "arrange as 'layout'",
        ]
    return Preprocessing(
        **look,
        channels=data.channels,
        resize=sizes,
        mean=data.mean,
        std=data.std,
        input_size=(*sizes[-1], stored) if in_graph else (data.channels, *sizes[-1]),
        layout="NHWC" if in_graph else "NCHW",
        dtype="uint8" if in_graph else "float32",
        steps=tuple(steps),
    )
