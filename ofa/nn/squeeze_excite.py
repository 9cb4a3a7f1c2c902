"""Elastic squeeze-and-excitation."""

from __future__ import annotations

from timm.layers import make_divisible
from torch import nn

from ofa.nn.conv import narrow_conv2d


def narrow_squeeze_excite(squeeze_excite: nn.Module, num_channels: int, *, divisor: int = 8) -> None:
    """Keep the first channels of timm's ``SqueezeExcite`` and shrink its bottleneck in proportion, in place on a clone.

    The bottleneck is rounded to ``divisor`` as in the published Once-for-All code, never above its full width.
    """
    reduce, expand = squeeze_excite.conv_reduce, squeeze_excite.conv_expand
    assert isinstance(reduce, nn.Conv2d) and isinstance(expand, nn.Conv2d)
    if num_channels == reduce.in_channels:
        return  # the full width keeps its own bottleneck, whatever it is a multiple of
    share = reduce.out_channels / reduce.in_channels
    bottleneck = min(reduce.out_channels, make_divisible(num_channels * share, divisor))
    narrow_conv2d(reduce, in_channels=num_channels, out_channels=bottleneck)
    narrow_conv2d(expand, in_channels=bottleneck, out_channels=num_channels)
