"""ExecuTorch programs for its XNNPACK kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ofa.optional import extra, require

EXTRA = extra("executorch")
ORIGINS = ("from_node", "nn_module_stack", "source_fn_stack", "stack_trace", "torch_fn")
"""What a node of a graph knows of the code that it comes from."""


def export_executorch(module: nn.Module, *inputs: Tensor) -> bytes:
    """A module as a ``.pte`` program, all that XNNPACK knows delegated to it.

    Raises:
        NotInstalledError: If ExecuTorch is not there.
    """
    exir = require("executorch.exir", EXTRA)
    partitioners = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", EXTRA)
    exported = torch.export.export(module, inputs, strict=False)
    for node in exported.graph.nodes:  # every pass would copy these for each node, a quarter of the time
        for key in ORIGINS:
            node.meta.pop(key, None)
    lowered = exir.to_edge_transform_and_lower(
        exported,
        partitioner=[partitioners.XnnpackPartitioner()],
        compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),  # two thirds of the time
    )
    return bytes(lowered.to_executorch().buffer)
