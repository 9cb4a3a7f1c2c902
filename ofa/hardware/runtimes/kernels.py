"""Which kernels a runtime runs a network with: how much of its arithmetic is in INT8, and where formats change.

What is counted is what is run: an ONNX graph after the runtime's own optimisation, OpenVINO's compiled graph, what an
ExecuTorch program hands to XNNPACK, the operators of a LiteRT file. Weights alone in eight bits do not count.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ofa.optional import extra, require

Shape = Sequence[int]


class Kernels(NamedTuple):
    """What the kernels of a network are.

    Args:
        macs: Multiply-accumulates of convolutions and matrix products, in one call.
        int8_macs: Those of kernels whose weights and activations have eight bits.
        num_conversions: Other kernels that take floats and give eight bits, or the reverse.
    """

    macs: int
    int8_macs: int
    num_conversions: int

    @property
    def int8_percent(self) -> float:
        """Share of the multiply-accumulates."""
        return 100 * self.int8_macs / self.macs if self.macs else 0.0


@runtime_checkable
class HasKernels(Protocol):
    """A session that knows them."""

    def kernels(self) -> Kernels: ...


class _Kernel(NamedTuple):
    """``takes_bytes`` and ``gives_bytes``: eight bits a number."""

    macs: int
    takes_bytes: bool
    gives_bytes: bool
    weights_are_bytes: bool = True


def _sum(kernels: Iterable[_Kernel]) -> Kernels:
    found = list(kernels)
    return Kernels(
        macs=sum(each.macs for each in found),
        int8_macs=sum(each.macs for each in found if each.takes_bytes and each.weights_are_bytes),
        num_conversions=sum(not each.macs and each.takes_bytes != each.gives_bytes for each in found),
    )


# -- ONNX ------------------------------------------------------------------------------------------------------------

INT8_OPERATORS = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat")
MACS_OF_ONNX: Mapping[str, Callable[[Shape, Shape, Shape], int]] = {  # of shapes of input, weights and output
    "Conv": lambda images, weight, output: prod(output) * prod(weight[1:]),
    "ConvTranspose": lambda images, weight, output: prod(images) * prod(weight[1:]),
    "Gemm": lambda images, weight, output: prod(output) * images[-1],
    "MatMul": lambda images, weight, output: prod(output) * images[-1],
}


def onnx_kernels(model: bytes | str | Path, optimize: Callable[[Path], object]) -> Kernels:
    """Of an ONNX graph, free sizes counted as 1.

    Args:
        optimize: Loads the model, and leaves the optimised graph at the path.
    """
    onnx = require("onnx", "onnx")
    given = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
    with tempfile.TemporaryDirectory() as folder:
        optimize(path := Path(folder) / "model.onnx")
        optimized = onnx.load(str(path)).graph
    constants = {tensor.name for tensor in optimized.initializer}
    # Layouts are changed by copies of nodes, which are named after them.
    in_int8 = {re.sub(r"_token_\d+$", "", node.name) for node in optimized.node if node.op_type in INT8_OPERATORS}
    infer = onnx.shape_inference.infer_shapes
    shapes = _shapes(infer(infer(given)).graph)  # nodes of quantizers come last, whatever their place is
    kernels = [
        _Kernel(MACS_OF_ONNX[node.op_type](*(shapes[name] for name in (*node.input[:2], *node.output))), *flags)
        for node in given.graph.node
        if node.op_type in MACS_OF_ONNX
        for flags in [(node.name in in_int8,) * 2]
    ]
    quantizing = [node.op_type == "QuantizeLinear" for node in optimized.node if _converts(node, constants)]
    return _sum([*kernels, *(_Kernel(0, not gives, gives) for gives in quantizing)])


def _converts(node: Any, constants: set[str]) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in constants


def _shapes(graph: Any) -> dict[str, list[int]]:
    values = (*graph.value_info, *graph.input, *graph.output)
    shapes = {value.name: [size.dim_value or 1 for size in value.type.tensor_type.shape.dim] for value in values}
    return shapes | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


# -- OpenVINO --------------------------------------------------------------------------------------------------------

MACS_OF_OPENVINO: Mapping[str, Callable[[Shape, Shape, Shape], int]] = {
    "Convolution": lambda images, weight, output: prod(output) * prod(weight) // output[1],
    "Deconvolution": lambda images, weight, output: prod(images) * prod(weight) // images[1],
    "FullyConnected": lambda images, weight, output: prod(output) * images[-1],
    "MatMul": lambda images, weight, output: prod(output) * images[-1],
}
NO_KERNELS = ("Input", "Output", "Const", "Parameter", "Result", "Constant")


def openvino_kernels(compiled: Any) -> Kernels:
    """Of a compiled model."""

    def kernel(node: Any) -> _Kernel:
        before = [port.get_source_output().get_node() for port in node.inputs()]
        precisions = [_said(each, "outputPrecisions") for each in before]
        gives, kind = _is_byte(_said(node, "outputPrecisions")), _said(node, "layerType")
        if kind not in MACS_OF_OPENVINO:
            return _Kernel(0, any(map(_is_byte, precisions[:1])), gives)
        shapes = [list(port.get_shape()) for port in (*node.inputs()[:2], node.output(0))]
        return _Kernel(MACS_OF_OPENVINO[kind](*shapes), _is_byte(_said(node, "runtimePrecision")), gives)

    nodes = compiled.get_runtime_model().get_ordered_ops()
    return _sum(kernel(node) for node in nodes if _said(node, "layerType") not in NO_KERNELS)


def _said(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str) if hasattr(info[key], "astype") else info[key]) if key in info else ""


def _is_byte(precision: str) -> bool:
    return precision.partition(",")[0] in ("i8", "u8")


# -- LiteRT ----------------------------------------------------------------------------------------------------------

# Of shapes in the order of the operator's inputs, and of its output.
MACS_OF_LITERT: Mapping[str, Callable[[Sequence[Shape], Shape], int]] = {
    "CONV_2D": lambda inputs, output: prod(output) * prod(inputs[1][1:]),
    "DEPTHWISE_CONV_2D": lambda inputs, output: prod(output) * prod(inputs[1][1:3]),
    "TRANSPOSE_CONV": lambda inputs, output: prod(inputs[2]) * prod(inputs[1][:3]),
    "FULLY_CONNECTED": lambda inputs, output: prod(output) * inputs[1][-1],
    "BATCH_MATMUL": lambda inputs, output: prod(output) * inputs[0][-1],
}


def litert_kernels(model: bytes) -> Kernels:
    """Of a ``.tflite`` file."""
    schema = require("ai_edge_litert.schema_py_generated", extra("litert"))
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    content = schema.ModelT.InitFromPackedBuf(model, 0)
    (graph,) = content.subgraphs

    def is_byte(index: int) -> bool:
        return graph.tensors[index].type in (schema.TensorType.INT8, schema.TensorType.UINT8)

    def kernel(operator: Any) -> _Kernel:
        kind = names[content.operatorCodes[operator.opcodeIndex].builtinCode]
        inputs, output = [index for index in operator.inputs if index >= 0], operator.outputs[0]
        if kind not in MACS_OF_LITERT:
            return _Kernel(0, is_byte(inputs[0]), is_byte(output))
        shapes = [list(map(int, graph.tensors[index].shape)) for index in (*inputs, output)]
        image = inputs[2] if kind == "TRANSPOSE_CONV" else inputs[0]
        return _Kernel(
            MACS_OF_LITERT[kind](shapes[:-1], shapes[-1]), is_byte(image), is_byte(output), is_byte(inputs[1])
        )

    return _sum(kernel(operator) for operator in graph.operators if len(operator.inputs))


# -- ExecuTorch ------------------------------------------------------------------------------------------------------

MACS_OF_XNNPACK: Mapping[str, Callable[[Shape, Shape, Shape], int]] = {
    "XNNConv2d": lambda images, weight, output: prod(output) * prod(weight[1:]),
    "XNNDepthwiseConv2d": lambda images, weight, output: prod(output) * prod(weight[1:3]),
    "XNNConvTranspose2d": lambda images, weight, output: prod(images) * prod(weight[:3]),
    "XNNFullyConnected": lambda images, weight, output: prod(output) * images[-1],
    "XNNBatchMatrixMultiply": lambda images, weight, output: prod(output) * images[-1],
}
XNNPACK_BYTES = ("xnn_datatype_qint8", "xnn_datatype_quint8", "xnn_datatype_qcint8")
MACS_OF_ATEN: Mapping[str, Callable[[Sequence[Shape]], int]] = {  # of shapes of arguments, the output's last
    "aten::convolution": lambda shapes: prod(shapes[-1]) * prod(shapes[1][1:]),
    "aten::linear": lambda shapes: prod(shapes[-1]) * shapes[0][-1],
    "aten::mm": lambda shapes: prod(shapes[-1]) * shapes[0][-1],
    "aten::bmm": lambda shapes: prod(shapes[-1]) * shapes[0][-1],
    "aten::addmm": lambda shapes: prod(shapes[-1]) * shapes[1][-1],
}


def executorch_kernels(model: bytes) -> Kernels:
    """Of a ``.pte`` program: what XNNPACK computes, and what is left to ExecuTorch's own kernels in floats."""
    programs = require("executorch.exir._serialize._program", extra("executorch"))
    program = programs.deserialize_pte_binary(model).program
    kernels: list[_Kernel] = []
    for delegated in program.backend_delegate_data:
        kernels += _xnnpack_kernels(bytes(delegated.data))
    for plan in program.execution_plan:
        for instruction in (each.instr_args for chain in plan.chains for each in chain.instructions):
            if not hasattr(instruction, "op_index"):
                continue
            kind = plan.operators[instruction.op_index].name
            values = [plan.values[index].val for index in instruction.args]
            shapes = [value.sizes for value in values if hasattr(value, "sizes")]
            if kind in MACS_OF_ATEN:
                kernels.append(_Kernel(MACS_OF_ATEN[kind](shapes), False, False))
            elif kind.startswith("quantized_decomposed::"):
                gives = "::quantize" in kind
                kernels.append(_Kernel(0, not gives, gives))
    return _sum(kernels)


def _xnnpack_kernels(blob: bytes) -> Iterable[_Kernel]:
    serialize = require("executorch.backends.xnnpack.serialization.xnnpack_graph_serialize", extra("executorch"))
    flatbuffers = require("executorch.exir._serialize._flatbuffer", extra("executorch"))
    header = serialize.XNNHeader.from_bytes(blob[: serialize.XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as folder:
        schema, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(serialize._get_schema_bytes())
        binary.write_bytes(blob[header.flatbuffer_offset :][: header.flatbuffer_size])
        flatbuffers._flatc_decompile(folder, str(schema), str(binary))
        text = Path(folder, "graph.json").read_text(encoding="utf-8")
    graph = json.loads(re.sub(r"(?<=: )(-?)(inf|nan)\b", '"\\1\\2"', text))  # what is no JSON: bounds of no clamp
    values = [each["xvalue_union"] for each in graph["xvalues"]]
    tensors = {tensor["id_out"]: tensor for tensor in (value.get("tensor_value", value) for value in values)}

    def is_byte(name: int) -> bool:
        return tensors[name]["datatype"] in XNNPACK_BYTES

    for node in graph["xnodes"]:
        kind, ids = node["xnode_union_type"], node["xnode_union"]
        if kind == "XNNScaledDotProductAttention":
            query, key = (tensors[ids[name]]["dims"] for name in ("query_id", "key_id"))
            yield _Kernel(2 * prod(query) * key[-2], False, False)
            continue
        inputs = [ids[key] for key in ("input1_id", "input_id") if key in ids]
        if "output_id" not in ids or not inputs:
            continue
        weight = ids.get("filter_id", ids.get("input2_id"))
        if kind not in MACS_OF_XNNPACK:
            yield _Kernel(0, is_byte(inputs[0]), is_byte(ids["output_id"]))
            continue
        shapes = [tensors[name]["dims"] for name in (inputs[0], weight, ids["output_id"])]
        yield _Kernel(MACS_OF_XNNPACK[kind](*shapes), is_byte(inputs[0]), is_byte(ids["output_id"]), is_byte(weight))
