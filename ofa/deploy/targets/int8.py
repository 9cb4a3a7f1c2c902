"""INT8: what can be is quantized, and sensitive nodes stay in floating point."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ofa.deploy.parity import load_outputs
from ofa.deploy.targets.network import Exported, FloatNodes, Images, Network, Outputs, Quantization
from ofa.formats import FORMATS
from ofa.hardware.runtimes import Model, Runtime
from ofa.hardware.runtimes.litert import LiteRt, LiteRtWithoutXnnpack
from ofa.hardware.runtimes.onnxruntime import OnnxRuntime, OnnxRuntimeAsWritten
from ofa.hardware.runtimes.torch_module import TorchGraph
from ofa.setting import REFERENCE, Setting

NUM_RANKING_IMAGES = 32


@dataclass(frozen=True)
class _Run:
    """What runs networks of a format beside the device's runtime.

    Args:
        fast: What is in floating point, and what nodes are ranked by.
        reference: What the file should compute, by other kernels.
    """

    fast: Callable[[], Runtime]
    reference: Callable[[], Runtime]


RUN = {
    "onnx": _Run(OnnxRuntime, OnnxRuntimeAsWritten),
    "pte": _Run(TorchGraph, TorchGraph),
    "tflite": _Run(LiteRt, LiteRtWithoutXnnpack),
}
"""By the name of the format, as in :data:`ofa.formats.FORMATS`."""


def export_int8(network: Network, setting: Setting, format: str, file: str) -> Exported:
    """The network in INT8, as a file of this format and name.

    Weights are quantized per channel, activations with ranges from calibration images (their least and greatest
    values). What INT8 costs is measured; where it is more than allowed, the nodes that it harms most stay in floating
    point: :func:`find_float_nodes`.
    """
    accuracy, run = network.accuracy, RUN[format]
    assert accuracy is not None
    size = network.batch or 1
    starts = range(0, len(accuracy.calibration_images) - size + 1, size)
    batches = (accuracy.calibration_images[start : start + size] for start in starts)
    to_calibrate = FORMATS[format].to_calibrate
    assert to_calibrate is not None
    calibrated = to_calibrate(network.module, network, batches, setting)

    def load(model: Model, runtime: Callable[[], Runtime] | None, where: Setting) -> Callable[[Images], Outputs]:
        return load_outputs(
            model, setting=where, batch=network.batch, runtime=runtime and runtime(), input_name=network.input
        )

    @functools.cache
    def file_of(float_nodes: frozenset[str]) -> bytes:
        return calibrated.to_file(calibrated.quantize(float_nodes))

    here = REFERENCE if format == "onnx" else Setting(runtime=setting.runtime)
    runs_here = REFERENCE if setting.runtime == "trtexec" else setting  # which takes seconds a call
    plain = load(calibrated.plain, run.fast, here)
    reference = accuracy.worth(plain(accuracy.images))
    few = accuracy.calibration_images[:NUM_RANKING_IMAGES]

    def loss_points(float_nodes: Collection[str]) -> float:
        found = load(file_of(frozenset(float_nodes)), None, runs_here)(accuracy.images)
        return reference - accuracy.worth(found)

    @functools.cache
    def expected() -> Outputs:
        return plain(few)

    def harm(node: str) -> float:
        others = [name for name in calibrated.nodes if name != node]
        found = load(calibrated.quantize(others), run.fast, here)(few)
        return float(np.mean((found - expected()) ** 2))

    choice = find_float_nodes(calibrated.nodes, loss_points, harm, max_loss_points=accuracy.max_loss_points)
    return Exported(
        files={file: file_of(frozenset(choice.float_nodes))},
        reference=load(calibrated.quantize(choice.float_nodes), run.reference, here),
        quantization=Quantization(
            **vars(choice),
            num_nodes=len(calibrated.nodes),
            num_calibration_images=len(accuracy.calibration_images),
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
