"""Policies do what timm's own transforms do, picture by picture, in worker processes as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from ofa.data import DataConfig, load_data
from ofa.data.timm_policy import TimmPolicy, seeded

from .helpers import noise, write_folder

POLICIES = ("rand-m6-mstd0.5-inc1", "rand-m7-n3-tweights", "original-mstd0.5", "v0r", "3a", "augmix-m5-w4-d2")
MEAN = (0.485, 0.456, 0.406)


@pytest.mark.parametrize("text", POLICIES)
def test_equals_what_timm_makes_of_it(text: str) -> None:
    pixels = noise(np.random.default_rng(0), 12, 20, 28, 3).transpose(0, 3, 1, 2).copy()
    made = create_transform(
        (3, 20, 28),
        is_training=True,
        auto_augment=text,
        mean=MEAN,
        interpolation="random",
        color_jitter=None,
        separate=True,
    )[1]
    expected = []
    for number, image in enumerate(pixels):
        with seeded(7 * number):
            expected.append(np.asarray(made(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))))))
    before = pixels.copy()
    fill = tuple(round(255 * each) for each in MEAN)
    TimmPolicy(text, fill).change(pixels, 7 * np.arange(12))
    assert np.array_equal(pixels.transpose(0, 2, 3, 1), expected)
    assert (pixels != before).any()


def test_no_bits_left_is_black_as_it_was_when_these_policies_were_made() -> None:
    pixels = noise(np.random.default_rng(0), 200, 4, 4, 3).transpose(0, 3, 1, 2).copy()
    TimmPolicy("rand-m10-inc1-n1-p1.0").change(pixels, np.arange(200))
    assert 200 / 15 / 3 < sum(not image.any() for image in pixels) < 3 * 200 / 15


def test_grey_pictures_stay_grey_and_are_changed_by_what_is_no_colour() -> None:
    pixels = noise(np.random.default_rng(0), 30, 16, 16, 1).transpose(0, 3, 1, 2).copy()
    before = pixels.copy()
    TimmPolicy("rand-m9-n2-p1.0").change(pixels, np.arange(30))
    assert pixels.shape == before.shape
    assert 20 < sum(not np.array_equal(*pair) for pair in zip(pixels, before, strict=True)) <= 30


def test_worker_processes_change_crops_as_this_process_would(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"cat": 20, "dog": 30}, extension="jpg")
    policy: dict[str, Any] = {"auto_augment": "timm:rand-m9-mstd0.5-inc1", "crop_scale": 0.3, "crop_padding": 0.0}
    batches = {}
    for num_workers, augment in ((0, policy), (2, policy), (0, {**policy, "auto_augment": "none"})):
        config = DataConfig(name="folder", root=str(tmp_path), crop_from="original", num_workers=num_workers, **augment)
        data = load_data(config, image_size=16)
        batches[num_workers, len(augment["auto_augment"])] = [
            images for images, _ in data.train_batches(epoch=0, batch_size=8, seed=0)
        ]
    here, there, plain = batches.values()
    assert all(torch.equal(*pair) for pair in zip(here, there, strict=True))
    # The crops are the same whatever follows them; some images draw no operation.
    same = torch.stack([(one == other).flatten(1).all(1) for one, other in zip(here, plain, strict=True)])
    assert 0 < same.sum() < same.numel()
