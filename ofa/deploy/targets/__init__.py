"""What networks are deployed as. A new target is one line in :data:`TARGETS`, and a format in :mod:`ofa.formats`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ofa.deploy.targets.int8 import export_int8
from ofa.deploy.targets.network import Exported, Network, TargetError
from ofa.deploy.targets.network import Quantization as Quantization
from ofa.formats import FORMATS
from ofa.formats.openvino import FILES as OPENVINO_FILES
from ofa.formats.openvino import to_openvino
from ofa.hardware.device import Device
from ofa.hardware.runtimes.tensorrt import TensorRt
from ofa.setting import Setting


@dataclass(frozen=True, kw_only=True)
class Target:
    """A form that networks are deployed in.

    Args:
        runtimes: Those that run it, in one of ``precisions``.
        files: Names of what it makes; the first is the one that the runtime loads.
        free_batch: Whether the batch can be left free.
        format: A name of :data:`ofa.formats.FORMATS`.
        convert: What is made of the file of that format, by name; it is the file itself if there is none.
    """

    runtimes: tuple[str, ...]
    precisions: tuple[str, ...]
    files: tuple[str, ...]
    free_batch: bool = True
    format: str = "onnx"
    convert: Callable[[bytes, Setting], dict[str, bytes]] | None = None

    @property
    def is_onnx(self) -> bool:
        """Whether an ONNX graph leaves, whose opset can be chosen."""
        return any(name.endswith(".onnx") for name in self.files)

    def export(self, network: Network, setting: Setting) -> Exported:
        """Make the files.

        Raises:
            NotInstalledError: If the exporter is not there.
            ModelError: If the exporter or the runtime cannot take the network.
            OpsetError: If the network cannot be written in its opset.
        """
        if setting.precision == "int8":
            exported = export_int8(network, setting, self.format, self.files[0])
        else:
            model = FORMATS[self.format].to_ship(network.module, network)
            exported = Exported(files={self.files[0]: model}, reference=network.outputs)
        if self.convert is None:
            return exported
        (model,) = exported.files.values()
        return replace(exported, files=self.convert(model, setting))


def _engine(model: bytes, setting: Setting) -> dict[str, bytes]:
    """Built here, for this GPU and this version of TensorRT; elsewhere it is built again from ``model.onnx``."""
    return {"model.engine": TensorRt().engine(model, setting), "model.onnx": model}


ONNX = ("model.onnx",)
TARGETS = {
    "onnx": Target(runtimes=("onnxruntime", "onnxruntime-cuda", "trtexec"), precisions=("fp32", "fp16"), files=ONNX),
    "onnx-int8": Target(runtimes=("onnxruntime", "trtexec"), precisions=("int8",), files=ONNX),
    "openvino": Target(
        runtimes=("openvino",),
        precisions=("fp32", "fp16", "int8"),
        files=OPENVINO_FILES,
        convert=lambda model, setting: to_openvino(model),
    ),
    "executorch": Target(
        runtimes=("executorch",), precisions=("fp32", "int8"), files=("model.pte",), format="pte", free_batch=False
    ),
    "litert": Target(
        runtimes=("litert",), precisions=("fp32", "int8"), files=("model.tflite",), format="tflite", free_batch=False
    ),
    "tensorrt": Target(
        runtimes=("tensorrt",),
        precisions=("fp32", "fp16", "int8"),
        files=("model.engine", "model.onnx"),
        convert=_engine,
    ),
}


def target_of(device: Device) -> tuple[str, Target]:
    """Name and form of what a device runs.

    Raises:
        TargetError: If it runs nothing that is a file.
    """
    setting = device.setting
    for name, target in TARGETS.items():
        if setting.runtime in target.runtimes and setting.precision in target.precisions:
            return name, target
    runtimes = sorted({runtime for target in TARGETS.values() for runtime in target.runtimes})
    raise TargetError(
        f"device {device.name} computes in {setting.precision} on {setting.runtime}, which runs no file that could be "
        f"deployed; export for a device of one of the runtimes {', '.join(runtimes)}"
    )
