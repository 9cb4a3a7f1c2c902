"""What is found out of a network from anybody before a runtime, or anything of ours, walks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

from google.protobuf.message import DecodeError, Message

from ofa.errors import shown

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

IR_ROOT = "net"


def problem_of(file: Path) -> str:
    """Why a file is not given to a runtime; empty if it is in order and names no file but an IR's own weights.

    Formats besides ONNX and OpenVINO's IR have no such references.
    """
    return _problem_of_onnx(file) if file.suffix == ".onnx" else _problem_of_ir(file) if file.suffix == ".xml" else ""


def _problem_of_onnx(file: Path) -> str:
    import onnx

    try:
        model = onnx.load(file, load_external_data=False)
    except DecodeError as error:
        return f"{file.name} is not a valid ONNX model: {error}"
    for tensor in external_tensors(model):
        return f"{file.name} takes weight {shown(tensor.name)} from another file"
    problem = disorder(model, in_order=False)
    return f"{file.name}: {problem}" if problem else ""


def external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors that are taken from other files: those of attributes, branches and functions too."""
    from onnx import TensorProto

    for each in messages(model):
        if isinstance(each, TensorProto) and (each.data_location == TensorProto.EXTERNAL or each.external_data):
            yield each


def messages(message: Message) -> Iterator[Message]:
    """All that a model is made of, at any depth."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from messages(inner)


def disorder(model: ModelProto, *, in_order: bool = True) -> str:
    """Where a node reads what is not made before it, or makes what is there already; empty if none does.

    Such graphs may run in circles, and those who walk them without end.

    Args:
        in_order: As ONNX asks for; otherwise nodes may stand in another order, as ONNX Runtime's quantizer leaves them.
    """
    graphs = _disorder_of_graph(model.graph, set(), in_order)
    functions = (_disorder_of_nodes(each.node, set(each.input), in_order) for each in model.functions)
    return graphs or next(filter(None, functions), "")


def _disorder_of_graph(graph: GraphProto, around: set[str], in_order: bool) -> str:
    constants = [each.name for each in graph.initializer] + [each.values.name for each in graph.sparse_initializer]
    if len(set(constants)) < len(constants):
        return "two of its constants have one name"
    new = {*constants, *(each.name for each in graph.input)} - around
    around |= new
    found = _disorder_of_nodes(graph.node, around, in_order)
    around -= new
    return found


def _disorder_of_nodes(nodes: Sequence[NodeProto], known: set[str], in_order: bool) -> str:
    """Args: ``known``: What can be read; the same again afterwards, so that no branch costs a copy of it."""
    made: set[str] = set()
    for node in nodes if in_order else _ordered(nodes):
        for name in node.input:
            if name and name not in known:
                return f"a node {shown(node.op_type)} reads {shown(name)}, which nothing before it makes"
        for graph in _branches(node):
            if found := _disorder_of_graph(graph, known, in_order):
                return found
        for name in filter(None, node.output):
            if name in known:
                return f"a node {shown(node.op_type)} makes {shown(name)}, which is there already"
            known.add(name)
            made.add(name)
    known -= made
    return ""


def _ordered(nodes: Sequence[NodeProto]) -> Sequence[NodeProto]:
    """Each after those that make what it reads; as they are if they run in a circle."""
    makers = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    needed = {number: {makers[name] for name in _reads(node) if name in makers} for number, node in enumerate(nodes)}
    try:
        return [nodes[number] for number in TopologicalSorter(needed).static_order()]
    except CycleError:
        return nodes


def _reads(node: NodeProto) -> Iterator[str]:
    """What a node reads, and what its branches may read of what is around them."""
    yield from node.input
    for graph in _branches(node):
        for inner in graph.node:
            yield from _reads(inner)


def _branches(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else []
        yield from attribute.graphs


def _problem_of_ir(file: Path) -> str:
    """An IR is XML without definitions, which could name files; its weights lie in the ``.bin`` of its own name."""
    parser = expat.ParserCreate()
    opened: list[str] = []
    definitions: list[str] = []
    parser.StartDoctypeDeclHandler = lambda name, *_: definitions.append(name)
    parser.StartElementHandler = lambda name, _: None if opened else opened.append(name)
    try:
        with file.open("rb") as stream:
            parser.ParseFile(stream)
    except expat.ExpatError as error:
        return f"{file.name} is not a valid OpenVINO IR: {error}"
    if definitions:
        return f"{file.name} has a document type definition, which could name other files"
    return "" if opened == [IR_ROOT] else f"{file.name} is not an OpenVINO IR: it begins with {shown(opened[0])}"
