"""LiteRT files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from ofa.formats.executorch import fold_bn, quiet
from ofa.optional import extra, require

EXTRA = extra("litert")


def export_litert(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> bytes:
    """A module as a ``.tflite`` file.

    Args:
        module: In eval mode, on the CPU.
        shape: Of the input, with the batch.
        dtype: Of the input.

    Raises:
        NotInstalledError: If the converter is not there.
    """
    with quiet(), torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        litert = require("litert_torch", EXTRA)
        images = torch.zeros(shape, dtype=dtype)
        path = Path(folder) / "model.tflite"
        litert.convert(fold_bn(module, images).eval(), (images,)).export(str(path))
        return path.read_bytes()
