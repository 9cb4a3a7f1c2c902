"""What networks are deployed as. A new target is one file here and one line in :data:`TARGETS`."""

from __future__ import annotations

from collections.abc import Callable

from ofa.deploy.targets.executorch import ExecuTorchProgram
from ofa.deploy.targets.litert import LiteRtFile
from ofa.deploy.targets.onnx import Onnx
from ofa.deploy.targets.onnx_int8 import OnnxInt8
from ofa.deploy.targets.openvino import OpenVinoIr
from ofa.deploy.targets.target import Accuracy, Exported, Network, Quantization, Target, TargetError
from ofa.deploy.targets.tensorrt import TensorRtEngine
from ofa.hardware.device import Device

__all__ = [
    "TARGETS",
    "Accuracy",
    "Exported",
    "Network",
    "Quantization",
    "Target",
    "TargetError",
    "target_of",
]

TARGETS: dict[str, Callable[[], Target]] = {
    "onnx": Onnx,
    "onnx-int8": OnnxInt8,
    "openvino": OpenVinoIr,
    "executorch": ExecuTorchProgram,
    "litert": LiteRtFile,
    "tensorrt": TensorRtEngine,
}


def target_of(device: Device) -> tuple[str, Target]:
    """Name and form of what a device runs.

    Raises:
        TargetError: If it runs nothing that is a file.
    """
    setting = device.setting
    for name, make in TARGETS.items():
        target = make()
        if setting.runtime in target.runtimes and setting.precision in target.precisions:
            return name, target
    runtimes = sorted({runtime for make in TARGETS.values() for runtime in make().runtimes})
    raise TargetError(
        f"device {device.name} computes in {setting.precision} on {setting.runtime}, which runs no file that could be "
        f"deployed; export for a device of one of the runtimes {', '.join(runtimes)}"
    )
