"""ONNX graphs that take their weights from one common file, and what such graphs have in common.

A weight of a subnet is written as the supernet's tensor (external data), a ``Slice`` of it, and a ``Mul`` by the factor
that batch normalisation folds into each output channel. Any ONNX Runtime computes these constants when it loads the
graph, so that what runs is what runs of a self-contained file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from ofa.deploy.elastic_format import REMEDY, WEIGHTS, ElasticError, Floats
from ofa.deploy.foreign_graph import disorder, external_tensors, messages
from ofa.errors import shown

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

Runs = tuple[tuple[tuple[int, int], ...], ...]
"""For each axis the runs of indices that are kept, as ``(start, length)``."""

MIN_SHARED_BYTES = 1024
"""Smaller constants stay in the graph; shapes, which are read when a graph is loaded, have to."""
MIN_TAIL_BYTES = 1 << 20
"""Weights that make it worth running the end of the networks as a session of its own, with a call of its own."""
MAX_RELATIVE_ERROR = 1e-6


@dataclass(frozen=True)
class Weight:
    """A parameter of a subnet, and where it lies in the weights file.

    Args:
        key: Name of the tensor in the file.
        runs: What of that tensor it is.
        values: The same numbers.
    """

    key: str
    runs: Runs
    values: Floats


@dataclass(frozen=True)
class Reference:
    """A constant of a graph as part of a stored tensor, ``(O, ...)``, times a factor per first index."""

    key: str
    runs: Runs
    transposed: bool = False
    scale: Floats | None = None


@dataclass(frozen=True)
class Stored:
    """Where a float32 tensor lies in the weights file."""

    shape: tuple[int, ...]
    offset: int
    num_bytes: int


# -- writing ---------------------------------------------------------------------------------------------------------


def find_references(model: ModelProto, weights: Mapping[str, Weight]) -> tuple[dict[str, Reference], dict[str, Floats]]:
    """What of a graph's large constants is a parameter of the subnet: as it is, transposed, or scaled per channel.

    Args:
        weights: The subnet's parameters by name. An exporter that folds batch normalisation into a weight keeps its
            name; one that transposes it does not, so that it is known by its values.

    Returns:
        References by the constant's name; and the constants that are something else. Vectors are left alone: those of
        folded batch normalisation are the subnet's own.
    """
    from onnx import numpy_helper

    by_values: dict[tuple[tuple[int, ...], bytes], Reference] = {}
    for weight in weights.values():
        if weight.values.nbytes >= MIN_SHARED_BYTES:
            if weight.values.ndim == 2:
                by_values.setdefault(_digest(weight.values.T), Reference(weight.key, weight.runs, transposed=True))
            by_values[_digest(weight.values)] = Reference(weight.key, weight.runs)
    references: dict[str, Reference] = {}
    others: dict[str, Floats] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type != tensor.FLOAT or 4 * math.prod(tensor.dims) < MIN_SHARED_BYTES:
            continue
        array = numpy_helper.to_array(tensor)
        if (known := by_values.get(_digest(array))) is not None:
            references[tensor.name] = known
        elif (named := weights.get(tensor.name)) is not None and (scale := _scale(named.values, array)) is not None:
            references[tensor.name] = Reference(named.key, named.runs, scale=scale)
        elif array.ndim > 1:
            others[tensor.name] = array
    return references, others


def _digest(array: Floats) -> tuple[tuple[int, ...], bytes]:
    return array.shape, sha256(np.ascontiguousarray(array).tobytes()).digest()


def _scale(values: Floats, array: Floats) -> Floats | None:
    """Factor per output channel that makes ``array`` of ``values``; ``None`` if there is none."""
    if values.shape != array.shape or values.ndim < 2:
        return None
    x, y = (each.reshape(len(each), -1).astype(np.float64) for each in (values, array))
    squares = (x * x).sum(axis=1)
    factors = np.divide((x * y).sum(axis=1), squares, out=np.ones(len(x)), where=squares > 0)
    scale = factors.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    errors = np.abs(values * scale - array)
    return scale if (errors <= MAX_RELATIVE_ERROR * np.abs(array) + np.finfo(np.float32).tiny).all() else None


def refer_to_weights(model: ModelProto, references: Mapping[str, Reference], stored: Mapping[str, Stored]) -> None:
    """Take the constants that ``references`` names from the weights file, in place."""
    graph = model.graph
    own = [tensor for tensor in graph.initializer if tensor.name not in references]
    constants: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    for name, reference in references.items():
        more_nodes, more_constants = _expression(name, reference, stored[reference.key])
        nodes += more_nodes
        constants |= {tensor.name: tensor for tensor in more_constants}
    computing = list(graph.node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend([*nodes, *computing])
    graph.initializer.extend([*own, *constants.values()])


def _expression(name: str, reference: Reference, stored: Stored) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes whose last output is ``name``, and the constants that they read."""
    from onnx import helper, numpy_helper

    steps: list[tuple[str, list[Floats | npt.NDArray[np.int64]], dict[str, Any]]] = []
    narrowed = {
        axis: runs
        for axis, (runs, size) in enumerate(zip(reference.runs, stored.shape, strict=True))
        if runs != ((0, size),)
    }
    single = {axis: runs[0] for axis, runs in narrowed.items() if len(runs) == 1}
    if single:
        starts, ends = [first for first, _ in single.values()], [sum(run) for run in single.values()]
        steps.append(("Slice", [np.array(each, dtype=np.int64) for each in (starts, ends, list(single))], {}))
    for axis, runs in narrowed.items():
        if axis not in single:
            indices = np.concatenate([np.arange(first, first + length) for first, length in runs])
            steps.append(("Gather", [indices.astype(np.int64)], {"axis": axis}))
    if reference.transposed:
        steps.append(("Transpose", [], {"perm": [1, 0]}))
    if reference.scale is not None:
        steps.append(("Mul", [reference.scale], {}))
    whole = f"weights/{reference.key}" if steps else name
    constants, nodes, value = [_external(whole, stored)], [], whole
    for number, (operator, inputs, attributes) in enumerate(steps):
        names = [f"{name}/{operator}/{position}" for position in range(len(inputs))]
        constants += [numpy_helper.from_array(each, label) for each, label in zip(inputs, names, strict=True)]
        output = name if number == len(steps) - 1 else f"{name}/{operator}"
        nodes.append(helper.make_node(operator, [value, *names], [output], **attributes))
        value = output
    return nodes, constants


def _external(name: str, stored: Stored) -> TensorProto:
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=stored.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", WEIGHTS), ("offset", stored.offset), ("length", stored.num_bytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


# -- reading ---------------------------------------------------------------------------------------------------------


def parse_graph(data: bytes, *, weights_bytes: int, where: str) -> ModelProto:
    """A graph that is in order, reads nothing but the weights file, within its bounds, and has ONNX's own operators.

    Raises:
        ElasticError: If it is something else.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ElasticError(f"{where} is not a valid ONNX graph ({error}); {REMEDY}") from None
    nodes = [each for each in messages(model) if isinstance(each, onnx.NodeProto)]
    if model.functions or any(node.domain not in ("", "ai.onnx") for node in nodes):
        raise ElasticError(f"{where} uses operators that are not ONNX's own; {REMEDY}")
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise ElasticError(f"{where} must have one input and one output; {REMEDY}")
    for tensor in external_tensors(model):
        if not _lies_within(tensor, weights_bytes):
            raise ElasticError(
                f"{where}: constant {shown(tensor.name)} is not taken from {WEIGHTS} as it should; {REMEDY}"
            )
    if problem := disorder(model):
        raise ElasticError(f"{where}: {problem}; {REMEDY}")
    return model


def _lies_within(tensor: TensorProto, weights_bytes: int) -> bool:
    place = {entry.key: entry.value for entry in tensor.external_data}
    if (
        set(place) != {"location", "offset", "length"}
        or place["location"] != WEIGHTS
        or tensor.data_type != tensor.FLOAT
    ):
        return False
    if not all(place[key].isascii() and place[key].isdigit() and len(place[key]) < 20 for key in ("offset", "length")):
        return False
    offset, length = int(place["offset"]), int(place["length"])
    return (
        all(size > 0 for size in tensor.dims)
        and length == 4 * math.prod(tensor.dims)
        and (offset + length <= weights_bytes)
    )


# -- what graphs have in common --------------------------------------------------------------------------------------


def common_tail(models: Sequence[ModelProto]) -> int:
    """How many nodes at the end all graphs have in common, weights included, and can be parted from the rest.

    In networks whose last layers have no batch normalisation (MobileNetV3's) these hold a third of the weights. They
    begin with a node that reads weights, and take one value from the rest.

    Returns:
        0 if there is no such end, if its weights are less than :data:`MIN_TAIL_BYTES`, or if there is one graph only.
    """
    graphs = [_Tail(model.graph) for model in models]
    first, longest = graphs[0], 0
    for length in range(1, min(len(each.nodes) for each in graphs) if len(graphs) > 1 else 0):
        described = first.describe(length)
        if any(each.describe(length) != described for each in graphs[1:]):
            break
        begins_with_weights = any(size >= MIN_SHARED_BYTES for size in first.weights_bytes([first.nodes[length - 1]]))
        if begins_with_weights and all(len(each.entering(length)) == 1 for each in graphs):
            longest = length
    return longest if longest and sum(first.weights_bytes(first.nodes[:longest])) >= MIN_TAIL_BYTES else 0


def split(model: ModelProto, tail_length: int) -> tuple[ModelProto, ModelProto]:
    """A graph as two: all but the last nodes, and these, which take what the others give."""
    import onnx

    (cut,) = _Tail(model.graph).entering(tail_length)
    (images,), (logits,) = model.graph.input, model.graph.output
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))  # it wants to know each type
    return extractor.extract_model([images.name], [cut]), extractor.extract_model([cut], [logits.name])


class _Tail:
    """The end of a graph, described so that two that compute the same of the same weights are equal."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes = list(reversed(graph.node))
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._made_at = {
            name: (number, position)
            for number, node in enumerate(self.nodes)
            for position, name in enumerate(node.output)
        }

    def describe(self, length: int) -> object:
        """The node that is so far from the end."""
        node = self.nodes[length - 1]
        inputs = [self._source(name) for name in node.input]
        is_last = [name in self._outputs for name in node.output]
        # A subgraph may read anything: none is taken for equal.
        inner = [object() for attribute in node.attribute if attribute.HasField("g") or attribute.graphs]
        return node.op_type, [attribute.SerializeToString() for attribute in node.attribute], inputs, is_last, inner

    def _source(self, name: str) -> object:
        """Where a value comes from: a constant, whatever it is called, or a node so far from the end."""
        if (tensor := self._constants.get(name)) is None:
            return self._made_at.get(name)
        nameless = type(tensor)()
        nameless.CopyFrom(tensor)
        nameless.name = ""
        return nameless.SerializeToString(deterministic=True)

    def entering(self, length: int) -> set[str]:
        """Values that the last nodes take from the others, or from outside."""
        tail = self.nodes[:length]
        made = {name for node in tail for name in node.output}
        return {name for node in tail for name in node.input if name} - made - set(self._constants)

    def weights_bytes(self, nodes: Sequence[NodeProto]) -> list[int]:
        """Of each constant that nodes read."""
        names = {name for node in nodes for name in node.input}
        return [4 * math.prod(tensor.dims) for name, tensor in self._constants.items() if name in names]
