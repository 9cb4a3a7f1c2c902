"""The policies do what torchvision's do, image by image, on grey and RGB."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from ofa.data import DataConfig
from ofa.data.augmentation import Draws
from ofa.data.auto_augment import NUM_MAGNITUDES, OPERATIONS, SIGNED, auto_augment, magnitudes

POLICIES: dict[str, Any] = {"rand_augment": v2.RandAugment, "trivial_augment": v2.TrivialAugmentWide}


def _pictures(num: int, channels: int, size: int = 28) -> Tensor:
    """Smooth in places, noisy in others, of a narrow range: every operation changes them."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 180, size)[:, None] + np.linspace(0, 30, size)
    pixels = ramp + rng.integers(-20, 20, size=(num, channels, size, size)) * (ramp > 120)
    return torch.from_numpy(pixels.astype(np.uint8))


def _key(image: Tensor) -> bytes:
    return image.numpy().tobytes()


def _changed(image: Tensor, policy: str, strengths: range) -> dict[bytes, str]:
    """All that a policy can make of an image, one operation long."""
    meant = magnitudes(policy, image.shape[-1])
    return {
        _key(operation(image[None], sign * meant[name][strength])[0]): name
        for name, operation in OPERATIONS.items()
        for strength in strengths
        for sign in ((-1, 1) if name in SIGNED else (1,))
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_rand_augment_is_torchvisions(magnitude: int, channels: int) -> None:
    (image,) = _pictures(1, channels)
    theirs = v2.RandAugment(num_ops=1, magnitude=magnitude)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = {_key(theirs(image)) for _ in range(500)}
    assert set(_changed(image, "rand_augment", range(magnitude, magnitude + 1))) == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_trivial_augment_is_torchvisions(channels: int) -> None:
    (image,) = _pictures(1, channels)
    ours = _changed(image, "trivial_augment", range(NUM_MAGNITUDES))
    theirs = v2.TrivialAugmentWide()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = [_key(theirs(image)) for _ in range(500)]
    assert set(expected) <= set(ours)
    # One name stands for operations that do the same to this image: few do.
    assert len({ours[key] for key in expected}) >= len(OPERATIONS) - 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_operation_runs_and_only_colour_keeps_grey_images(policy: str, channels: int) -> None:
    pixels = _pictures(4, channels)
    for name, operation in OPERATIONS.items():
        before = pixels.clone()
        for strength in range(NUM_MAGNITUDES):
            for sign in (-1, 1) if name in SIGNED else (1,):
                result = operation(pixels, sign * magnitudes(policy, 28)[name][strength])
                assert (result.shape, result.dtype) == (pixels.shape, torch.uint8)
        assert torch.equal(pixels, before)
        keeps = name == "identity" or (name == "color" and channels == 1)
        assert torch.equal(result, pixels) == keeps, name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_each_image_draws_its_own(policy: str, channels: int) -> None:
    config = DataConfig(auto_augment=policy, auto_augment_num_ops=1)
    pixels = _pictures(1, channels).expand(600, -1, -1, -1)
    strengths = range(9, 10) if policy == "rand_augment" else range(NUM_MAGNITUDES)
    possible = _changed(pixels[0], policy, strengths)
    result = auto_augment(pixels, config, Draws(np.random.default_rng(0), 600))
    found = [_key(image) for image in result]
    assert set(found) <= set(possible)
    num_expected = len(OPERATIONS) + len(SIGNED)  # one magnitude for an operation and a sign
    if channels == 1:
        num_expected -= 2  # colour of either sign is the identity
    # Weak magnitudes may do nothing.
    assert num_expected - (0 if policy == "rand_augment" else 3) <= len(set(found)) <= num_expected
    counts = [found.count(key) for key in set(found)]
    assert 600 / len(OPERATIONS) / 2 * 0.4 < min(counts)
    assert max(counts) < 600 / len(OPERATIONS) * 3


@pytest.mark.parametrize("policy", POLICIES)
def test_company_makes_no_difference(policy: str) -> None:
    """An image comes out the same in a whole batch and as a shard of one."""
    config = DataConfig(auto_augment=policy)
    pixels = _pictures(40, 3)
    whole = auto_augment(pixels, config, Draws(np.random.default_rng(3), 40))
    for rank in range(40):
        alone = auto_augment(pixels[rank : rank + 1], config, Draws(np.random.default_rng(3), 40, (rank, 40)))
        assert torch.equal(alone[0], whole[rank])


def test_num_ops_and_magnitude_are_followed() -> None:
    pixels = _pictures(100, 1)
    config = DataConfig(auto_augment="rand_augment", auto_augment_num_ops=1, auto_augment_magnitude=0)

    def kept(config: DataConfig) -> int:
        result = auto_augment(pixels, config, Draws(np.random.default_rng(0), 100))
        return int((result == pixels).flatten(1).all(1).sum())

    # At magnitude 0 only contrast stretching, equalising and solarising change anything.
    assert kept(config) > 70
    assert kept(replace(config, auto_augment_magnitude=30)) < 30
    assert kept(replace(config, auto_augment_num_ops=6)) < kept(config) - 20
