"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, no files and no network needed."""

from __future__ import annotations

import numpy as np

from ofa.data.config import DataConfig
from ofa.data.readers.source import ArrayImages, Source


def read_digits(config: DataConfig) -> Source:
    """Read the embedded data set; its pixels go from 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    classes = tuple(str(name) for name in digits.target_names)
    return Source(classes, digits.target.astype(np.int64), ArrayImages(pixels), grey=True)
