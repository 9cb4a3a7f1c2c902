"""ONNX export of what is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ofa.errors import UsageError
from ofa.files import atomic_path
from ofa.hardware.onnx_export import DYNAMO_OPSET, export_by_dynamo, pool_instead_of_mean
from ofa.nn.structure import clone_structure, own_caches, own_tensors

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, OUTPUT = "images", "logits"


def export_onnx(
    module: nn.Module, input_shape: tuple[int, ...], path: Path | str, *, dynamic_batch: bool = False
) -> Path:
    """Write a module as ONNX, through torch's dynamo exporter, and check it with onnx's checker.

    Args:
        module: In eval mode, on the CPU.
        input_shape: Of one input, without the batch: ``(C, H, W)``.
        dynamic_batch: Leave the batch free; otherwise it is 1, for which runtimes plan memory once.

    Returns:
        ``path``.

    Raises:
        ValueError: If the module is in training mode.
    """
    model = to_onnx(module, input_shape, batch=None if dynamic_batch else 1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return Path(path)


def to_onnx(
    module: nn.Module,
    input_shape: tuple[int, ...],
    *,
    batch: int | None = 1,
    dtype: torch.dtype = torch.float32,
    opset: int = DYNAMO_OPSET,
) -> ModelProto:
    """A module as an ONNX graph that onnx's checker has nothing against.

    Weights are inside, batch normalisation and constants are folded. The input is called ``images``, the output
    ``logits``. Nothing inside tells about this machine.

    Args:
        module: In eval mode, on the CPU.
        input_shape: Of one input, without the batch.
        batch: Images in one call; ``None`` leaves it free.
        dtype: Of the input.

    Raises:
        ValueError: If the module is in training mode.
    """
    import onnx

    if module.training:
        raise UsageError("the module is in training mode; call .eval() before it is exported")
    module = clone_structure(module)
    own_tensors(module)  # contiguous: from channels-last weights the exporter makes a graph with more nodes
    own_caches(module)  # LeViT keeps attention biases for its next call; what the exporter leaves there is no tensor
    model = export_by_dynamo(
        module,
        (batch or 2, *input_shape),  # what varies must not be 1 here: the exporter takes it for a constant
        input_name=INPUT,
        output_name=OUTPUT,
        dynamic_batch=batch is None,
        dtype=dtype,
        opset=opset,
    )
    pool_instead_of_mean(model)
    onnx.checker.check_model(model, full_check=True)
    return model
