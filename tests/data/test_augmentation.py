"""Shifts, flips, crops and erased boxes are what they say, and a row's draws do not depend on the sharding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.transforms.v2 import functional

from ofa.data import DataConfig
from ofa.data.augmentation import CROP_ASPECTS, Draws, augment, boxes_of, crop, erase

from .helpers import noise


def _draws(num: int, seed: int = 0, shard: tuple[int, int] = (0, 1)) -> Draws:
    return Draws(np.random.default_rng(seed), num, shard)


@pytest.mark.parametrize("channels", [1, 3])
def test_shift_and_flip_by_pad_and_crop(channels: int) -> None:
    pixels = noise(np.random.default_rng(0), 200, channels, 8, 8)
    config = DataConfig(crop_padding=0.25, horizontal_flip=True)
    varied = augment(torch.from_numpy(pixels), config, _draws(200))[0].numpy()
    seen = set()
    for image, result in zip(pixels, varied, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
        crops = {(y, x): padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)}
        matches = [
            (y, x, flip)
            for (y, x), crop in crops.items()
            for flip in (False, True)
            if (result == (crop[..., ::-1] if flip else crop)).all()
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 45  # of 50


def test_nothing_asked_is_nothing_done() -> None:
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    draws = _draws(2)
    assert augment(pixels, DataConfig(crop_padding=0), draws)[0] is pixels
    assert erase(pixels, DataConfig(), draws) is pixels
    assert draws.rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_draws_of_shards_are_rows_of_the_whole() -> None:
    def drawn(shard: tuple[int, int]) -> list[npt.NDArray]:
        draws = _draws(6, shard=shard)
        return [draws.uniform(2), draws.integers(-3, 3), draws.uniform()]

    for rank in range(3):
        for own, whole in zip(drawn((rank, 3)), drawn((0, 1)), strict=True):
            np.testing.assert_array_equal(own, whole[rank::3])


# -- crops -----------------------------------------------------------------------------------------------------------


def test_boxes_are_inside_and_of_the_area_and_aspect_asked_for() -> None:
    top, left, height, width = boxes_of(_draws(5000).uniform(4), areas=(0.1, 1.0), aspects=CROP_ASPECTS)
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-12
    area, aspect = height * width, width / height
    assert 0.1 <= area.min() < 0.11
    assert 0.99 < area.max() <= 1
    assert np.histogram(area, 3, (0.1, 1.0))[0] == pytest.approx(5000 / 3, rel=0.1)
    assert aspect.min() == pytest.approx(3 / 4, abs=0.01)
    assert aspect.max() == pytest.approx(4 / 3, abs=0.01)
    assert np.mean(aspect > 1) == pytest.approx(0.5, abs=0.03)


def test_the_whole_image_is_a_crop_that_changes_nothing() -> None:
    pixels = torch.from_numpy(noise(np.random.default_rng(0), 5, 3, 9, 9))
    nothing, everything = np.zeros(5), np.ones(5)
    assert torch.equal(crop(pixels, (nothing, nothing, everything, everything)), pixels)
    config = DataConfig(crop_padding=0, crop_scale=1.0)
    assert torch.equal(augment(pixels, config, _draws(5))[0], pixels)


def test_crop_by_torchvision() -> None:
    pixels = torch.from_numpy(noise(np.random.default_rng(0), 2, 3, 16, 16))
    boxes = [(2, 4, 8, 10), (0, 3, 13, 12)]  # top, left, height, width
    found = crop(pixels, tuple(np.array(boxes).T / 16))  # type: ignore[arg-type]
    for image, result, box in zip(pixels, found, boxes, strict=True):
        expected = functional.resized_crop(image, *box, size=[16, 16], antialias=False)
        # At the rim torchvision repeats the box's last pixel, where the image goes on here.
        assert (result.int() - expected.int())[:, 2:-2, 2:-2].abs().max() <= 1


def test_random_crops_enlarge() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(300, 1, 32, 32)
    config = DataConfig(crop_padding=0, crop_scale=0.25)
    row = augment(ramp, config, _draws(300))[0][:, 0, 16].float()
    width = (row[:, 24] - row[:, 8]) / 8 / 16  # the ramp's slope
    assert width.min() == pytest.approx(0.5 * np.sqrt(3 / 4), abs=0.03)
    assert width.max() == pytest.approx(1, abs=0.03)


# -- erasing ---------------------------------------------------------------------------------------------------------


def test_erased_are_boxes_of_the_share_asked_for() -> None:
    images = torch.ones(2000, 3, 32, 32)
    result = erase(images, DataConfig(random_erasing=0.25), _draws(2000))
    assert torch.equal(result.amin(1), result.amax(1))  # all channels alike
    erased = result[:, 0] == 0
    assert torch.equal(result[:, 0], (~erased).float())
    rows, columns = erased.any(2), erased.any(1)
    assert torch.equal(erased, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        assert ((side[:, 1:] != side[:, :-1]).sum(1) + side[:, 0].int() + side[:, -1].int()).max() <= 2  # one run
    share = erased.float().mean((1, 2))
    assert (share > 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert share[share > 0].min() == pytest.approx(0.02, abs=0.01)
    assert share.max() == pytest.approx(1 / 3, abs=0.02)


def test_erasing_everywhere() -> None:
    assert (erase(torch.ones(50, 1, 16, 16), DataConfig(random_erasing=1), _draws(50)).amin((1, 2, 3)) == 0).all()
