"""What runs a model. A new runtime is one file here and one line in :data:`RUNTIMES`."""

from __future__ import annotations

from ofa.hardware.runtimes.onnxruntime import OnnxRuntime
from ofa.hardware.runtimes.session import ModelError, Runtime, Session

__all__ = ["RUNTIMES", "ModelError", "Runtime", "Session"]

RUNTIMES: dict[str, type[Runtime]] = {"onnxruntime": OnnxRuntime}
