"""Images as an exported network takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ofa.data import DataConfig, load_data
from ofa.deploy.inputs import Inputs
from ofa.deploy.pixels import FromPixels, HalfPrecision
from ofa.deploy.predict import preprocess
from ofa.training import SubnetEvaluator


@pytest.fixture(scope="module", params=["grey", "colour"])
def own(
    request: pytest.FixtureRequest, evaluator: SubnetEvaluator, tmp_path_factory: pytest.TempPathFactory
) -> SubnetEvaluator:
    """Digits, or random pictures in colour, of a size that must be cropped and resized."""
    if request.param == "grey":
        return evaluator
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label in "ab":
        (root / label).mkdir()
        for index in range(24):
            pixels = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index:02}.png")
    return SubnetEvaluator(evaluator.supernet, load_data(DataConfig(name="folder", root=str(root)), image_size=32))


@pytest.mark.parametrize("from_pixels", [False, True])
def test_a_bundles_preprocessing_gives_these_inputs(own: SubnetEvaluator, from_pixels: bool) -> None:
    from dataclasses import asdict

    inputs = Inputs(own, 20, from_pixels)
    spec = inputs.preprocessing
    pictures, labels = inputs.samples(5)
    images = inputs.first("test", 5)
    assert images.shape == (5, *spec.input_size) and images.dtype == spec.dtype
    np.testing.assert_array_equal(np.stack([preprocess(picture, asdict(spec)) for picture in pictures]), images)
    assert list(labels) == own.data.labels("test")[:5].tolist()
    assert sum(len(found) for _, found in inputs.batches("search")) == len(own.data.splits.search)


def test_from_pixels_it_computes_the_same(own: SubnetEvaluator) -> None:
    arch = own.supernet.space.smallest()
    resolution = int(arch["resolution"])
    subnet = own.supernet.extract(arch).eval()
    plain, pixels = Inputs(own, resolution, False), Inputs(own, resolution, True)
    with torch.inference_mode():
        logits = subnet(torch.from_numpy(plain.first("test", 4)))
        found = pixels.wrap(subnet, "fp32")(torch.from_numpy(pixels.first("test", 4)))
    torch.testing.assert_close(found, logits.softmax(1), rtol=1e-4, atol=1e-6)


def test_half_precision_leaves_the_module_as_it_is() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)).eval()
    images = torch.linspace(0, 1, 96).reshape(2, 3, 4, 4).repeat(1, 1, 2, 2)[:, :, :6, :6]
    half = HalfPrecision(module)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    found = half(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, module(images), rtol=1e-2, atol=1e-2)
    assert not torch.equal(found, module(images))


def test_normalisation_is_that_of_the_statistics() -> None:
    network = FromPixels(nn.Flatten(), mean=(0.5, 0.25), std=(0.5, 0.25))
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    expected = torch.tensor([[-1, -0.6, 1, -1, -0.2, 3]]).softmax(1)
    torch.testing.assert_close(network(pixels), expected)


def test_the_accuracy_that_int8_is_held_against_is_of_the_search_split(evaluator: SubnetEvaluator) -> None:
    accuracy = Inputs(evaluator, 32, False).accuracy(0.5)
    labels = evaluator.data.labels("search").numpy()
    assert len(accuracy.images) == len(labels)
    assert accuracy.top1_percent(np.eye(10, dtype=np.float32)[labels]) == 100
    assert accuracy.top1_percent(np.eye(10, dtype=np.float32)[(labels + 1) % 10]) == 0


def test_pixels_are_whole_numbers_of_the_picture(own: SubnetEvaluator, tmp_path: Path) -> None:
    inputs = Inputs(own, 32, True)
    pictures, _ = inputs.samples(3)
    grey = own.data.source.grey
    expected = [np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)) for picture in pictures]
    np.testing.assert_array_equal(
        inputs.first("test", 3), np.stack(expected)[..., None] if grey else np.stack(expected)
    )
