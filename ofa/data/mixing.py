"""Mixup and CutMix: images and labels of a batch are mixed in pairs.

Shapes: ``n`` images, ``S`` pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from ofa.data.config import DataConfig


@contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Numpy's global generator, seeded inside the block and put back after it."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def mix(images: Tensor, labels: Tensor, num_classes: int, config: DataConfig, *, seed: int) -> tuple[Tensor, Tensor]:
    """Mix the first image with the last, the second with the last but one, ..., in place, all in one proportion.

    Args:
        images: Normalised, float32 ``(n, 3, S, S)``, ``n`` even.
        labels: int64 ``(n,)``.
        seed: Decides the proportion, the place of CutMix's box and, if both are on, which of the two it is.

    Returns:
        The images, and the share of each class in them, float32 ``(n, num_classes)``; rows sum to 1.

    References:
        Zhang et al., mixup, arXiv:1710.09412; Yun et al., CutMix, arXiv:1905.04899; timm's implementation, which draws
        one proportion for the batch. It can smooth labels too; that is left to the loss here.
    """
    from timm.data.mixup import Mixup  # timm takes seconds to import

    mixup = Mixup(config.mixup, config.cutmix, label_smoothing=0.0, num_classes=num_classes)
    with seeded_numpy(seed):
        mixed: tuple[Tensor, Tensor] = mixup(images, labels)
    return mixed
