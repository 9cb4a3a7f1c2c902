"""ONNX in INT8: Q/DQ nodes around what is quantized, and sensitive nodes in floating point."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from ofa.deploy.parity import load_outputs
from ofa.deploy.targets.network import Exported, FloatNodes, Images, Network, Outputs, Quantization
from ofa.formats import onnx_to_ship
from ofa.formats.onnx import to_bytes
from ofa.formats.onnx_int8 import QUANTIZED_OPERATORS, SYMMETRIC_RUNTIMES, activation_ranges, quantize_qdq
from ofa.hardware.runtimes.onnxruntime import OnnxRuntimeAsWritten
from ofa.setting import REFERENCE, Setting

FILE = "model.onnx"
NUM_RANKING_IMAGES = 32


def export_int8(network: Network, setting: Setting) -> Exported:
    """The network as an ONNX graph in INT8, under the name of :data:`FILE`.

    Weights are quantized per channel, activations with ranges from calibration images (their least and greatest
    values). What INT8 costs is measured; where it is more than allowed, the nodes that it harms most stay in floating
    point: :func:`find_float_nodes`.
    """
    accuracy = network.accuracy
    assert accuracy is not None
    model = onnx_to_ship(network.module, network)
    size = network.batch or 1
    starts = range(0, len(accuracy.calibration_images) - size + 1, size)
    ranges = activation_ranges(model, (accuracy.calibration_images[start : start + size] for start in starts))

    def quantize(float_nodes: Collection[str]) -> bytes:
        quantized = quantize_qdq(
            model, ranges, float_nodes=float_nodes, symmetric=setting.runtime in SYMMETRIC_RUNTIMES
        )
        return to_bytes(quantized)

    def outputs(model: bytes, images: Images, where: Setting = REFERENCE) -> Outputs:
        return load_outputs(model, setting=where, batch=network.batch, input_name=network.input)(images)

    runs_here = REFERENCE if setting.runtime == "trtexec" else setting  # which takes seconds a call
    plain = to_bytes(model)
    nodes = [node.name for node in model.graph.node if node.op_type in QUANTIZED_OPERATORS]
    reference = accuracy.worth(outputs(plain, accuracy.images))
    few = accuracy.calibration_images[:NUM_RANKING_IMAGES]

    def loss_points(float_nodes: Collection[str]) -> float:
        found = outputs(quantize(float_nodes), accuracy.images, runs_here)
        return reference - accuracy.worth(found)

    expected = outputs(plain, few)

    def harm(node: str) -> float:
        others = [name for name in nodes if name != node]
        return float(np.mean((outputs(quantize(others), few) - expected) ** 2))

    choice = find_float_nodes(nodes, loss_points, harm, max_loss_points=accuracy.max_loss_points)
    quantized = quantize(choice.float_nodes)
    return Exported(
        files={FILE: quantized},
        reference=load_outputs(
            quantized, batch=network.batch, runtime=OnnxRuntimeAsWritten(), input_name=network.input
        ),
        quantization=Quantization(
            **vars(choice), num_nodes=len(nodes), num_calibration_images=len(accuracy.calibration_images)
        ),
    )


def find_float_nodes(
    nodes: Sequence[str],
    loss_points: Callable[[Collection[str]], float],
    harm: Callable[[str], float],
    *,
    max_loss_points: float,
) -> FloatNodes:
    """Keep as few of the most sensitive nodes in floating point as the accuracy needs.

    Nothing is done where all of INT8 loses little enough. Otherwise nodes are ranked by the harm that each does alone,
    twice as many of the worst are left out until the loss is small enough, and the number is bisected then. That takes
    one small measurement a node and about twice log2(nodes) measurements of accuracy.

    Args:
        nodes: Names of all that can be quantized.
        loss_points: Measures what is lost with these nodes in floating point.
        harm: Measures how far outputs move with this node alone in INT8.

    Returns:
        Nodes in floating point; all of them where nothing else helps.

    References:
        Sensitivity one layer at a time: Wu et al., Integer quantization for deep learning inference, arXiv:2004.09602,
        sec. 5.2 (there by accuracy; by outputs here, which needs fewer images), with bisection in place of adding one
        layer after another.
    """
    all_int8 = loss = loss_points([])
    if loss <= max_loss_points:
        return FloatNodes(loss, all_int8, ())
    ranked = sorted(nodes, key=harm, reverse=True)
    too_few, enough = 0, 1
    while (loss := loss_points(ranked[:enough])) > max_loss_points and enough < len(ranked):
        too_few, enough = enough, min(2 * enough, len(ranked))
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        found = loss_points(ranked[:middle])
        if found <= max_loss_points:
            enough, loss = middle, found
        else:
            too_few = middle
    return FloatNodes(loss, all_int8, tuple(ranked[:enough]))
