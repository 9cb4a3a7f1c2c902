"""Adapter for timm's ``EdgeResidual`` (FusedMBConv): EfficientNet-EdgeTPU, EfficientNetV2, MobileDet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ofa.nn.conv import narrow_conv2d
from ofa.nn.norm import narrow_batch_norm
from ofa.space import Value
from ofa.supernet.adapter import (
    Choices,
    Fields,
    activation_name,
    channel_divisor,
    expand_values,
    hidden_width,
    kernel_values,
    narrow_se,
    se_bottleneck,
)


class EdgeResidualAdapter:
    """Full convolution that expands, squeeze-excite, pointwise projection."""

    kind = "er"

    def dims(self, block: Any, choices: Choices) -> dict[str, tuple[Value, ...]]:
        expand: tuple[float, ...] = ()
        if isinstance(block.aa, nn.Identity) and block.conv_exp.groups == 1:
            expand = expand_values(
                block.conv_exp.in_channels,
                block.conv_exp.out_channels,
                choices,
                divisor=channel_divisor(block.conv_exp),
            )
        return {"kernel": kernel_values(block.conv_exp, choices), "expand": expand}

    def narrow(self, block: Any, choice: Mapping[str, Value]) -> None:
        hidden = block.conv_exp.out_channels
        if "expand" in choice:
            ratio = float(choice["expand"])
            hidden = hidden_width(block.conv_exp.in_channels, hidden, ratio, divisor=channel_divisor(block.conv_exp))
        kernel = int(choice["kernel"]) if "kernel" in choice else None
        narrow_conv2d(block.conv_exp, out_channels=hidden, kernel_size=kernel)
        narrow_batch_norm(block.bn1, hidden)
        narrow_se(block, hidden)
        narrow_conv2d(block.conv_pwl, in_channels=hidden)

    def skippable(self, block: Any) -> bool:
        return bool(block.has_skip)

    def fields(self, block: Any) -> Fields:
        return {
            "in_channels": block.conv_exp.in_channels,
            "out_channels": block.conv_pwl.out_channels,
            "mid_channels": block.conv_exp.out_channels,
            "kernel": block.conv_exp.kernel_size[0],
            "stride": block.conv_exp.stride[0],
            "se_channels": se_bottleneck(block),
            "activation": activation_name(block.bn1),
            "shortcut": int(block.has_skip),
        }
