"""What every runtime provides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ofa.hardware.device import Device

Arrays = Mapping[str, npt.NDArray[np.generic]]


class ModelError(ValueError):
    """A model cannot be read, or cannot be run as it is."""


class Session(Protocol):
    """A model that is ready to run."""

    def random_inputs(self, rng: np.random.Generator) -> Arrays:
        """Inputs of the right names, shapes and types."""
        ...

    def run(self, inputs: Arrays) -> list[npt.NDArray[np.generic]]:
        """Outputs, in the order of the model."""
        ...


class Runtime(Protocol):
    """Software that runs models. It is made without arguments."""

    def prepare(self, model: bytes | Path | str, device: Device) -> Session:
        """Load an ONNX model, given as its bytes or its path; :class:`ModelError` if that fails."""
        ...

    def versions(self) -> dict[str, str]:
        """Names and versions of the software that decides the speed."""
        ...
