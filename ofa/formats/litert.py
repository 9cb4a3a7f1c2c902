"""LiteRT files."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor, nn

from ofa.optional import extra, require

EXTRA = extra("litert")


def export_litert(module: nn.Module, images: Tensor) -> bytes:
    """A module as a ``.tflite`` file.

    Raises:
        NotInstalledError: If the converter is not there.
    """
    litert = require("litert_torch", EXTRA)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        litert.convert(module, (images,)).export(str(path))
        return path.read_bytes()
