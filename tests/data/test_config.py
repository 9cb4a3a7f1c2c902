"""DataConfig refuses values out of range."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ofa.config import from_mapping, to_plain
from ofa.data import DataConfig, DataError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search_share": 0.0}, "search_share is 0.0"),
        ({"test_share": 10.5}, "test_share is 10.5"),
        ({"limit": 0}, "limit is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"crop_padding": 0.5}, "crop_padding is 0.5"),
        ({"crop_scale": 0.0}, "crop_scale is 0.0"),
        ({"crop_scale": 1.1}, "crop_scale is 1.1"),
        ({"auto_augment": "randaugment"}, "auto_augment is 'randaugment'; give one of none, rand_augment, triv"),
        ({"augmentation": "timm:a4"}, "augmentation is 'timm:a4'; give one of timm:a1, timm:a2, timm:a3, or none"),
        ({"augmentation": "timm:a1", "mixup": 0.3}, "mixup is 0.3, but augmentation timm:a1 sets it to 0.2"),
        ({"auto_augment_magnitude": 31}, "auto_augment_magnitude is 31; give a whole number from 0 to 30"),
        ({"auto_augment_magnitude": -1}, "auto_augment_magnitude is -1"),
        ({"auto_augment_num_ops": 0}, "auto_augment_num_ops is 0; give at least 1"),
        ({"random_erasing": 1.5}, "random_erasing is 1.5; give a probability from 0 to 1"),
        ({"mixup": -0.1}, "mixup is -0.1; give an alpha from 0 (off) up"),
        ({"cutmix": float("nan")}, "cutmix is nan"),
        ({"mean": ()}, "mean is (); give one number or one per channel"),
        ({"std": (1.0,) * 5}, "std is (1.0, 1.0, 1.0, 1.0, 1.0); give one number above 0 or one per channel"),
        ({"crop_pct": 1.2}, "crop_pct is 1.2; give a share of the sides above 0, up to 1"),
        ({"fit": "letterbox", "crop_pct": 0.9}, "crop_pct is 0.9; give none with fit letterbox"),
        ({"ground": (255, 256, 0)}, "ground is (255, 256, 0); give a grey value, or red, green and blue"),
        ({"ground": (1, 2)}, "ground is (1, 2)"),
        ({"white": 0.0}, "white is 0.0; give the value that is white"),
        ({"std": (0.0,)}, "std is (0.0,)"),
    ],
)
def test_refuses_and_names_the_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        DataConfig(**options)


def test_one_mean_serves_three_channels() -> None:
    assert DataConfig(mean=[0.5]).mean == (0.5, 0.5, 0.5)  # type: ignore[arg-type]  # as YAML gives it


def test_a_published_augmentation_sets_keys_and_is_read_again() -> None:
    config = DataConfig(augmentation="timm:a3", random_erasing=0.1)
    found = (config.crop_scale, config.crop_padding, config.horizontal_flip, config.mixup, config.cutmix)
    assert found == (0.08, 0, True, 0.1, 1.0)
    assert (config.timm_policy, config.random_erasing) == ("rand-m6-mstd0.5-inc1", 0.1)
    assert from_mapping(DataConfig, to_plain(config), where="data") == config


def test_mixes() -> None:
    assert [DataConfig(**options).mixes for options in ({}, {"mixup": 0.2}, {"cutmix": 1.0})] == [False, True, True]
