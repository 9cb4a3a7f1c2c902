"""Images as an exported network takes them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ofa.data import DataConfig, ImageData, load_data
from ofa.data.picture import to_input
from ofa.supernet import create_supernet
from ofa.tasks.image_feed import FromPixels, ImageFeed


@pytest.fixture(scope="module", params=["grey", "colour"])
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    """Digits, or random pictures in colour, of a size that must be cropped and resized."""
    if request.param == "grey":
        return load_data(DataConfig(name="digits"), image_size=32)
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label in "ab":
        (root / label).mkdir()
        for index in range(24):
            pixels = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index:02}.png")
    return load_data(DataConfig(name="folder", root=str(root)), image_size=32)


@pytest.mark.parametrize("from_pixels", [False, True])
def test_a_bundles_preprocessing_gives_these_inputs(own: ImageData, from_pixels: bool) -> None:
    from dataclasses import asdict

    feed = ImageFeed(own, 20, from_pixels)
    spec = feed.preprocessing
    files, labels, _ = feed.samples(5)
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    images = feed.first("test", 5)
    assert images.shape == (5, *spec.input_size) and images.dtype == spec.dtype
    np.testing.assert_array_equal(np.stack([to_input(picture, asdict(spec)) for picture in pictures]), images)
    assert list(labels) == own.labels("test")[:5].tolist()
    assert sum(len(found) for _, found in feed.batches("search")) == len(own.splits.search)


def test_from_pixels_it_computes_the_same(own: ImageData) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10).eval()
    arch = supernet.space.smallest()
    resolution = int(arch["resolution"])
    subnet = supernet.extract(arch).eval()
    plain, pixels = ImageFeed(own, resolution, False), ImageFeed(own, resolution, True)
    with torch.inference_mode():
        logits = subnet(torch.from_numpy(plain.first("test", 4)))
        found = pixels.wrap(subnet)(torch.from_numpy(pixels.first("test", 4)))
    torch.testing.assert_close(found, logits.softmax(1), rtol=1e-4, atol=1e-6)


def test_normalisation_is_that_of_the_statistics() -> None:
    network = FromPixels(nn.Flatten(), mean=(0.5, 0.25), std=(0.5, 0.25))
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    expected = torch.tensor([[-1, -0.6, 1, -1, -0.2, 3]]).softmax(1)
    torch.testing.assert_close(network(pixels), expected)


def test_pixels_are_whole_numbers_of_the_picture(own: ImageData, tmp_path: Path) -> None:
    feed = ImageFeed(own, 32, True)
    files = feed.samples(3).files
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    grey = own.source.grey
    expected = [np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)) for picture in pictures]
    np.testing.assert_array_equal(feed.first("test", 3), np.stack(expected)[..., None] if grey else np.stack(expected))
