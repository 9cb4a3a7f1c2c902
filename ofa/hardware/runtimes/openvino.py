"""OpenVINO on the CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ofa.hardware.runtimes.kernels import Kernels, openvino_kernels
from ofa.hardware.runtimes.session import Array, Arrays, Input, Model, ModelError, Run, check_exists, random_inputs
from ofa.optional import extra, package_versions, require
from ofa.setting import Setting

EXTRA = extra("openvino")


class OpenVino:
    """One request at a time, for its latency; computes in the precision that the device names and no lower one."""

    format: str = "onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    on_cpu = True

    def prepare(self, model: Model, setting: Setting) -> OpenVinoSession:
        """Load ONNX bytes, or an ONNX or OpenVINO IR file."""
        openvino = require("openvino", EXTRA)
        what = check_exists(model, "an ONNX or OpenVINO IR")
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": setting.threads,
            # Where the CPU has bfloat16 it would be the default; f16 is computed in f32 where it has no float16.
            "INFERENCE_PRECISION_HINT": "f16" if setting.precision == "fp16" else "f32",
            "ENABLE_CPU_PINNING": False,  # the anchor is to run on the same core
        }
        try:
            network = core.read_model(model if isinstance(model, bytes) else str(model))
            if network.is_dynamic():
                shapes = {port: port.partial_shape for port in network.inputs}
                for shape in shapes.values():
                    if len(shape) and shape[0].is_dynamic:
                        shape[0] = setting.batch
                network.reshape(shapes)
            return OpenVinoSession(core.compile_model(network, "CPU", settings), setting.batch)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1]
            raise ModelError(f"{what} is not a valid model for OpenVINO ({first}); export it again") from None

    def versions(self) -> dict[str, str]:
        return package_versions("openvino", extra=EXTRA)


class OpenVinoSession:
    """A compiled model."""

    def __init__(self, compiled: Any, batch: int) -> None:
        self._compiled, self._request, self._batch = compiled, compiled.create_infer_request(), batch

    def random_inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        inputs = [
            Input(
                port.get_any_name(),
                [None if size.is_dynamic else size.get_length() for size in port.partial_shape],
                port.element_type.to_dtype().name,
            )
            for port in self._compiled.inputs
        ]
        return random_inputs(inputs, self._batch, rng)

    def run(self, inputs: Arrays) -> list[Array]:
        results = self._request.infer(dict(inputs))
        return [np.array(results[port]) for port in self._compiled.outputs]

    def prepared(self, inputs: Arrays) -> Run:
        self._request.infer(dict(inputs))  # leaves the inputs in the request
        return partial(self._request.infer, None, share_outputs=True)

    def kernels(self) -> Kernels:
        return openvino_kernels(self._compiled)
