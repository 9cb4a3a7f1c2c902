"""What runs a model. A new runtime is one file here and one line in :data:`RUNTIMES`."""

from __future__ import annotations

from collections.abc import Callable

from ofa.hardware.runtimes.executorch import ExecuTorch
from ofa.hardware.runtimes.kernels import HasKernels, Kernels
from ofa.hardware.runtimes.litert import LiteRt
from ofa.hardware.runtimes.onnxruntime import OnnxRuntime, OnnxRuntimeCuda
from ofa.hardware.runtimes.openvino import OpenVino
from ofa.hardware.runtimes.session import Model, ModelError, Runtime, Session
from ofa.hardware.runtimes.tensorrt import TensorRt
from ofa.hardware.runtimes.torch_module import ShapedModule, TorchCompiled, TorchCuda, TorchCudaGraph, TorchEager
from ofa.hardware.runtimes.trtexec import TrtExec
from ofa.optional import NotInstalledError

__all__ = [
    "RUNTIMES",
    "HasKernels",
    "Kernels",
    "Model",
    "ModelError",
    "NotInstalledError",
    "Runtime",
    "Session",
    "ShapedModule",
]

RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "onnxruntime-cuda": OnnxRuntimeCuda,
    "openvino": OpenVino,
    "executorch": ExecuTorch,
    "litert": LiteRt,
    "torch": TorchEager,
    "torch-compiled": TorchCompiled,
    "torch-cuda": TorchCuda,
    "torch-cuda-graph": TorchCudaGraph,
    "tensorrt": TensorRt,
    "trtexec": TrtExec,
}
