"""ExecuTorch programs."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.deploy.targets.target import Exported, Network
from ofa.hardware.executorch_export import export_executorch
from ofa.setting import Setting


@dataclass(frozen=True)
class ExecuTorchProgram:
    """All that XNNPACK knows is delegated to it."""

    runtimes = ("executorch",)
    precisions = ("fp32",)
    files = ("model.pte",)
    free_batch = False

    def export(self, network: Network, setting: Setting) -> Exported:
        assert network.batch is not None
        program = export_executorch(network.module, (network.batch, *network.input_shape), network.dtype)
        return Exported(files={self.files[0]: program}, reference=network.outputs)
