"""Adapter for timm's ``DepthwiseSeparableConv``: MobileNetV1, LCNet, the first block of many others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ofa.nn.conv import narrow_conv2d
from ofa.space import Value
from ofa.supernet.adapter import Choices, Fields, activation_name, kernel_values, se_bottleneck


class DepthwiseSeparableAdapter:
    """Depthwise convolution, squeeze-excite, pointwise convolution. It has no hidden width of its own to vary."""

    kind = "ds"

    def dims(self, block: Any, choices: Choices) -> dict[str, tuple[Value, ...]]:
        return {"kernel": kernel_values(block.conv_dw, choices)}

    def narrow(self, block: Any, choice: Mapping[str, Value]) -> None:
        narrow_conv2d(block.conv_dw, kernel_size=int(choice["kernel"]) if "kernel" in choice else None)

    def skippable(self, block: Any) -> bool:
        return bool(block.has_skip)

    def fields(self, block: Any) -> Fields:
        return {
            "in_channels": block.conv_dw.in_channels,
            "out_channels": block.conv_pw.out_channels,
            "mid_channels": block.conv_dw.out_channels,
            "kernel": block.conv_dw.kernel_size[0],
            "stride": block.conv_dw.stride[0],
            "se_channels": se_bottleneck(block),
            "activation": activation_name(block.bn1),
            "shortcut": int(block.has_skip),
        }
