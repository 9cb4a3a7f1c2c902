"""LiteRT (TensorFlow Lite) with its XNNPACK kernels, as on phones; here on the CPU of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ofa.hardware.runtimes.kernels import Kernels, litert_kernels
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

EXTRA = extra("litert")


class LiteRt:
    """Takes ``.tflite`` files; XNNPACK computes what it knows."""

    format: str = "tflite"
    precisions: tuple[str, ...] = ("fp32", "int8")
    on_cpu = True
    resolver = "AUTO"

    def prepare(self, model: Model, setting: Setting) -> LiteRtSession:
        """Load the bytes or the path of a ``.tflite`` file."""
        interpreters = require("ai_edge_litert.interpreter", EXTRA)
        what = check_exists(model, "a .tflite")
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        try:
            with without_notes():
                interpreter = interpreters.Interpreter(
                    model_content=data,
                    num_threads=setting.threads,
                    experimental_op_resolver_type=interpreters.OpResolverType[self.resolver],
                )
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{what} is not a valid LiteRT model ({error}); export it again") from None
        return LiteRtSession(interpreter, data)

    def versions(self) -> dict[str, str]:
        return package_versions("ai-edge-litert", extra=EXTRA)


class LiteRtWithoutXnnpack(LiteRt):
    """With LiteRT's own kernels, which are slower: what XNNPACK's are compared with."""

    resolver = "BUILTIN_WITHOUT_DEFAULT_DELEGATES"


class LiteRtSession:
    """An interpreter with its tensors."""

    def __init__(self, interpreter: Any, data: bytes) -> None:
        self._interpreter, self._data = interpreter, data
        self._inputs, self._outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def random_inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        inputs = [
            Input(entry["name"], [None if size < 0 else int(size) for size in entry["shape_signature"]], dtype)
            for entry in self._inputs
            for dtype in [np.dtype(entry["dtype"]).name]
        ]
        return random_inputs(inputs, 1, rng)

    def run(self, inputs: Arrays) -> list[Array]:
        self._set(inputs)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(entry["index"]) for entry in self._outputs]

    def prepared(self, inputs: Arrays) -> Run:
        self._set(inputs)  # XNNPACK leaves the input as it is
        run: Run = self._interpreter.invoke
        return run

    def kernels(self) -> Kernels:
        return litert_kernels(self._data)

    def _set(self, inputs: Arrays) -> None:
        for entry, array in zip(self._inputs, inputs.values(), strict=True):  # in order: exporters rename inputs
            if array.shape != tuple(entry["shape"]):
                raise ModelError(f"the model takes images of shape {tuple(entry['shape'])}, not {array.shape}")
            self._interpreter.set_tensor(entry["index"], array)
