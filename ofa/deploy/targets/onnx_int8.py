"""ONNX in INT8: Q/DQ nodes around what is quantized, and sensitive nodes in floating point."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ofa.deploy.onnx_export import to_onnx
from ofa.deploy.parity import run_outputs
from ofa.deploy.sensitivity import find_float_nodes
from ofa.deploy.targets.onnx import Onnx
from ofa.deploy.targets.target import Exported, Images, Network, Outputs, Quantization
from ofa.hardware.device import HERE, Device
from ofa.hardware.onnx_export import DYNAMO_OPSET
from ofa.hardware.quantize import QUANTIZED_OPERATORS, SYMMETRIC_RUNTIMES, activation_ranges, quantize_qdq
from ofa.hardware.runtimes.onnxruntime import OnnxRuntimeAsWritten

NUM_RANKING_IMAGES = 32


@dataclass(frozen=True)
class OnnxInt8:
    """Weights per channel, activations with ranges from calibration images (their least and greatest values).

    What INT8 costs is measured; where it is more than allowed, the nodes that it harms most stay in floating point:
    :func:`ofa.deploy.sensitivity.find_float_nodes`.
    """

    opset: int = DYNAMO_OPSET

    runtimes = ("onnxruntime", "trtexec")
    precisions = ("int8",)
    files = ("model.onnx",)
    free_batch = True

    def export(self, network: Network, device: Device) -> Exported:
        accuracy = network.accuracy
        assert accuracy is not None
        model = to_onnx(network.module, network.input_shape, batch=network.batch, dtype=network.dtype, opset=self.opset)
        size = network.batch or 1
        starts = range(0, len(accuracy.calibration_images) - size + 1, size)
        ranges = activation_ranges(model, (accuracy.calibration_images[start : start + size] for start in starts))

        def quantize(float_nodes: Collection[str]) -> bytes:
            quantized = quantize_qdq(
                model, ranges, float_nodes=float_nodes, symmetric=device.runtime in SYMMETRIC_RUNTIMES
            )
            return quantized.SerializeToString(deterministic=True)

        def outputs(model: bytes, images: Images, where: Device = HERE) -> Outputs:
            return run_outputs(model, images, device=where, batch=network.batch)

        runs_here = HERE if device.runtime == "trtexec" else device  # which takes seconds a call
        plain = model.SerializeToString(deterministic=True)
        nodes = [node.name for node in model.graph.node if node.op_type in QUANTIZED_OPERATORS]
        reference_percent = accuracy.top1_percent(outputs(plain, accuracy.images))
        few = accuracy.calibration_images[:NUM_RANKING_IMAGES]

        def loss_points(float_nodes: Collection[str]) -> float:
            found = outputs(quantize(float_nodes), accuracy.images, runs_here)
            return reference_percent - accuracy.top1_percent(found)

        expected = outputs(plain, few)

        def harm(node: str) -> float:
            others = [name for name in nodes if name != node]
            return float(np.mean((outputs(quantize(others), few) - expected) ** 2))

        choice = find_float_nodes(nodes, loss_points, harm, max_loss_points=accuracy.max_loss_points)
        quantized = quantize(choice.float_nodes)
        return Exported(
            files={self.files[0]: quantized},
            reference=lambda images: run_outputs(
                quantized, images, batch=network.batch, runtime=OnnxRuntimeAsWritten()
            ),
            quantization=Quantization(
                loss_points=choice.loss_points,
                all_int8_loss_points=choice.all_int8_loss_points,
                float_nodes=tuple(choice.float_nodes),
                num_nodes=len(nodes),
                num_calibration_images=len(accuracy.calibration_images),
            ),
        )


def onnx_for(network: Network, device: Device, *, opset: int = DYNAMO_OPSET) -> Exported:
    """The network as ONNX in the device's precision, for targets that are made of it."""
    return (OnnxInt8(opset) if device.precision == "int8" else Onnx(opset)).export(network, device)
