"""Adapter for timm's ``InvertedResidual`` (MBConv): MobileNetV2 and V3, MnasNet, EfficientNet, ProxylessNAS, FBNet."""

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


class InvertedResidualAdapter:
    """Pointwise expansion, depthwise convolution, squeeze-excite, pointwise projection."""

    kind = "ir"

    def dims(self, block: Any, choices: Choices) -> dict[str, tuple[Value, ...]]:
        expand: tuple[float, ...] = ()
        if isinstance(block.aa, nn.Identity):  # an anti-aliasing layer holds one filter per channel
            expand = expand_values(
                block.conv_pw.in_channels, block.conv_pw.out_channels, choices, divisor=channel_divisor(block.conv_dw)
            )
        return {"kernel": kernel_values(block.conv_dw, choices), "expand": expand}

    def narrow(self, block: Any, choice: Mapping[str, Value]) -> None:
        hidden = block.conv_pw.out_channels
        if "expand" in choice:
            ratio = float(choice["expand"])
            hidden = hidden_width(block.conv_pw.in_channels, hidden, ratio, divisor=channel_divisor(block.conv_dw))
        narrow_conv2d(block.conv_pw, out_channels=hidden)
        narrow_batch_norm(block.bn1, hidden)
        kernel = int(choice["kernel"]) if "kernel" in choice else None
        narrow_conv2d(block.conv_dw, in_channels=hidden, out_channels=hidden, kernel_size=kernel)
        narrow_batch_norm(block.bn2, hidden)
        narrow_se(block, hidden)
        narrow_conv2d(block.conv_pwl, in_channels=hidden)

    def skippable(self, block: Any) -> bool:
        return bool(block.has_skip)

    def fields(self, block: Any) -> Fields:
        return {
            "in_channels": block.conv_pw.in_channels,
            "out_channels": block.conv_pwl.out_channels,
            "mid_channels": block.conv_dw.out_channels,
            "kernel": block.conv_dw.kernel_size[0],
            "stride": block.conv_dw.stride[0],
            "se_channels": se_bottleneck(block),
            "activation": activation_name(block.bn2),
            "shortcut": int(block.has_skip),
        }
