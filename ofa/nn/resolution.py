"""Elastic input resolution."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def resize_images(images: Tensor, resolution: int) -> Tensor:
    """Resize ``(N, C, H, W)`` images to ``(N, C, resolution, resolution)``; untouched if they have that size.

    Bicubic with antialiasing, as Pillow resizes for evaluation and deployment, here on normalised floats.
    """
    if images.shape[-2:] == (resolution, resolution):
        return images
    return functional.interpolate(images, size=(resolution, resolution), mode="bicubic", antialias=True)
