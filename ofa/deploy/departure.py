"""Which layer departs first where an exported network does not compute what torch computes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from ofa.errors import UsageError
from ofa.nn.structure import clone_structure

Run = Callable[[nn.Module, Tensor], npt.NDArray[np.floating]]
"""Exports a module and runs the result: of a module in eval mode and images ``(N, C, H, W)``, its output for them."""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """Where an exported network departs.

    Args:
        layer: Path of a module and its operator, such as ``blocks.2.1.conv_dw (conv2d)``. ``None`` if the network
            departs as it is, but not once torch.export has made a graph of it: then look at what the exporter does to
            modules before that, or to layers together.
        difference: Largest absolute difference of the output of this layer; infinite if its shape differs.
        limit: What was allowed, a share of the largest absolute value of that output.
        input_share: The same difference over its limit for the worst input of this layer, at most 1. Near 0 the layer
            itself departs; near 1 rounding has grown from layer to layer, and this one is the first beyond the limit.
        num_exports: How often something was exported.
    """

    layer: str | None
    difference: float
    limit: float
    input_share: float
    num_exports: int

    def __str__(self) -> str:
        amount = f"departs by {self.difference:.3g}, where {self.limit:.3g} is allowed"
        if self.layer is None:
            return f"the network {amount}, but not as a graph of operators"
        return f"{self.layer} {amount}; its inputs depart by {self.input_share:.2g} of what they may"


def first_departure(
    module: nn.Module, images: Tensor, run: Run, *, tolerance: float, dynamic_batch: bool = False
) -> Departure | None:
    """Find a layer whose output departs although its inputs do not, by exporting the network cut behind a layer.

    The cut is bisected: a network of 150 operators takes about ten exports. Where a fault shows in a layer, then fades,
    then shows again, the layer found may be the later one.

    Args:
        module: In eval mode, on the CPU, one that ``torch.export`` can take apart. It is left as it is.
        images: Real ones, ``(N, C, H, W)``.
        run: Exports what it is given and runs it on the images. Modules that it gets take one image, and outputs are
            concatenated along their first axis, whatever that is; with ``dynamic_batch`` they take all images at once.
        tolerance: Allowed difference as a share of the largest absolute value of what is compared.

    Returns:
        ``None`` if the network's output agrees.

    Raises:
        ValueError: If the module is in training mode or there are no images.
    """
    if module.training:
        raise UsageError("the module is in training mode; call .eval() before its layers are compared")
    if len(images) == 0:
        raise UsageError("there are no images to compare layers on; give one at least")

    def probe(network: nn.Module) -> tuple[float, float]:
        return _difference(_reference(network, images, dynamic_batch), run(network, images), tolerance)

    difference, limit = probe(clone_structure(module))  # exporters may leave traces in the caches of a module
    if difference <= limit:
        return None
    graph_module = _take_apart(clone_structure(module), images, dynamic_batch)
    nodes = _candidates(graph_module.graph)
    place = {node: index for index, node in enumerate(nodes)}
    probes: dict[int, tuple[float, float]] = {}

    def departs(index: int) -> bool:
        if index not in probes:
            probes[index] = probe(_Prefix(graph_module, nodes[index]))
        return not probes[index][0] <= probes[index][1]  # a NaN departs

    bad = len(nodes) - 1
    if not departs(bad):
        return Departure(layer=None, difference=difference, limit=limit, input_share=0, num_exports=2)
    while True:
        good = max((index for index in probes if index < bad and not departs(index)), default=-1)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (good, middle) if departs(middle) else (middle, bad)
        inputs = {place[node] for node in _inputs(nodes[bad], place)}
        # The neighbour that agrees may be of another branch.
        departing = [index for index in sorted(inputs) if departs(index)]
        if not departing:
            break
        bad = departing[0]
    return Departure(
        layer=_layer_names(nodes)[bad],
        difference=probes[bad][0],
        limit=probes[bad][1],
        input_share=max((probes[index][0] / probes[index][1] for index in inputs if probes[index][0] > 0), default=0.0),
        num_exports=1 + len(probes),
    )


def _take_apart(module: nn.Module, images: Tensor, dynamic_batch: bool) -> fx.GraphModule:
    with torch.no_grad(), warnings.catch_warnings():  # as it is exported
        # Of tensors that the module keeps for the next call: it is ours, and makes none.
        warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)
        if dynamic_batch:
            two = images[[0, -1]]  # what varies must not be 1 here: it would be taken for a constant
            program = torch.export.export(module, (two,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        else:
            program = torch.export.export(module, (images[:1],))
        made = program.module()
    assert isinstance(made, fx.GraphModule)
    return made


class _Prefix(nn.Module):
    """A graph of torch.export up to one of its nodes, whose value is the output.

    Shape:
        - images: as the graph takes them
        - output: that of the node

    An ordinary module with the tensors that it needs, and no ``fx.GraphModule``: those of torch.export refuse to be put
    into eval mode, and lose their code when they are cloned.
    """

    def __init__(self, graph_module: fx.GraphModule, last: fx.Node) -> None:
        super().__init__()
        self._graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in graph_module.graph.nodes:
            if node.op == "call_module":  # checks shapes
                continue
            copy = copies[node] = self._graph.node_copy(node, copies.__getitem__)
            if node.op == "get_attr":
                value = _attribute(graph_module, node.target)
                copy.target = f"tensor{len(copies)}"
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    self.register_buffer(copy.target, value)
                else:
                    setattr(self, copy.target, value)
            copy.meta = {}
            if node is last:
                break
        self._graph.output(copies[last])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = fx.Interpreter(self, graph=self._graph).run(images)
        return output


def _attribute(module: nn.Module, path: str) -> object:
    value: object = module
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _candidates(graph: fx.Graph) -> list[fx.Node]:
    """Nodes that can be compared: they give a tensor of floats that depends on the images."""
    depends: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or depends.intersection(node.all_input_nodes):
            depends.add(node)
    return [node for node in graph.nodes if node in depends and node.op == "call_function" and _is_float_tensor(node)]


def _is_float_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _inputs(node: fx.Node, comparable: dict[fx.Node, int]) -> Iterator[fx.Node]:
    """The nearest nodes before it that can be compared."""
    for before in node.all_input_nodes:
        if before in comparable:
            yield before
        else:
            yield from _inputs(before, comparable)


def _layer_names(nodes: list[fx.Node]) -> list[str]:
    """Module and operator; numbered where a module applies an operator several times."""
    pairs = [(_module_path(node), _operator(node)) for node in nodes]
    total, seen, names = Counter(pairs), Counter[tuple[str, str]](), []
    for pair in pairs:
        seen[pair] += 1
        path, operator = pair
        number = f", {seen[pair]} of {total[pair]}" if total[pair] > 1 else ""
        names.append(f"{path or 'the network itself'} ({operator}{number})")
    return names


def _module_path(node: fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def _operator(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target)).partition(".")[0].rstrip("_")
    if name == "getitem" and node.all_input_nodes:  # one of several tensors that an operator gives
        return _operator(node.all_input_nodes[0])
    return name


@torch.no_grad()
def _reference(network: nn.Module, images: Tensor, dynamic_batch: bool) -> npt.NDArray[np.floating]:
    outputs = [network(images)] if dynamic_batch else [network(image[None]) for image in images]
    array: npt.NDArray[np.floating] = torch.cat(outputs).float().numpy()
    return array


def _difference(
    expected: npt.NDArray[np.floating], found: npt.NDArray[np.floating], tolerance: float
) -> tuple[float, float]:
    """Largest absolute difference, and what is allowed."""
    finite = expected[np.isfinite(expected)]
    limit = tolerance * float(np.abs(finite).max(initial=0))
    if expected.shape != found.shape:
        return float("inf"), limit
    with np.errstate(invalid="ignore"):  # of two infinities
        difference = np.where(expected == found, 0, np.abs(expected - found))
    return float(difference.max(initial=0)), limit
