"""ExecuTorch with its XNNPACK kernels, as on phones; here on the CPU that builds the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ofa.hardware.runtimes.kernels import Kernels, executorch_kernels
from ofa.hardware.runtimes.session import (
    Array,
    Arrays,
    Input,
    Model,
    ModelError,
    Run,
    check_exists,
    random_inputs,
    without_notes,
)
from ofa.optional import extra, package_versions, require
from ofa.setting import Setting

EXTRA = extra("executorch")
DTYPES = {
    0: "uint8",
    1: "int8",
    3: "int32",
    4: "int64",
    11: "bool",
    5: "float16",
    6: "float32",
}  # torch's numbers of its types


class ExecuTorch:
    """Takes programs that were lowered to XNNPACK when they were exported."""

    format: str = "pte"
    precisions: tuple[str, ...] = ("fp32", "int8")
    on_cpu = True

    def prepare(self, model: Model, setting: Setting) -> ExecuTorchSession:
        """Load the bytes or the path of a ``.pte`` program."""
        runtime = require("executorch.runtime", EXTRA)
        what = check_exists(model, "a .pte")
        # The threads are those of the process, and programs that are loaded hold on to them: made anew only if need be.
        threads = require("executorch.extension.pybindings.portable_lib", EXTRA)
        with without_notes():
            if threads._threadpool_get_thread_count() != setting.threads:
                threads._unsafe_reset_threadpool(setting.threads)
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        try:
            method = runtime.Runtime.get().load_program(data).load_method("forward")
        except RuntimeError as error:
            raise ModelError(f"{what} is not a valid ExecuTorch program ({error}); export it again") from None
        if method is None:
            raise ModelError(f"{what} has no method 'forward'; export it again")
        return ExecuTorchSession(method, data)

    def versions(self) -> dict[str, str]:
        return package_versions("executorch", extra=EXTRA)


class ExecuTorchSession:
    """A loaded method; its inputs have no names and are called ``input0``, ``input1``."""

    def __init__(self, method: Any, data: bytes) -> None:
        self._method, self._data = method, data  # the program reads its weights from these bytes

    def random_inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        meta = self._method.metadata
        tensors = [meta.input_tensor_meta(index) for index in range(meta.num_inputs())]
        inputs = [
            Input(f"input{index}", list(tensor.sizes()), DTYPES.get(tensor.dtype(), f"type {tensor.dtype()}"))
            for index, tensor in enumerate(tensors)
        ]
        return random_inputs(inputs, 1, rng)

    def run(self, inputs: Arrays) -> list[Array]:
        torch = require("torch", "torch")
        return [
            output.numpy() for output in self._method.execute([torch.from_numpy(array) for array in inputs.values()])
        ]

    def prepared(self, inputs: Arrays) -> Run:
        torch = require("torch", "torch")
        tensors = [torch.from_numpy(array) for array in inputs.values()]
        return lambda: self._method.execute(tensors)  # which holds this session, and so the program's bytes

    def kernels(self) -> Kernels:
        return executorch_kernels(self._data)
