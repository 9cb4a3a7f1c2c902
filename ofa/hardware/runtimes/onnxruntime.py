"""ONNX Runtime, on the CPU and on CUDA."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ofa.hardware.runtimes.kernels import Kernels, onnx_kernels
from ofa.hardware.runtimes.session import Array, Arrays, Input, Model, ModelError, Run, check_exists, random_inputs
from ofa.optional import NotInstalledError, package_versions, require
from ofa.setting import REFERENCE, Setting

_DTYPES = {f"tensor({name})": name for name in ("float16", "uint8", "int8", "int32", "int64", "bool")} | {
    "tensor(float)": "float32"
}


class OnnxSession:
    """A loaded model."""

    def __init__(self, session: Any, batch: int, model: Model, runtime: OnnxRuntime) -> None:
        self._session, self._batch, self._model, self._runtime = session, batch, model, runtime

    def random_inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        inputs = [
            Input(entry.name, entry.shape, _DTYPES.get(entry.type, entry.type)) for entry in self._session.get_inputs()
        ]
        return random_inputs(inputs, self._batch, rng)

    def run(self, inputs: Arrays) -> list[Array]:
        return list(self._session.run(None, inputs))

    def prepared(self, inputs: Arrays) -> Run:
        return partial(self.run, inputs)

    def kernels(self) -> Kernels:
        return onnx_kernels(self._model, partial(self._runtime.optimize, self._model))

    def end_profiling(self) -> Path:
        """Where the runtime's own account of its runs is, if the options asked for one."""
        return Path(self._session.end_profiling())


class _CudaSession(OnnxSession):
    """Inputs and outputs stay on the GPU while it is timed."""

    def prepared(self, inputs: Arrays) -> Run:
        onnxruntime = require("onnxruntime", "onnxruntime-gpu")
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        for entry in self._session.get_outputs():
            binding.bind_output(entry.name, "cuda")

        def run() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run


class OnnxRuntime:
    """All graph optimisations on: they turn on the blocked layout, without which CPUs are several times slower."""

    format: str = "onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")  # fp16 through fp32 where the CPU has no kernel of it
    on_cpu: bool = True
    extra = "onnxruntime"
    optimization = "ORT_ENABLE_ALL"
    session_type = OnnxSession

    def prepare(self, model: Model, setting: Setting) -> OnnxSession:
        """Load ONNX bytes, or an ONNX file."""
        return self.load(model, setting, self.options(setting))

    def optimize(self, model: Model, path: Path) -> None:
        """Write the graph that is run in the end, which holds for this machine alone."""
        options = self.options(REFERENCE)
        options.optimized_model_filepath = str(path)
        self.load(model, REFERENCE, options)

    def options(self, setting: Setting) -> Any:
        """What sessions are made with."""
        onnxruntime = require("onnxruntime", self.extra)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setting.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, self.optimization)
        options.log_severity_level = 3  # errors; which nodes it leaves on the CPU is not ours to report
        # Waiting threads would spin for hundreds of milliseconds and disturb whatever is timed next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def load(self, model: Model, setting: Setting, options: Any) -> OnnxSession:
        """Likewise, with options of one's own."""
        onnxruntime = require("onnxruntime", self.extra)
        errors = require("onnxruntime.capi.onnxruntime_pybind11_state", self.extra)
        what = check_exists(model, "an ONNX")
        try:
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=self._providers(onnxruntime)
            )
        except (errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument, errors.Fail) as error:
            raise ModelError(f"{what} is not a valid ONNX model ({error}); export it again") from None
        except errors.NotImplemented as error:
            raise ModelError(f"{what} needs what this ONNX Runtime lacks ({error})") from None
        return self.session_type(session, setting.batch, model, self)

    def versions(self) -> dict[str, str]:
        return package_versions("onnxruntime", extra=self.extra)

    def _providers(self, onnxruntime: Any) -> list[str]:
        return ["CPUExecutionProvider"]


class OnnxRuntimeAsWritten(OnnxRuntime):
    """Node by node as the graph is written, several times slower: what other ways to run it are compared with.

    Convolutions between Q/DQ nodes are computed in floating point.
    """

    optimization = "ORT_DISABLE_ALL"


class OnnxRuntimeCuda(OnnxRuntime):
    """On an NVIDIA GPU; what CUDA has no kernel for runs on the CPU."""

    precisions = ("fp32", "fp16")
    on_cpu = False
    extra = "onnxruntime-gpu"
    session_type = _CudaSession

    def versions(self) -> dict[str, str]:
        found = package_versions("onnxruntime-gpu", extra=self.extra)
        self._providers(require("onnxruntime", self.extra))
        return found

    def _providers(self, onnxruntime: Any) -> list[str]:
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise NotInstalledError(
                "this ONNX Runtime has no CUDA; install it with: pip uninstall onnxruntime; pip install onnxruntime-gpu"
            )
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
