"""Whether an exported file computes what it should."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ofa.errors import OfaError
from ofa.formats.onnx import INPUT
from ofa.hardware.runtimes import RUNTIMES, Model, ModelError, Runtime
from ofa.setting import REFERENCE, Setting

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 2.5e-1}
"""Share of the largest absolute output by which a file may depart from its reference.

For INT8 the reference is the quantized graph in floating point. Where a kernel rounds a sum to the other side, a value
moves by one of 256 steps, and later layers carry that on. Only faults of the graph are found so; what INT8 costs is
measured as accuracy.
"""
NUM_PARITY_IMAGES = 32  # real ones: noise does not reach the activations that matter
CONCURRENT_RUNTIMES = ("onnxruntime",)  # sessions that several threads may call

Images = npt.NDArray[np.generic]
Outputs = npt.NDArray[np.float32]


class ParityError(OfaError, ValueError):
    """An exported file does not compute what it should."""


def compare_outputs(expected: Outputs, found: Outputs, *, what: str, tolerance: float) -> float:
    """Largest absolute difference of outputs ``(N, ...)``.

    Args:
        tolerance: Share of the largest absolute value in ``expected``.

    Raises:
        ParityError: If it is exceeded, which names the worst image, or if shapes differ.
    """
    if expected.shape != found.shape:
        raise ParityError(f"{what} gives outputs of shape {found.shape}, not {expected.shape}; export it again")
    differences = np.abs(expected - found).reshape(len(expected), -1).max(axis=1)
    worst = int(np.argmax(differences))  # a NaN counts as the largest
    limit = tolerance * float(np.abs(expected).max())
    if not differences[worst] <= limit:
        raise ParityError(
            f"{what} departs by {differences[worst]:.3g} on image {worst} of {len(expected)}; at most {limit:.3g} is "
            f"allowed, {tolerance:g} of the largest output; export it again, or report the architecture"
        )
    return float(differences[worst])


def load_outputs(
    model: Model,
    *,
    setting: Setting = REFERENCE,
    batch: int | None = 1,
    runtime: Runtime | None = None,
    input_name: str = INPUT,
) -> Callable[[Images], Outputs]:
    """Load an exported file, to be run on images; in ONNX Runtime on several threads side by side.

    Args:
        model: As the runtime takes it.
        batch: Images in one call of the file; ``None`` if it takes any number.
        runtime: Instead of the setting's.
        input_name: Of the file's only input.

    Returns:
        A function of images ``(N, *input_shape)``, ``N`` at least 1, that gives the output ``(N, ...)``. It raises
        :class:`ModelError` if the file does not take such images.

    Raises:
        ModelError: If the file cannot be loaded.
        NotInstalledError: If the runtime is not there.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    session = (runtime or RUNTIMES[setting.runtime]()).prepare(model, setting)
    size = batch or 1

    def run(chunk: Images) -> Outputs:
        filled = chunk if batch is None or len(chunk) == batch else np.resize(chunk, (batch, *chunk.shape[1:]))
        found: Outputs = session.run({input_name: np.ascontiguousarray(filled)})[0][: len(chunk)].astype(np.float32)
        return found

    def outputs(images: Images) -> Outputs:
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        try:
            if setting.runtime not in CONCURRENT_RUNTIMES:
                return np.concatenate([run(chunk) for chunk in chunks])
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return np.concatenate(list(pool.map(run, chunks)))
        except ModelError:
            raise
        except (errors.Fail, errors.InvalidArgument, errors.RuntimeException, ValueError, RuntimeError) as error:
            raise ModelError(f"the model does not run on images of shape {images.shape[1:]}: {error}") from None

    return outputs
