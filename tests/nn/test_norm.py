from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional

from ofa.nn.norm import narrow_batch_norm
from ofa.nn.structure import clone_structure


@pytest.mark.parametrize("norm_type", [nn.BatchNorm2d, BatchNormAct2d])
def test_first_channels(norm_type: type[nn.BatchNorm2d]) -> None:
    norm = norm_type(6).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(6, generator=torch.Generator().manual_seed(0)) + 0.5)
    narrow = clone_structure(norm)
    narrow_batch_norm(narrow, 4)
    x = torch.randn(3, 6, 5, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(narrow(x[:, :4]), norm(x)[:, :4])
    assert narrow.num_features == 4
    assert norm.num_features == 6


def test_training_statistics_of_the_first_channels_are_shared() -> None:
    norm = nn.BatchNorm2d(6)
    narrow = clone_structure(norm)
    narrow_batch_norm(narrow, 4)
    x = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(1)) + 3
    narrow(x)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean[:4], 0.1 * x.mean(dim=(0, 2, 3)))
    assert (norm.running_mean[4:] == 0).all()


def test_without_affine_or_statistics() -> None:
    norm = nn.BatchNorm2d(6, affine=False, track_running_stats=False)
    narrow_batch_norm(norm, 4)
    x = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(norm(x), functional.batch_norm(x, None, None, training=True))
