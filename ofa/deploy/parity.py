"""Whether an exported file computes what the module computes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ofa.deploy.onnx_export import INPUT
from ofa.hardware.device import Device
from ofa.hardware.runtimes import RUNTIMES, ModelError

TOLERANCE = 1e-4
HERE = Device(name="here", runtime="onnxruntime")

Logits = npt.NDArray[np.float32]


class ParityError(ValueError):
    """An exported file does not compute what it should."""


def check_parity(module: nn.Module, onnx_path: Path | str, images: Tensor) -> float:
    """Compare an exported file with the module that it was made of.

    Args:
        module: In eval mode.
        images: Real ones, normalised, ``(N, C, H, W)``: noise does not reach the activations that matter.

    Returns:
        The largest absolute difference of two logits.

    Raises:
        ParityError: If it exceeds 1e-4 of the largest absolute logit of these images; it names the worst image.
    """
    with torch.inference_mode():
        expected = module(images).float().cpu().numpy()
    return compare_logits(expected, run_logits(onnx_path, images.cpu().numpy()), what=str(onnx_path))


def compare_logits(expected: Logits, found: Logits, *, what: str) -> float:
    """Largest absolute difference; :class:`ParityError` as of :func:`check_parity`, also if shapes differ."""
    if expected.shape != found.shape:
        raise ParityError(f"{what} gives logits of shape {found.shape}, not {expected.shape}; export it again")
    differences = np.abs(expected - found).max(axis=1)
    worst = int(np.argmax(differences))  # a NaN counts as the largest
    limit = TOLERANCE * float(np.abs(expected).max())
    if not differences[worst] <= limit:
        raise ParityError(
            f"{what} departs by {differences[worst]:.3g} on image {worst} of {len(expected)}; at most {limit:.3g} is "
            f"allowed, {TOLERANCE:g} of the largest logit; export it again, or report the architecture"
        )
    return float(differences[worst])


def run_logits(model: bytes | Path | str, images: npt.NDArray[np.float32]) -> Logits:
    """Run an exported file in ONNX Runtime, one image at a time, several threads side by side.

    Args:
        images: Normalised, ``(N, C, H, W)``, ``N`` at least 1.

    Returns:
        Logits ``(N, num_classes)``.

    Raises:
        ModelError: If the file cannot be loaded or does not take such images.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    def run(image: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        return session.run({INPUT: image[None]})[0]

    try:
        session = RUNTIMES[HERE.runtime]().prepare(model, HERE)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.concatenate(list(pool.map(run, images))).astype(np.float32)
    except ModelError:
        raise
    except (errors.Fail, errors.InvalidArgument, errors.RuntimeException, ValueError) as error:
        raise ModelError(f"the model does not run on images of shape {images.shape[1:]}: {error}") from None
