"""A module as an ONNX file that is deployed: folded, self-contained, and the same bytes each time."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ofa.files import atomic_path
from ofa.hardware.onnx_export import pool_instead_of_mean
from ofa.nn.structure import clone_structure, own_tensors

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, OUTPUT = "images", "logits"
# The exporter's own operator set; newer ones bring nothing for convolutional networks, and older runtimes lack them.
OPSET = 18


def export_onnx(
    module: nn.Module, input_shape: tuple[int, ...], path: Path | str, *, dynamic_batch: bool = False
) -> Path:
    """Write a module as ONNX, through torch's dynamo exporter, and check it with onnx's checker.

    Weights are inside the file, batch normalisation and constants are folded. The input is called ``images``, the
    output ``logits``. What the exporter notes about the source code is left out: it holds this machine's paths, and
    makes a small file a fifth larger.

    Args:
        module: In eval mode, on the CPU.
        input_shape: Of one input, without the batch: ``(C, H, W)``.
        dynamic_batch: Leave the batch free; otherwise it is 1, for which runtimes plan memory once.

    Returns:
        ``path``.

    Raises:
        ValueError: If the module is in training mode.
    """
    if module.training:
        raise ValueError("the module is in training mode; call .eval() before it is exported")
    module = clone_structure(module)
    own_tensors(module)  # contiguous: from channels-last weights the exporter makes a graph with more nodes
    with warnings.catch_warnings():
        # Which of its own functions torch will drop is not the caller's concern (2.11 warns, and names other packages).
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            module,
            # The exporter takes a batch of 1 for a constant, even where it is said to vary.
            (torch.zeros(2 if dynamic_batch else 1, *input_shape),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip_notes(model)
    pool_instead_of_mean(model)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        _check(temporary)
    return Path(path)


def _strip_notes(model: ModelProto) -> None:
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")


def _check(path: Path) -> None:
    import onnx

    onnx.checker.check_model(path, full_check=True)
