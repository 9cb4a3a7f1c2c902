"""LiteRT files."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor, nn

from ofa.formats.onnx import INPUT
from ofa.optional import extra, require

EXTRA = extra("litert")


def export_litert(module: nn.Module, images: Tensor, output: str) -> bytes:
    """A module as a ``.tflite`` file, whose signature calls the input ``images`` and the output ``output``.

    Raises:
        NotInstalledError: If the converter is not there.
    """
    litert = require("litert_torch", EXTRA)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        litert.convert(_Named(module, output).eval(), sample_kwargs={INPUT: images}).export(str(path))
        return path.read_bytes()


class _Named(nn.Module):
    """The converter takes names from those of keyword arguments, and from the keys of a dict that is returned."""

    def __init__(self, module: nn.Module, output: str) -> None:
        super().__init__()
        self.module, self.output = module, output

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {self.output: self.module(images)}
