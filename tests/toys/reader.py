"""Stripes, lying or standing: 240 made-up pictures."""

from __future__ import annotations

import numpy as np

from ofa.data.config import DataConfig
from ofa.data.readers.source import ArrayImages, Source


def read_stripes(config: DataConfig) -> Source:
    """Pictures of 16 x 16 pixels; every other one stands."""
    rng = np.random.default_rng(0)
    lying = np.tile(np.repeat([0, 255], 2), 4)[:, None] * np.ones(16, dtype=np.int64)
    pictures = np.stack([lying, lying.T] * 120) + rng.integers(-40, 40, (240, 16, 16))
    labels = np.tile([0, 1], 120)
    return Source(("lying", "standing"), labels, ArrayImages(pictures.clip(0, 255).astype(np.uint8)), grey=True)
