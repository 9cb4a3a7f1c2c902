from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from torch.nn import functional

from ofa.nn.squeeze_excite import narrow_squeeze_excite
from ofa.nn.structure import clone_structure


@pytest.mark.parametrize(
    ("channels", "bottleneck", "narrow_channels", "narrow_bottleneck"),
    [
        (96, 24, 48, 16),  # 12, rounded to a multiple of 8
        (96, 24, 64, 16),
        (96, 24, 96, 24),
        (16, 4, 8, 4),  # rounding up to 8 would exceed what there is
    ],
)
def test_equals_slices_by_hand(channels: int, bottleneck: int, narrow_channels: int, narrow_bottleneck: int) -> None:
    torch.manual_seed(0)
    full = SqueezeExcite(channels, rd_channels=bottleneck)
    narrow = clone_structure(full)
    narrow_squeeze_excite(narrow, narrow_channels)
    assert narrow.conv_reduce.out_channels == narrow_bottleneck
    assert full.conv_reduce.out_channels == bottleneck

    x = torch.randn(2, narrow_channels, 5, 5)
    reduce: Any = full.conv_reduce
    expand: Any = full.conv_expand
    squeezed = x.mean(dim=(2, 3))
    hidden = functional.relu(
        squeezed @ reduce.weight[:narrow_bottleneck, :narrow_channels, 0, 0].T + reduce.bias[:narrow_bottleneck]
    )
    gate = torch.sigmoid(
        hidden @ expand.weight[:narrow_channels, :narrow_bottleneck, 0, 0].T + expand.bias[:narrow_channels]
    )
    torch.testing.assert_close(narrow(x), x * gate[:, :, None, None])
