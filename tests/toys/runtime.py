"""torch's own interpreter of exported programs."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ofa.hardware.runtimes.session import Array, Arrays, Input, Model, check_exists, random_inputs
from ofa.optional import package_versions, require
from ofa.setting import Setting


class Aten:
    """Takes ``.pt2`` files."""

    format = "pt2"
    precisions = ("fp32",)
    on_cpu = True

    def prepare(self, model: Model, setting: Setting) -> AtenSession:
        check_exists(model, "a .pt2")
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        return AtenSession(require("torch", "torch"), data)

    def versions(self) -> dict[str, str]:
        return package_versions("torch", extra="torch")


class AtenSession:
    """A program of one input."""

    def __init__(self, torch: Any, data: bytes) -> None:
        program = torch.export.load(io.BytesIO(data))
        self._torch, self._module = torch, program.module()
        self._shape = tuple(program.example_inputs[0][0].shape)

    def random_inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        return random_inputs([Input("images", self._shape, "float32")], self._shape[0], rng)

    def run(self, inputs: Arrays) -> list[Array]:
        return [self.prepared(inputs)().numpy()]

    def prepared(self, inputs: Arrays) -> Any:
        (array,) = inputs.values()
        return partial(self._torch.inference_mode()(self._module), self._torch.from_numpy(array))
