"""ONNX in floating point."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.deploy.onnx_export import to_onnx
from ofa.deploy.targets.target import Exported, Network
from ofa.hardware.onnx_export import DYNAMO_OPSET
from ofa.setting import Setting


@dataclass(frozen=True)
class Onnx:
    """Batch normalisation and constants folded, weights inside.

    Args:
        opset: Of the graph. The exporter's own serves all runtimes; newer ones bring nothing for these networks.
    """

    opset: int = DYNAMO_OPSET

    runtimes = ("onnxruntime", "onnxruntime-cuda", "trtexec")
    precisions = ("fp32", "fp16")
    files = ("model.onnx",)
    free_batch = True

    def export(self, network: Network, setting: Setting) -> Exported:
        model = to_onnx(network.module, network.input_shape, batch=network.batch, dtype=network.dtype, opset=self.opset)
        return Exported(files={self.files[0]: model.SerializeToString(deterministic=True)}, reference=network.outputs)
