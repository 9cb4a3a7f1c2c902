"""How much memory the activations of a network need: a plan of what lies where, and when.

A board without memory to spare, or an engine that reserves its memory at once, puts all activations into one arena.
Two of them may share a place if they are never needed at the same time. :func:`ofa.cost.peak_activation_bytes` predicts
the size of the arena for every subnet of a supernet, without an export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Operators by what they do to memory; all others write a new tensor and need their operands until it is there.
VIEWS = {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
ELEMENTWISE = {
    *("Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Cos", "DequantizeLinear", "Div", "Elu"),
    *("Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "Log", "Max"),
    *("Min", "Mish", "Mul", "Neg", "Not", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu"),
    *("Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Swish", "Tanh", "Where"),
}
MAX_REPAIRS = 100
MAX_CONSTANT = 1024  # elements of what may be a shape or a scale; larger ones are weights


class MemoryPlanError(ValueError):
    """A graph whose tensors have no fixed sizes cannot be planned."""


@dataclass(frozen=True)
class Tensor:
    """What lies in memory from the ``first`` to the ``last`` step, both included."""

    name: str
    num_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class MemoryPlan:
    """Where each tensor lies.

    Args:
        offsets: In bytes, in the order of ``tensors``.
        arena_bytes: What has to be reserved.
        alive_bytes: What is needed in each step.
    """

    tensors: tuple[Tensor, ...]
    offsets: tuple[int, ...]
    arena_bytes: int
    alive_bytes: tuple[int, ...]

    @property
    def lower_bound_bytes(self) -> int:
        """What is needed in the neediest step; no plan can do with less."""
        return max(self.alive_bytes, default=0)


def plan_memory(tensors: Sequence[Tensor], *, alignment: int = 1) -> MemoryPlan:
    """Place tensors in one arena: the largest first, each as low as those placed before it leave room.

    Args:
        alignment: Each tensor begins at, and takes, a multiple of so many bytes.

    References:
        Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, arXiv:2001.03288, sec. 5.2 (greedy
        by size for offset calculation). Here, while the arena is larger than the lower bound, all are placed again, the
        tensor that stuck out (the last of them) before the others, a hundred times at most; the best plan is taken.
    """
    sizes = [-(-tensor.num_bytes // alignment) * alignment for tensor in tensors]
    alive = [0] * (max((tensor.last for tensor in tensors), default=-1) + 1)
    for tensor, size in zip(tensors, sizes, strict=True):
        for step in range(tensor.first, tensor.last + 1):
            alive[step] += size
    order = sorted(range(len(tensors)), key=lambda index: -sizes[index])
    best: MemoryPlan | None = None
    for _ in range(1 + MAX_REPAIRS):
        offsets = _place(tensors, sizes, order)
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        if best is None or max(ends, default=0) < best.arena_bytes:
            best = MemoryPlan(tuple(tensors), tuple(offsets), max(ends, default=0), tuple(alive))
        if best.arena_bytes == best.lower_bound_bytes:
            break
        stuck_out = max(range(len(ends)), key=lambda index: (ends[index], index))
        order.insert(0, order.pop(order.index(stuck_out)))
    assert best is not None
    return best


def _place(tensors: Sequence[Tensor], sizes: Sequence[int], order: Sequence[int]) -> list[int]:
    """Offsets of tensors that are placed in an order."""
    offsets, placed = [0] * len(tensors), list[int]()
    for index in order:
        tensor = tensors[index]
        beside = [i for i in placed if tensors[i].first <= tensor.last and tensor.first <= tensors[i].last]
        for start, size in sorted((offsets[i], sizes[i]) for i in beside):
            if offsets[index] + sizes[index] <= start:
                break
            offsets[index] = max(offsets[index], start + size)
        placed.append(index)
    return offsets


def plan_onnx(model: ModelProto | bytes, *, bytes_per_element: int = 4, alignment: int = 1) -> MemoryPlan:
    """The plan of an ONNX graph's activations: the input, the output and all between; weights excluded.

    Step 0 makes the input, each further step is a node. An elementwise operator writes over an operand that nobody
    needs any more. If only elementwise operators read its result, it writes nothing: they compute it, as runtimes do
    that fuse normalisations, activations and gates into what they follow.

    Args:
        bytes_per_element: 4 in fp32, 2 in fp16, 1 in INT8.
        alignment: See :func:`plan_memory`.

    Raises:
        MemoryPlanError: If a tensor has no fixed size.
    """
    import onnx

    model = onnx.load_from_string(model) if isinstance(model, bytes) else model
    graph, sizes = _resolved(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    num_bytes = {name: size * bytes_per_element for name, size in sizes.items()}
    return plan_memory(_lifetimes(graph, weights, num_bytes), alignment=alignment)


def _resolved(model: ModelProto) -> tuple[GraphProto, dict[str, int]]:
    """The graph without what is computed from constants and shapes alone, and how many elements its tensors have."""
    import onnx

    graph = onnx.GraphProto(name="light")
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    given = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= MAX_CONSTANT:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    while True:  # each time there are fewer nodes
        del graph.value_info[:]  # what was not known the time before
        light = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
        shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.HasField("shape")
            and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
        }
        if not _fold(graph, shapes, opsets):
            return graph, {name: prod(shape) for name, shape in shapes.items()}


def _fold(graph: GraphProto, shapes: Mapping[str, tuple[int, ...]], opsets: dict[str, int]) -> bool:
    """Compute, in place, what needs no activation; shape inference does not follow all of it. Whether there was any."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        needed = {name: values[name] for name in node.input if name in values}
        if node.op_type == "Shape" and node.input[0] in shapes:
            needed = {node.input[0]: np.broadcast_to(np.float32(0), shapes[node.input[0]])}
        if len(needed) < len({*node.input} - {""}):
            graph.node.append(node)
            continue
        for name, value in zip(node.output, ReferenceEvaluator(node, opsets=opsets).run(None, needed), strict=True):
            values[name] = np.asarray(value)
            graph.initializer.append(onnx.numpy_helper.from_array(values[name], name))
    return len(graph.node) < len(nodes)


def _lifetimes(graph: GraphProto, weights: set[str], sizes: Mapping[str, int]) -> list[Tensor]:
    """What lies in memory; a tensor that takes over another one's place prolongs its life."""
    constants = {"", *weights, *(tensor.name for tensor in graph.initializer)}
    steps: list[NodeProto] = []
    for node in graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
        else:
            steps.append(node)
    inputs = [value.name for value in graph.input if value.name not in constants]
    results = {value.name for value in graph.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in steps:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    holder = {name: name for name in inputs}  # the tensor that is in memory where this one is read
    last = dict.fromkeys(inputs, 0)
    for step, node in enumerate(steps, start=1):
        read = {holder[name] for name in node.input if name not in constants}
        last.update(dict.fromkeys(read, step))
        for name in filter(None, node.output):
            if name not in sizes:
                raise MemoryPlanError(f"tensor {name!r} of {node.op_type} has no fixed size; export with a fixed batch")
            alike = [other for other in read if sizes[other] == sizes[name]]
            is_read_elementwise = name in readers and all(r.op_type in ELEMENTWISE for r in readers[name])
            is_fused = node.op_type in ELEMENTWISE and is_read_elementwise and name not in results
            is_held = (node.op_type in VIEWS or is_fused) and len(alike) == 1
            holder[name] = alike[0] if is_held else name
            last[holder[name]] = step
    last.update((holder[name], len(steps)) for name in results if name in holder)

    place = {name: name for name in inputs}  # the tensor whose memory this one has taken over
    spans = {name: (0, last[name]) for name in inputs}
    for step, node in enumerate(steps, start=1):
        for name in filter(None, node.output):
            if holder[name] == name:
                given = [holder[other] for other in node.input if other not in constants]
                heirlooms = (other for other in given if last[other] == step and sizes[other] == sizes[name])
                heirloom = next(heirlooms, None) if node.op_type in ELEMENTWISE else None
                place[name] = name if heirloom is None else place[heirloom]
                first, _ = spans.get(place[name], (step, step))
                spans[place[name]] = first, last[name]
    return [Tensor(name, sizes[name], first, end) for name, (first, end) in spans.items()]
