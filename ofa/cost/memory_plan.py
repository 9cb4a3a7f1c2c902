"""How much memory the activations of a network need: a plan of what lies where, and when.

A board without memory to spare, or an engine that reserves its memory at once, puts all activations into one arena.
Two may share a place if they are never needed at the same time.

References:
    Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, arXiv:2001.03288, sec. 5.2 (greedy by
    size for offset calculation). Here activation functions and additions write over an input that nobody needs any
    more, as runtimes that fuse them do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

# Operators that may write their result over an input of the same size.
IN_PLACE = frozenset(
    (
        *(
            "Add",
            "BatchNormalization",
            "Cast",
            "Clip",
            "Div",
            "Elu",
            "Erf",
            "Flatten",
            "Gelu",
            "HardSigmoid",
            "HardSwish",
        ),
        *("Identity", "LeakyRelu", "Mul", "Neg", "PRelu", "Relu", "Reshape", "Sigmoid", "Softmax", "Sqrt", "Squeeze"),
        *("Sub", "Tanh", "Unsqueeze"),
    )
)


class MemoryPlanError(ValueError):
    """A graph whose tensors have no fixed sizes cannot be planned."""


@dataclass(frozen=True)
class Tensor:
    """Something that lies in memory from the ``first`` to the ``last`` step, both included."""

    name: str
    num_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class MemoryPlan:
    """Where each tensor begins.

    Args:
        offsets: In bytes, in the order of ``tensors``.
        arena_bytes: What has to be reserved.
        alive_bytes: What is needed in each step. No plan can do with less than the greatest of these.
    """

    tensors: Sequence[Tensor]
    offsets: Sequence[int]
    arena_bytes: int
    alive_bytes: Sequence[int]

    @property
    def lower_bound_bytes(self) -> int:
        return max(self.alive_bytes, default=0)


def plan_memory(tensors: Sequence[Tensor], *, alignment: int = 1) -> MemoryPlan:
    """Place tensors in one arena: one by one, each as low as those placed before it leave room.

    The largest first is the published order. The oldest first, or the youngest, is sometimes better, so that the best
    of the three is taken.

    Args:
        alignment: Each tensor begins at, and takes, a multiple of so many bytes.
    """
    sizes = [-(-tensor.num_bytes // alignment) * alignment for tensor in tensors]
    orders = [
        sorted(range(len(tensors)), key=lambda i: (-sizes[i], tensors[i].first)),
        sorted(range(len(tensors)), key=lambda i: (tensors[i].first, -sizes[i])),
        sorted(range(len(tensors)), key=lambda i: (-tensors[i].last, -sizes[i])),
    ]
    alive = [0] * (max((tensor.last for tensor in tensors), default=-1) + 1)
    for tensor, size in zip(tensors, sizes, strict=True):
        for step in range(tensor.first, tensor.last + 1):
            alive[step] += size

    def plan(order: Sequence[int]) -> MemoryPlan:
        offsets = _place(tensors, sizes, order)
        arena = max((offset + size for offset, size in zip(offsets, sizes, strict=True)), default=0)
        return MemoryPlan(tuple(tensors), tuple(offsets), arena, tuple(alive))

    return min(map(plan, orders), key=lambda plan: plan.arena_bytes)


def _place(tensors: Sequence[Tensor], sizes: Sequence[int], order: Sequence[int]) -> list[int]:
    """Offsets of tensors that are placed in an order."""
    offsets, placed = [0] * len(tensors), list[int]()
    for index in order:
        tensor = tensors[index]
        beside = [i for i in placed if tensors[i].first <= tensor.last and tensor.first <= tensors[i].last]
        offsets[index] = _lowest_gap(sorted((offsets[i], offsets[i] + sizes[i]) for i in beside), sizes[index])
        placed.append(index)
    return offsets


def _lowest_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Least offset from which ``size`` bytes are free of the ``taken`` ranges, which are sorted."""
    offset = 0
    for start, end in taken:
        if offset + size <= start:
            break
        offset = max(offset, end)
    return offset


def plan_onnx(model: ModelProto | bytes, *, bytes_per_element: int = 4, alignment: int = 1) -> MemoryPlan:
    """The plan of an ONNX graph's activations: input, output and all between; weights excluded.

    Args:
        bytes_per_element: 4 in fp32, 2 in fp16, 1 in INT8.

    Raises:
        MemoryPlanError: If a tensor has no fixed size.
    """
    import onnx

    model = onnx.load_from_string(model) if isinstance(model, bytes) else model
    graph = onnx.shape_inference.infer_shapes(_folded(model), data_prop=True).graph
    sizes = {name: num * bytes_per_element for name, num in _num_elements(graph).items()}
    return plan_memory(_lifetimes(graph, sizes), alignment=alignment)


def _folded(model: ModelProto) -> ModelProto:
    """Without what ONNX Runtime computes beforehand, shapes above all."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _num_elements(graph: GraphProto) -> dict[str, int]:
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = prod(dim.dim_value for dim in dims)
    return found


def _lifetimes(graph: GraphProto, sizes: dict[str, int]) -> list[Tensor]:
    """Input at step 0, then a step per node; whoever writes over an input takes its place on."""
    constants = {tensor.name for tensor in graph.initializer}
    last = {value.name: len(graph.node) for value in graph.output}
    for step, node in enumerate(graph.node, start=1):
        for name in node.input:
            last[name] = max(last.get(name, 0), step)
    place: dict[str, str] = {}  # tensor -> the one whose place it has taken over
    spans: dict[str, list[int]] = {}
    for value in graph.input:
        if value.name not in constants:
            spans[value.name] = [0, last.get(value.name, 0)]
    for step, node in enumerate(graph.node, start=1):
        inputs = [name for name in node.input if name and name not in constants]
        if node.op_type == "Constant" or not inputs:
            constants.update(node.output)
            continue
        for name in filter(None, node.output):
            if name not in sizes:
                raise MemoryPlanError(f"tensor {name!r} of {node.op_type} has no fixed size; export with a fixed batch")
            heir = next(
                (
                    given
                    for given in inputs
                    if node.op_type in IN_PLACE and last[given] == step and sizes.get(given) == sizes[name]
                ),
                None,
            )
            if heir is None:
                place[name] = name
                spans[name] = [step, last.get(name, step)]
            else:
                place[name] = place.get(heir, heir)
                spans[place[name]][1] = last.get(name, step)
    return [Tensor(name, sizes[name], first, end) for name, (first, end) in spans.items()]
