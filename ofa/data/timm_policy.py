"""timm's augmentation policies as they were published with its recipes: one picture at a time, by timm itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from ofa.data.config import TIMM, DataError

Color = tuple[int, ...]
Transform = Callable[[Image.Image], Image.Image]

TRANSLATED = 0.45  # of the shorter side at most, as in timm's ``create_transform``


@dataclass(frozen=True)
class TimmPolicy:
    """What timm's ``create_transform`` makes of ``auto_augment``, between its crop and its normalisation.

    Args:
        text: ``rand-m9-mstd0.5-inc1`` and the like: in timm's own words.
        fill: Red, green and blue where a picture was that was turned or moved.

    Raises:
        DataError: If timm knows no such policy.
    """

    text: str
    fill: Color = (128, 128, 128)

    def __post_init__(self) -> None:
        _transform(self.text, 224, self.fill)

    def changed(self, pixels: Tensor, seeds: npt.NDArray[np.int64]) -> Tensor:
        """A batch, changed in memory of the host and given back where it was."""
        own = pixels.cpu().clone()
        self.change(own.numpy(), seeds)
        return own.to(pixels.device)

    def change(self, pixels: npt.NDArray[np.uint8], seeds: npt.NDArray[np.int64]) -> None:
        """Change images in place, uint8 ``(n, C, H, W)``, grey or RGB; ``seeds`` ``(n,)`` decide how."""
        transform = _transform(self.text, min(pixels.shape[2:]), self.fill)
        for image, seed in zip(pixels, seeds.tolist(), strict=True):
            rgb = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)  # timm's operations are for colours
            with seeded(seed):
                found = transform(Image.fromarray(np.ascontiguousarray(rgb)))
            found = found.convert("L" if len(image) == 1 else "RGB")
            image[:] = np.asarray(found).reshape(*image.shape[1:], -1).transpose(2, 0, 1)


@cache
def _transform(text: str, size: int, fill: Color) -> Transform:
    """timm's transform for images whose shorter side has so many pixels."""
    from timm.data import auto_augment as timm  # timm takes seconds to import

    kind = text.partition("-")[0]
    makers = {"rand": timm.rand_augment_transform, "augmix": timm.augment_and_mix_transform}
    settings = {"translate_const": int(TRANSLATED * size), "img_mean": fill}
    settings |= {"translate_pct": 0.3} if kind == "augmix" else {}
    try:
        made: Transform = makers.get(kind, timm.auto_augment_transform)(text, settings)
    except (AssertionError, KeyError, ValueError) as error:
        raise DataError(
            f"timm takes no auto_augment {text!r} ({error}); give one such as {TIMM}rand-m9-mstd0.5-inc1, {TIMM}v0 or "
            f"{TIMM}augmix-m5-w4-d2"
        ) from None
    for operation in _operations(made):
        if operation.aug_fn is timm.posterize:
            operation.aug_fn = _posterize
    return made


def _operations(made: Any) -> Iterator[Any]:
    """timm's operations that a transform draws from."""
    yield from getattr(made, "ops", ())
    for pair in getattr(made, "policy", ()):
        yield from pair


def _posterize(picture: Image.Image, bits: int, **_: Any) -> Image.Image:
    """With no bits left a black picture, as when these policies were made: Pillow now refuses that."""
    mask = 0xFF & ~(0xFF >> bits)
    return picture.point([value & mask for value in range(256)] * len(picture.getbands()))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's and numpy's global generators, seeded inside the block and put back after it."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
