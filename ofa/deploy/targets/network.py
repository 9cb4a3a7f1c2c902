"""A network to be exported, and what is made of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ofa.deploy.parity import Images, Outputs
from ofa.errors import OfaError
from ofa.formats import Shipped
from ofa.inputs import Inputs

NUM_TOGETHER = 8
LEAST_INT8_PERCENT = 95.0


class TargetError(OfaError, ValueError):
    """A target cannot hold what is asked for."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What quantization may cost, and how that is measured.

    Args:
        calibration_images: Real inputs of the network that give the ranges of activations, ``(N, *input_shape)``.
        worth: Measures what the outputs of ``images`` are worth; more is better.
        images: Inputs of the split that subnets are compared on, ``(N, *input_shape)``.
        max_loss_points: By how much INT8 may be worth less than floating point, in the metric's unit, on these.
    """

    calibration_images: Images
    images: Images
    worth: Callable[[Outputs], float]
    max_loss_points: float


@dataclass(frozen=True, kw_only=True)
class Network(Shipped):
    """A network to be exported; its input is float32, uint8, or int64 for ONNX.

    Args:
        module: In eval mode, on the CPU.
        accuracy: For targets that quantize.
    """

    module: nn.Module
    accuracy: Accuracy | None = None

    def outputs(self, images: Images) -> Outputs:
        """What torch computes, float32 ``(N, num_classes)``."""
        with torch.inference_mode():  # few at a time: tensors of a size that the allocator keeps
            chunks = torch.from_numpy(images).split(NUM_TOGETHER)
            return np.concatenate([self.module(chunk).float().cpu().numpy() for chunk in chunks])


class HalfPrecision(nn.Module):
    """A network in float16 between float32 inputs and float32 outputs; the one given is left as it is."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inputs = Inputs(*args, **kwargs).map(lambda tensor: tensor.half() if tensor.is_floating_point() else tensor)
        return tree_map_only(Tensor, Tensor.float, inputs.call(self.module))


@dataclass(frozen=True)
class FloatNodes:
    """What was kept in floating point, to keep low what INT8 costs.

    Args:
        loss_points: Floating point minus INT8, in the metric's unit.
        all_int8_loss_points: The same with every node in INT8.
        float_nodes: Names of nodes that stay in floating point.
    """

    loss_points: float
    all_int8_loss_points: float
    float_nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Quantization(FloatNodes):
    """What INT8 cost, in the metric on the search split.

    Args:
        num_nodes: Nodes that could be in INT8.
        int8_macs_percent: Share of the multiply-accumulates that are done by kernels of eight bits, weights and
            activations; ``None`` where that is not known: in TensorRT, and in bundles of earlier versions.
        num_conversions: Kernels that only lead from floats to eight bits or back; those at both ends count.
    """

    num_nodes: int
    num_calibration_images: int
    int8_macs_percent: float | None = None
    num_conversions: int | None = None

    @property
    def kernels(self) -> str:
        """How much of the network is in INT8, in words, with a warning where that is little; nothing if not known."""
        if self.int8_macs_percent is None:
            return ""
        text = int8_text(self.int8_macs_percent, self.num_conversions)
        if self.int8_macs_percent >= LEAST_INT8_PERCENT:
            return text
        return f"{text}: less than {LEAST_INT8_PERCENT:g} %; compare its latency with that of fp32"


def int8_text(macs_percent: float, num_conversions: int | None = None) -> str:
    """How much of a network is in INT8, in words."""
    text = f"{macs_percent:.1f} % of multiply-accumulates in INT8"
    return text if num_conversions is None else f"{text}, {num_conversions} conversions"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What a target made.

    Args:
        files: Contents by name; the first is the one that the runtime loads.
        reference: What the file should compute: torch for floating point, the quantized graph evaluated in floating
            point for INT8.
    """

    files: dict[str, bytes]
    reference: Callable[[Images], Outputs]
    quantization: Quantization | None = None
