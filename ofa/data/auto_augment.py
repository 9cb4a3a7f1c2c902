"""RandAugment and TrivialAugment on batches: images that drew the same operation are changed together.

Shapes: ``n`` images, ``C`` channels (1 for grey, else 3), ``S`` pixels a side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from ofa.data.config import DataConfig
from ofa.data.draws import Draws

NUM_MAGNITUDES = 31


def _shear(pixels: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return functional.affine(pixels, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])


def _translate(pixels: Tensor, x: float, y: float) -> Tensor:
    return functional.affine(pixels, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])


# Change uint8 (n, C, H, W) by a magnitude, with a random sign.
SIGNED: dict[str, Callable[[Tensor, float], Tensor]] = {
    "shear_x": lambda pixels, magnitude: _shear(pixels, magnitude, 0.0),
    "shear_y": lambda pixels, magnitude: _shear(pixels, 0.0, magnitude),
    "translate_x": lambda pixels, magnitude: _translate(pixels, magnitude, 0.0),
    "translate_y": lambda pixels, magnitude: _translate(pixels, 0.0, magnitude),
    "rotate": lambda pixels, magnitude: functional.rotate(pixels, magnitude),
    "brightness": lambda pixels, magnitude: functional.adjust_brightness(pixels, 1 + magnitude),
    "color": lambda pixels, magnitude: functional.adjust_saturation(pixels, 1 + magnitude),  # keeps grey images
    "contrast": lambda pixels, magnitude: functional.adjust_contrast(pixels, 1 + magnitude),
    "sharpness": lambda pixels, magnitude: functional.adjust_sharpness(pixels, 1 + magnitude),
}
UNSIGNED: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda pixels, magnitude: pixels,
    "posterize": lambda pixels, magnitude: functional.posterize(pixels, int(magnitude)),
    "solarize": lambda pixels, magnitude: functional.solarize(pixels, magnitude),
    "auto_contrast": lambda pixels, magnitude: functional.autocontrast(pixels),
    "equalize": lambda pixels, magnitude: functional.equalize(pixels),
}
OPERATIONS = {**SIGNED, **UNSIGNED}


@cache
def magnitudes(policy: str, size: int) -> dict[str, list[float]]:
    """Operation -> what magnitudes 0 to 30 mean for it, in images of ``size`` pixels height, as in torchvision."""
    wide = policy == "trivial_augment"
    share = 0.99 if wide else 0.9
    strongest = {
        "shear_x": 0.99 if wide else 0.3,
        "shear_y": 0.99 if wide else 0.3,
        "translate_x": 32.0 if wide else 150 / 331 * size,
        "translate_y": 32.0 if wide else 150 / 331 * size,
        "rotate": 135.0 if wide else 30.0,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), share),
    }
    meant = {name: torch.linspace(0, value, NUM_MAGNITUDES).tolist() for name, value in strongest.items()}
    bits = (8 - torch.arange(NUM_MAGNITUDES) / ((NUM_MAGNITUDES - 1) / (6 if wide else 4))).round().tolist()
    thresholds = [255 * value for value in torch.linspace(1, 0, NUM_MAGNITUDES).tolist()]
    return {**dict.fromkeys(OPERATIONS, [0.0] * NUM_MAGNITUDES), **meant, "posterize": bits, "solarize": thresholds}


def auto_augment(pixels: Tensor, config: DataConfig, draws: Draws) -> Tensor:
    """Change each image of a uint8 batch ``(n, C, H, W)`` by operations that it draws, at random signs.

    Operations, magnitudes and nearest neighbours with black beside the image are those of torchvision's ``RandAugment``
    and ``TrivialAugmentWide``. ``color`` leaves grey images as they are.

    References:
        Cubuk et al., RandAugment, arXiv:1909.13719, sec. 3.
        Müller and Hutter, TrivialAugment, arXiv:2103.10158, sec. 3: one operation per image. There each image draws a
        magnitude of its own; here one is drawn per batch and operation, so that images can be changed together.
    """
    trivial = config.auto_augment == "trivial_augment"
    meant = magnitudes(config.auto_augment, pixels.shape[2])
    for _ in range(1 if trivial else config.auto_augment_num_ops):
        strengths = np.full(len(OPERATIONS), config.auto_augment_magnitude)
        if trivial:
            strengths = draws.rng.integers(NUM_MAGNITUDES, size=len(OPERATIONS))
        operations = draws.integers(0, len(OPERATIONS) - 1)
        negative = (draws.uniform() < 0.5) & (operations < len(SIGNED))
        groups = 2 * operations + negative
        order = torch.from_numpy(np.argsort(groups, kind="stable")).to(pixels.device, non_blocking=True)
        found, counts = np.unique(groups, return_counts=True)
        changed = []
        for group, part in zip(found.tolist(), pixels[order].split(counts.tolist()), strict=True):
            name = list(OPERATIONS)[group // 2]
            magnitude = meant[name][strengths[group // 2]]
            changed.append(OPERATIONS[name](part, -magnitude if group % 2 else magnitude))
        pixels = torch.empty_like(pixels).index_copy_(0, order, torch.cat(changed))
    return pixels
