"""INT8 for ExecuTorch: torch's own graph with pairs of quantize and dequantize nodes (PT2E), for XNNPACK's kernels."""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from ofa.formats.calibration import RANGE_FOR_TIMING, Ranges, check_known, checked
from ofa.formats.executorch import EXTRA, export_executorch
from ofa.optional import require

if TYPE_CHECKING:
    from torchao.quantization.pt2e.quantizer import Quantizer

ATEN = torch.ops.aten
QUANTIZED_OPERATORS = (ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv_transpose2d.input, ATEN.linear.default)
"""What XNNPACK computes in INT8 and has weights; sums, products and pools between them are quantized too."""

CLAMPS = (ATEN.hardtanh.default, ATEN.hardtanh_.default)  # ReLU6
LEAST_SCALE = 2**-12


def exported_graph(module: nn.Module, *inputs: Tensor) -> GraphModule:
    """The graph that is quantized; nodes of the same module have the same names each time.

    Args:
        module: In eval mode, batch normalisation folded.
    """
    graph: GraphModule = torch.export.export(module, inputs, strict=False).module()
    return graph


def export_executorch_int8(module: nn.Module, *inputs: Tensor) -> bytes:
    """A ``.pte`` program to be timed: see :func:`quantize_graph`, without ranges."""
    return export_executorch(quantize_graph(exported_graph(module, *inputs)), *inputs)


def quantizable_nodes(graph: GraphModule) -> list[str]:
    """Names of the convolutions and products that can be in INT8."""
    return [node.name for node in graph.graph.nodes if node.target in QUANTIZED_OPERATORS]


def graph_ranges(graph: GraphModule, batches: Iterable[Tensor]) -> Ranges:
    """Least and greatest value that each node gives over calibration images, on one thread.

    Args:
        graph: See :func:`exported_graph`.
        batches: Normalised images of the shape of its input.

    Raises:
        UsageError, QuantizationError: See :func:`~ofa.formats.calibration.checked`.
    """
    observed = _Observed(graph)
    with torch.inference_mode():
        for images in batches:
            observed.run(images)
    return checked(observed.ranges)


class _Observed(Interpreter):
    """Runs a graph and keeps the range of each node."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.ranges: dict[str, tuple[float, float]] = {}

    def run_node(self, n: Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor) and found.is_floating_point() and n.op != "get_attr":
            low, high = (value.item() for value in found.aminmax())
            before = self.ranges.get(n.name, (low, high))
            self.ranges[n.name] = min(low, before[0]), max(high, before[1])
        return found


def quantize_graph(
    graph: GraphModule, ranges: Ranges | None = None, *, float_nodes: Collection[str] = ()
) -> GraphModule:
    """The graph in INT8: weights per channel and symmetric, activations signed, of one scale a tensor.

    Args:
        graph: See :func:`exported_graph`; it is left as it is.
        ranges: See :func:`graph_ranges`; without them all tensors get the same range, which gives a program that is as
            fast as the real one and computes nonsense.
        float_nodes: Names of nodes that stay in floating point, and with them the sums and pools that they feed.

    Raises:
        QuantizationError: If there is no such node.
        NotInstalledError: If ExecuTorch is not there.
    """
    steps = require("torchao.quantization.pt2e.quantize_pt2e", EXTRA)
    observers = require("torchao.quantization.pt2e.observer", EXTRA)
    check_known(float_nodes, {node.name for node in graph.graph.nodes})
    prepared: GraphModule = steps.prepare_pt2e(copy.deepcopy(graph), _quantizer(_with_followers(graph, float_nodes)))
    for node in prepared.graph.nodes:
        observer = prepared.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(observer, observers.ObserverBase):
            continue
        source = node.args[0]
        if source.op == "get_attr":  # weights, and numbers that are added or multiplied by
            observer(functools.reduce(getattr, source.target.split("."), prepared))
        else:
            low, high = RANGE_FOR_TIMING if ranges is None else ranges[source.name]
            observer(torch.tensor([low, high]))
    converted: GraphModule = steps.convert_pt2e(prepared)
    return converted


def _with_followers(graph: GraphModule, float_nodes: Collection[str]) -> frozenset[str]:
    """These nodes, and what has no weights behind them."""
    found = set(float_nodes)
    for node in graph.graph.nodes:
        if node.target not in QUANTIZED_OPERATORS and any(before.name in found for before in node.all_input_nodes):
            found.add(node.name)
    return frozenset(found)


def _quantizer(float_nodes: frozenset[str]) -> Quantizer:
    """XNNPACK's own, with the range of a convolution taken behind the ReLU6 that its kernel applies.

    It knows that of ReLU alone, and gives both sides of a ReLU6 one scale, which wastes most of its steps.
    """
    xnnpack = require("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", EXTRA)
    quantizers = require("torchao.quantization.pt2e.quantizer", EXTRA)
    observers = require("torchao.quantization.pt2e.observer", EXTRA)

    class Fused(xnnpack.XNNPACKQuantizer):  # type: ignore[name-defined]
        def annotate(self, model: GraphModule) -> GraphModule:
            model = super().annotate(model)
            key = quantizers.quantizer.Q_ANNOTATION_KEY
            for node in model.graph.nodes:
                (before, *_) = node.all_input_nodes or [None]
                if node.target in CLAMPS and before.target in QUANTIZED_OPERATORS and len(before.users) == 1:
                    annotation = before.meta.get(key)
                    if annotation is not None and annotation.output_qspec is not None:
                        node.meta[key] = quantizers.QuantizationAnnotation(
                            output_qspec=annotation.output_qspec, _annotated=True
                        )
                        annotation.output_qspec = None
            return model

    activations = quantizers.QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=observers.MinMaxObserver.with_args(eps=LEAST_SCALE),
    )
    weights = xnnpack.get_symmetric_quantization_config(is_per_channel=True).weight
    config = quantizers.QuantizationConfig(activations, activations, weights, None, False)
    quantizer = Fused()
    # Those of training take seconds to build.
    quantizer.SUPPORTED_PATTERNS = [pattern for pattern in quantizer.SUPPORTED_PATTERNS if not pattern.is_qat]
    quantizer.set_global(config)
    quantizer.set_filter_function(lambda node: node.name not in float_nodes)
    return quantizer
