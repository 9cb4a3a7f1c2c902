"""INT8 ONNX graphs: weights and activations between pairs of quantize and dequantize nodes (QDQ)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ofa.formats.calibration import RANGE_FOR_TIMING, QuantizationError, Ranges, check_known, checked
from ofa.formats.quiet import without_log

if TYPE_CHECKING:
    from onnx import ModelProto

QUANTIZED_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that are computed in INT8; others are at most passed through."""

LEAST_INT8_OPSET = 13
"""The first that quantizes each channel by a scale of its own."""

SYMMETRIC_RUNTIMES = ("tensorrt", "trtexec")
"""Those that take signed activations around zero only, and biases in floating point."""


def quantize_qdq(
    model: ModelProto,
    ranges: Ranges | None = None,
    *,
    float_nodes: Collection[str] = (),
    symmetric: bool = False,
) -> ModelProto:
    """The graph in INT8: weights per channel and symmetric, activations of eight bits without sign.

    Convolutions and matrix products are quantized, and what only moves their results. Sums (shortcuts), products
    (squeeze-excite) and global pooling stay in floating point.

    Args:
        model: Floating point, batch normalisation folded; it is left as it is.
        ranges: See :func:`activation_ranges`; without them all tensors get the same range, which gives a graph that is
            as fast as the real one and computes nonsense.
        float_nodes: Names of nodes that stay in floating point; see :func:`nodes_by_place`. A tensor between two nodes
            is quantized if either is.
        symmetric: Activations signed and around zero, biases in floating point, for :data:`SYMMETRIC_RUNTIMES`.

    Raises:
        QuantizationError: If there is no such node, or if the range of a tensor that is to be quantized is missing.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry

    model = onnx.shape_inference.infer_shapes(model)
    own_initializers(model)
    graph = model.graph
    check_known(float_nodes, {node.name for node in graph.node})
    names = {value.name for value in (*graph.value_info, *graph.input, *graph.output)}
    if ranges is None:
        ranges = dict.fromkeys(sorted(names), RANGE_FOR_TIMING)
    quantizer = QDQQuantizer(
        model,
        True,  # weights per channel
        False,  # their full range
        QuantType.QInt8,
        QuantType.QInt8 if symmetric else QuantType.QUInt8,
        TensorsData(
            CalibrationMethod.MinMax,
            {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()},
        ),
        [],
        sorted(float_nodes),
        list(QDQRegistry),
        {"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
    )
    with without_log():  # of scales of one axis, which have no channels
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


def activation_ranges(model: ModelProto, batches: Iterable[npt.NDArray[np.generic]]) -> Ranges:
    """Least and greatest value of every floating-point tensor over calibration images, on one thread.

    ONNX Runtime's own calibrater gives the same, but runs graphs that are not optimised, several times slower.

    Args:
        model: Floating point, with one input; it is left as it is.
        batches: Normalised images of the shape of the model's input, ``(N, C, H, W)``.

    Raises:
        UsageError, QuantizationError: See :func:`~ofa.formats.calibration.checked`.
    """
    import onnx
    import onnxruntime

    observed = onnx.shape_inference.infer_shapes(model)
    own_initializers(observed)
    graph = observed.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    weights = {tensor.name for tensor in graph.initializer}
    written = [name for node in graph.node for name in node.output]
    images_name = next(value.name for value in graph.input if value.name not in weights)
    names = [name for name in (images_name, *written) if name in floats]
    del graph.output[:]
    for kind in ("Min", "Max"):
        for number, name in enumerate(names):
            output = f"range:{kind}:{number}"
            graph.node.append(onnx.helper.make_node(f"Reduce{kind}", [name], [output], name=output, keepdims=0))
            graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [np.array(session.run(None, {images_name: images}), dtype=np.float64).reshape(2, -1) for images in batches]
    if not found:
        return checked({})
    extremes = np.array(found)
    lows, highs = extremes[:, 0].min(axis=0), extremes[:, 1].max(axis=0)
    return checked(dict(zip(names, zip(lows.tolist(), highs.tolist(), strict=True), strict=True)))


def nodes_by_place(model: ModelProto, blocks: Mapping[str, str], places: Collection[str]) -> dict[str, list[str]]:
    """Names of the nodes of each place of a network.

    Nodes are told by the module that they come from, which the older exporter of
    :func:`ofa.formats.onnx.export_for_timing` writes into their names. Nodes outside blocks belong to ``stem``
    before the first, to ``head`` behind the last, and to ``stage2.entry`` if ``stage2`` is the next to begin; where
    ``places`` has no such place, to the place before them.

    Args:
        model: Its nodes in the order in which they run.
        blocks: Name and module path of blocks, such as ``stage1.block0`` and ``blocks.1.0``, in the order of the
            network; those that are not in this subnet are no harm.
        places: Names of all places.

    Returns:
        Names of nodes by place, which may be a block that is not among ``places``; places without nodes are left out.

    Raises:
        QuantizationError: If no node is of any block: the graph is not of that exporter.
    """
    scopes = {_scope(path): name for name, path in blocks.items()}
    nodes = [node.name for node in model.graph.node if node.op_type not in ("Constant", "Identity")]
    block_of = [_within(name, scopes) for name in nodes]
    starts: dict[str, int] = {}  # stage -> its first node
    for position, block in enumerate(block_of):
        if block is not None:
            starts.setdefault(block.partition(".")[0], position)
    if not starts:
        raise QuantizationError(
            f"no node of the graph, such as {nodes[0] if nodes else 'none'!r}, says that it is of one of the modules "
            f"{', '.join(list(blocks.values())[:3])}; export it by tracing, or use one precision for the network"
        )
    found: dict[str, list[str]] = {}
    before = next(block for block in block_of if block is not None)
    for position, (name, block) in enumerate(zip(nodes, block_of, strict=True)):
        following = [stage for stage, start in starts.items() if start > position]
        region = "stem" if len(following) == len(starts) else f"{following[0]}.entry" if following else "head"
        before = block or (region if region in places else before)
        found.setdefault(before, []).append(name)
    return found


def _scope(path: str) -> str:
    """How the older exporter begins the names of a module's nodes: ``/module/blocks/blocks.0/`` for ``blocks.0``."""
    atoms = ["module", *path.split(".")]
    words = itertools.accumulate(atoms, lambda before, atom: f"{before}.{atom}" if atom.isnumeric() else atom)
    return "/".join(("", *words, ""))


def _within(node: str, scopes: Mapping[str, str]) -> str | None:
    """The innermost block whose scope a node's name begins with."""
    return scopes.get(max((scope for scope in scopes if node.startswith(scope)), key=len, default=""))
