"""INT8 ONNX graphs: weights and activations between pairs of quantize and dequantize nodes (QDQ)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

RANGE_FOR_TIMING = (-1.0, 1.0)


def quantize_for_timing(model: bytes) -> bytes:
    """An ONNX graph in INT8 that is timed and thrown away: its speed is right, what it computes is not."""
    import onnx

    return quantize_qdq(onnx.load_from_string(model)).SerializeToString(deterministic=True)


def quantize_qdq(model: ModelProto, ranges: Mapping[str, tuple[float, float]] | None = None) -> ModelProto:
    """The graph in INT8: weights per channel and symmetric, activations of eight bits without sign.

    Every operator that ONNX Runtime has an INT8 kernel for is quantized.

    Args:
        model: Floating point, batch normalisation folded.
        ranges: Least and greatest value of each tensor; without them all tensors get the same range, which gives a
            graph that is as fast as the real one and computes nonsense.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry

    model = onnx.shape_inference.infer_shapes(model)
    own_initializers(model)
    graph = model.graph
    if ranges is None:
        names = {value.name for value in (*graph.value_info, *graph.input, *graph.output)}
        ranges = dict.fromkeys(sorted(names), RANGE_FOR_TIMING)
    quantizer = QDQQuantizer(
        model,
        True,  # weights per channel
        False,  # their full range
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(
            CalibrationMethod.MinMax,
            {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()},
        ),
        [],
        [],
        list(QDQRegistry),
        {},
    )
    quantizer.quantize_model()
    quantized: ModelProto = quantizer.model.model
    return quantized


def own_initializers(model: ModelProto) -> None:
    """Give every reader of a shared weight a copy of its own, in place.

    Exporters write equal weights once, behind an ``Identity``; biases that are not initializers are not quantized, and
    the convolution then runs in floating point.
    """
    import onnx

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]:
        copy = onnx.TensorProto()
        copy.CopyFrom(weights[node.input[0]])
        copy.name = node.output[0]
        graph.initializer.append(copy)
        graph.node.remove(node)
