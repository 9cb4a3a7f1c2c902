"""What TensorRT asks of INT8 graphs: NVIDIA's documents say so, no GPU was at hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ofa.formats.onnx import export_for_timing
from ofa.formats.onnx_int8 import activation_ranges, quantize_qdq
from ofa.hardware.timed_models import export_model


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)).eval()
    return onnx.load_from_string(export_for_timing(module, (3, 8, 8)))


def quantizers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Zero points by the tensor that is quantized or dequantized."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        node.input[0]: constants[node.input[2]]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }


@pytest.mark.parametrize("symmetric", [False, True])
def test_symmetric_means_signed_around_zero_and_biases_in_floating_point(
    graph: onnx.ModelProto, symmetric: bool
) -> None:
    images = np.random.default_rng(0).standard_normal((4, 1, 3, 8, 8)).astype(np.float32) + 0.3
    model = quantize_qdq(graph, activation_ranges(graph, list(images)), symmetric=symmetric)
    found = quantizers(model)
    types = {str(zero.dtype) for zero in found.values()}
    assert types == ({"int8"} if symmetric else {"int8", "uint8", "int32"})
    assert all(not zero.any() for zero in found.values()) == symmetric
    constants = {tensor.name for tensor in model.graph.initializer}
    biases = {node.input[2] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert (biases <= constants) == symmetric


@pytest.mark.parametrize(("runtime", "is_symmetric"), [("onnxruntime", False), ("tensorrt", True), ("trtexec", True)])
def test_a_device_is_timed_with_the_graph_that_it_gets(runtime: str, is_symmetric: bool) -> None:
    from ofa.setting import Setting

    setting = Setting(runtime=runtime, precision="int8")
    model = onnx.load_from_string(export_model(nn.Conv2d(3, 4, 3).eval(), (3, 6, 6), setting))
    assert ("uint8" not in {str(zero.dtype) for zero in quantizers(model).values()}) == is_symmetric
