"""Mixed images are what their targets say, and numpy's global generator is put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ofa.data import DataConfig
from ofa.data.augmentation import mix
from ofa.data.timm_policy import seeded


def _batch() -> tuple[Tensor, Tensor]:
    """Images whose pixels are their label."""
    labels = torch.tensor([0, 1, 2, 3, 4, 4])
    return labels[:, None, None, None].expand(-1, 3, 16, 16).float().clone(), labels


def _mixed(config: DataConfig, seed: int) -> tuple[Tensor, Tensor]:
    images, labels = _batch()
    return mix(images, labels, num_classes=5, config=config, seed=seed)


@pytest.mark.parametrize(
    "config",
    [DataConfig(mixup=0.8), DataConfig(cutmix=1.0), DataConfig(mixup=0.8, cutmix=1.0)],
    ids=["mixup", "cutmix", "both"],
)
def test_targets_are_the_shares_in_the_images(config: DataConfig) -> None:
    num_boxes = 0
    for seed in range(30):
        images, targets = _mixed(config, seed)
        assert (targets.shape, targets.dtype, images.dtype) == ((6, 5), torch.float32, torch.float32)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        # The mean of pixels that are labels is the mean of the labels.
        torch.testing.assert_close(images.mean((1, 2, 3)), targets @ torch.arange(5.0))
        possible = [{0, 4}, {1, 4}, {2, 3}, {2, 3}, {1, 4}, {0, 4}]
        assert all(set(row.nonzero()[:, 0].tolist()) <= pair for row, pair in zip(targets, possible, strict=True))
        num_boxes += len(images[0].unique()) == 2
    # CutMix's box is sometimes empty.
    lowest, highest = (0, 0) if not config.cutmix else (25, 30) if not config.mixup else (8, 22)
    assert lowest <= num_boxes <= highest


def test_the_seed_alone_decides() -> None:
    config = DataConfig(mixup=0.8, cutmix=1.0)
    with seeded(1):
        first = _mixed(config, 7)
    with seeded(2):
        again = _mixed(config, 7)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[1], _mixed(config, 8)[1])


def test_the_global_state_is_put_back() -> None:
    def drawn() -> tuple[object, ...]:
        return tuple(str(part) for part in np.random.get_state())

    before = drawn()
    _mixed(DataConfig(mixup=1.0, cutmix=1.0), 0)
    assert drawn() == before
    with pytest.raises(AssertionError), seeded(0):
        np.random.rand()
        raise AssertionError
    assert drawn() == before
