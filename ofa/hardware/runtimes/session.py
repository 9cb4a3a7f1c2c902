"""What every runtime provides."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ofa.errors import OfaError
from ofa.setting import Setting

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]
Model = bytes | Path | str | Any
"""Bytes or path of a file of the runtime's format; for the runtimes of torch a module with its input shape."""


class ModelError(OfaError, ValueError):
    """A model cannot be read, or cannot be run as it is."""


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of a model before what is wrong with it."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None


@contextmanager
def without_notes() -> Iterator[None]:
    """Without what a runtime writes about itself, past Python, to the standard error."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@runtime_checkable
class Burst(Protocol):
    """A model that only a program of its own can run and time."""

    def durations_ns(self, block_ns: int, min_runs: int) -> list[int]:
        """Warm up, then nanoseconds of each run, for about as long as ``block_ns`` and at least ``min_runs`` times."""
        ...


Run = Callable[[], object] | Burst
"""A model that is ready: called, it runs once and returns when it is finished."""


class Session(Protocol):
    """A model that is ready to run."""

    def random_inputs(self, rng: np.random.Generator) -> Arrays:
        """Inputs of the right names, shapes and types."""
        ...

    def run(self, inputs: Arrays) -> list[Array]:
        """Outputs, in the order of the model."""
        ...

    def prepared(self, inputs: Arrays) -> Run:
        """A model to be timed: its inputs are where it reads them, and it has finished when it returns."""
        ...


class Runtime(Protocol):
    """Software that runs models. It is made without arguments.

    ``format`` is what it takes, a name of :data:`ofa.formats.FORMATS` or ``module``, a torch module in this process;
    ``precisions`` what it can compute in, ``on_cpu`` whether its work is done by the threads of the calling process.
    """

    @property
    def format(self) -> str: ...
    @property
    def precisions(self) -> tuple[str, ...]: ...
    @property
    def on_cpu(self) -> bool: ...

    def prepare(self, model: Model, setting: Setting) -> Session:
        """Load a model.

        Args:
            setting: Says how many threads compute, and what a free batch dimension becomes.

        Raises:
            ModelError: If there is no such file, if the runtime cannot load it, or if another size is free.
            NotInstalledError: If the runtime is not there, or no GPU that it needs.
        """
        ...

    def versions(self) -> dict[str, str]:
        """Names and versions of the software that decides the speed; :class:`NotInstalledError` if it is not there."""
        ...


class Input(NamedTuple):
    """An input of a model.

    Args:
        shape: ``None`` or a name where a size is free.
        dtype: A numpy type.
    """

    name: str
    shape: Sequence[int | str | None]
    dtype: str


WHOLE_NUMBERS = ("int64", "int32", "bool")


def random_inputs(inputs: Sequence[Input], batch: int, rng: np.random.Generator) -> dict[str, Array]:
    """Normal for floats, uniform for bytes, ones for other whole numbers (tokens, masks); only a batch may be free.

    Raises:
        ModelError: If an input has another free dimension or another type.
    """
    arrays: dict[str, Array] = {}
    for name, shape, dtype in inputs:
        first, *rest = shape or [1]
        sizes = [size for size in (first if isinstance(first, int) else batch, *rest) if isinstance(size, int)]
        if len(sizes) < 1 + len(rest):
            raise ModelError(f"input {name!r} has free dimensions {list(shape)}; export it with a fixed size")
        if dtype in ("float32", "float16"):
            arrays[name] = rng.standard_normal(sizes).astype(dtype)
        elif dtype in ("uint8", "int8"):
            arrays[name] = rng.integers(0, 128, sizes).astype(dtype)
        elif dtype in WHOLE_NUMBERS:
            arrays[name] = np.ones(sizes, dtype)
        else:
            raise ModelError(f"input {name!r} is a {dtype}; only floats, whole numbers and truth values can be timed")
    return arrays


def check_exists(model: Model, kind: str) -> str:
    """What a model is called in messages; :class:`ModelError` if it is the path of no file."""
    if isinstance(model, bytes):
        return "model"
    if not Path(model).is_file():
        raise ModelError(f"no model {model}; give the path of {kind} file")
    return f"model {model}"
