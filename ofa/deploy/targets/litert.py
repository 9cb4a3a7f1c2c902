"""LiteRT (TensorFlow Lite) files."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.deploy.targets.target import Exported, Network
from ofa.hardware.litert_export import export_litert
from ofa.setting import Setting


@dataclass(frozen=True)
class LiteRtFile:
    """Made by Google's converter of torch programs, in floating point."""

    runtimes = ("litert",)
    precisions = ("fp32",)
    files = ("model.tflite",)
    free_batch = False

    def export(self, network: Network, setting: Setting) -> Exported:
        assert network.batch is not None
        model = export_litert(network.module, (network.batch, *network.input_shape), network.dtype)
        return Exported(files={self.files[0]: model}, reference=network.outputs)
