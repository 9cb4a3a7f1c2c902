"""TensorRT engines, with the ONNX graph that they were built from."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.deploy.targets.onnx_int8 import onnx_for
from ofa.deploy.targets.target import Exported, Network
from ofa.hardware.runtimes.tensorrt import TensorRt
from ofa.setting import Setting


@dataclass(frozen=True)
class TensorRtEngine:
    """Built here, for this GPU and this version of TensorRT; elsewhere it is built again from ``model.onnx``.

    The graph is strongly typed: fp16 where the ONNX says so, INT8 between its Q/DQ nodes (signed and symmetric, biases
    in floating point, as TensorRT asks).
    """

    runtimes = ("tensorrt",)
    precisions = ("fp32", "fp16", "int8")
    files = ("model.engine", "model.onnx")
    free_batch = True

    def export(self, network: Network, setting: Setting) -> Exported:
        exported = onnx_for(network, setting)
        (model,) = exported.files.values()
        engine = TensorRt().engine(model, setting)
        return Exported(
            files={"model.engine": engine, "model.onnx": model},
            reference=exported.reference,
            quantization=exported.quantization,
        )
