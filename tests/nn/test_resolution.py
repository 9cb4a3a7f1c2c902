from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ofa.nn.resolution import resize_images


def test_same_size_is_the_same_tensor() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert resize_images(images, 16) is images


def test_resizes_as_pillow_does() -> None:
    image = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    expected = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC))
    resized = resize_images(torch.from_numpy(image)[None, None], 20)
    assert resized.shape == (1, 1, 20, 20)
    torch.testing.assert_close(resized[0, 0], torch.from_numpy(expected.copy()), atol=1e-5, rtol=0)
