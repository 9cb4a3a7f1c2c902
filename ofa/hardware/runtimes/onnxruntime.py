"""ONNX Runtime on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ofa.hardware.runtimes.session import Arrays, ModelError

if TYPE_CHECKING:
    from ofa.hardware.device import Device


class OnnxRuntime:
    """All graph optimisations on: they turn on the blocked layout, without which CPUs are several times slower."""

    def prepare(self, model: bytes | Path | str, device: Device) -> OnnxSession:
        """Load a model.

        Args:
            model: ONNX bytes, or the path of a file.
            device: Says how many threads to use, and what a free batch dimension becomes.

        Raises:
            ModelError: If there is no such file, or if ONNX Runtime cannot load it.
        """
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = device.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Waiting threads would spin for hundreds of milliseconds and disturb whatever is timed next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        what = "model" if isinstance(model, bytes) else f"model {model}"
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise ModelError(f"no {what}; give the path of an ONNX file")
        try:
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
        except (errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument, errors.Fail) as error:
            raise ModelError(f"{what} is not a valid ONNX model ({error}); export it again") from None
        except errors.NotImplemented as error:
            raise ModelError(f"{what} needs what this ONNX Runtime lacks ({error})") from None
        return OnnxSession(session, device.batch)

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": version("onnxruntime")}


class OnnxSession:
    """A loaded model."""

    def __init__(self, session: Any, batch: int) -> None:
        self._session, self._batch = session, batch

    def random_inputs(self, rng: np.random.Generator) -> dict[str, npt.NDArray[np.generic]]:
        """Normal for floats, uniform for bytes; only a batch dimension may be free.

        Raises:
            ModelError: If an input has another free dimension or another type.
        """
        return {entry.name: self._random_input(entry, rng) for entry in self._session.get_inputs()}

    def _random_input(self, entry: Any, rng: np.random.Generator) -> npt.NDArray[np.generic]:
        batch, *rest = entry.shape or [1]
        shape = [batch if isinstance(batch, int) else self._batch, *rest]
        if not all(isinstance(size, int) for size in shape):
            raise ModelError(f"input {entry.name!r} has free dimensions {entry.shape}; export it with a fixed size")
        if entry.type in ("tensor(float)", "tensor(float16)"):
            return rng.standard_normal(shape).astype(np.float32 if entry.type == "tensor(float)" else np.float16)
        if entry.type in ("tensor(uint8)", "tensor(int8)"):
            return rng.integers(0, 128, shape).astype(entry.type[len("tensor(") : -1])
        raise ModelError(f"input {entry.name!r} is a {entry.type}; only floats and bytes can be timed")

    def run(self, inputs: Arrays) -> list[npt.NDArray[np.generic]]:
        outputs: list[npt.NDArray[np.generic]] = self._session.run(None, inputs)
        return outputs
