"""TensorRT where it is only a program, as on many Jetsons: ``trtexec`` builds the engines, runs and times them.

The options are those that the program itself lists, so 10.x and 11.x are called the same way: 10.x needs
``--stronglyTyped --noDataTransfers --useSpinWait --useCudaGraph`` for what 11.x does anyway.

The time of a run is ``computeMs`` of ``--exportTimes``: what the GPU needs between two CUDA events. ``latencyMs`` adds
the transfers, which are off here, and the time stamps beside it have six digits, too few after some seconds. Times are
never read from the log.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from ofa.files import atomic_path
from ofa.hardware.runtimes.session import (
    WHOLE_NUMBERS,
    Array,
    Arrays,
    Input,
    Model,
    ModelError,
    Run,
    check_exists,
    random_inputs,
)
from ofa.hardware.runtimes.tensorrt import cache_file, gpu_versions, read_model
from ofa.optional import NotInstalledError, require
from ofa.setting import Setting

VARIABLE = "TRTEXEC"
USUAL_PLACE = Path("/usr/src/tensorrt/bin/trtexec")
ENDS_SUFFIX = ".ends"
MIN_MAJOR = 10  # strongly typed networks
BUILD_OPTIONS = ("--stronglyTyped", "--noTF32", "--skipInference")
TIMING_OPTIONS = ("--noDataTransfers", "--useSpinWait", "--useCudaGraph")
BUILD_SECONDS = 1800.0
START_SECONDS = 120.0  # until the engine is loaded and CUDA is there
WARM_UP_MS = 200
CONSEQUENCES = (
    "Failed to parse onnx file",
    "Parsing model failed",
    "Network And Config setup failed",
    "Building engine failed",
    "Engine could not be created from network",
    "Failed to create engine from model or file.",
    "Engine set up failed",
    "Engine deserialization failed",
    "Got invalid engine!",
    "Inference set up failed",
    "Error occurred during inference",
)
"""Errors of trtexec that only say that there was one before."""


class TrtExec:
    """Starts the program once to build a model, and once for each block that is timed.

    A start takes a second or more, so longer blocks than usual (``block_seconds``) cost hardly more time. The program
    is the one that ``$TRTEXEC`` names, or else the one in ``$PATH``, or that of a JetPack. fp32 means fp32: TF32 is
    off. What computes is what the ONNX graph says, see :mod:`ofa.hardware.runtimes.tensorrt`.
    """

    format: str = "onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    on_cpu = False

    def prepare(self, model: Model, setting: Setting) -> TrtExecSession:
        """Build the engine of ONNX bytes or an ONNX file, unless this was done before."""
        what, (inputs, outputs) = check_exists(model, "an ONNX"), graph_ends(model)
        data, shapes = read_model(model), _shapes(inputs, setting.batch)
        versions, options = self.versions(), self._program.known(BUILD_OPTIONS)
        engine = cache_file("engine", data, shapes, options, versions)
        if not engine.is_file():
            timings = cache_file("timing", options, versions)
            timings.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory() as folder, atomic_path(engine) as temporary:
                onnx = Path(folder, "model.onnx") if isinstance(model, bytes) else Path(model).resolve()
                if isinstance(model, bytes):
                    onnx.write_bytes(model)
                files = (f"--onnx={onnx}", f"--saveEngine={temporary}", f"--timingCacheFile={timings}")
                self._program.run([*files, *options, *shapes], f"build {what}", BUILD_SECONDS, folder)
                if not temporary.stat().st_size:
                    raise ModelError(
                        f"trtexec has built no engine of {what}, though it reports success; try it by hand"
                    )
        return TrtExecSession(self._program, engine, what, inputs, outputs, setting.batch)

    def versions(self) -> dict[str, str]:
        return {"trtexec": self._program.version, **gpu_versions()}

    @cached_property
    def _program(self) -> Program:
        return find_program()


class TrtExecSession:
    """An engine file, and the :class:`~ofa.hardware.runtimes.session.Burst` that times it."""

    def __init__(
        self, program: Program, engine: Path, what: str, inputs: Sequence[Input], outputs: Sequence[str], batch: int
    ) -> None:
        self._program, self._engine, self._what = program, engine, what
        self._inputs, self._outputs, self._batch = inputs, outputs, batch

    def random_inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        return random_inputs(self._inputs, self._batch, rng)

    def run(self, inputs: Arrays) -> list[Array]:
        """Outputs as float32 with six digits, which is what the program writes."""
        with TemporaryDirectory() as folder:
            given = []
            for number, entry in enumerate(self._inputs):
                inputs[entry.name].tofile(Path(folder, f"{number}.bin"))
                given.append(f"{entry.name}:{number}.bin")
            options = [f"--loadInputs={','.join(given)}", "--exportOutput=outputs.json"]
            options += ["--warmUp=0", "--duration=0", "--iterations=1"]
            options += self._program.known(
                ["--includeDataTransfers"]
            )  # from 11.x on inputs do not come to it otherwise
            self._start(options, START_SECONDS, folder)
            return read_outputs(Path(folder, "outputs.json"), self._outputs)

    def prepared(self, inputs: Arrays) -> Run:
        """This session: trtexec fills the inputs with random numbers of its own, so ``inputs`` is not used."""
        return self

    def durations_ns(self, block_ns: int, min_runs: int) -> list[int]:
        """Start the program once; the time on the GPU of each of its runs."""
        with TemporaryDirectory() as folder:
            options = ["--exportTimes=times.json", f"--warmUp={WARM_UP_MS}", f"--duration={block_ns / 1e9:.6f}"]
            options += [f"--iterations={min_runs}", *self._program.known(TIMING_OPTIONS)]
            self._start(options, START_SECONDS + 10 * block_ns / 1e9, folder)
            return read_times_ns(Path(folder, "times.json"), WARM_UP_MS)

    def _start(self, options: Sequence[str], seconds: float, folder: str) -> None:
        options = [f"--loadEngine={self._engine}", *_shapes(self._inputs, self._batch), *options]
        self._program.run(options, f"run {self._what}", seconds, folder)


@dataclass(frozen=True)
class Program:
    """A ``trtexec``, its version, and the options that it lists."""

    path: str
    version: str
    options: frozenset[str]

    def known(self, options: Sequence[str]) -> tuple[str, ...]:
        return tuple(option for option in options if option in self.options)

    def run(self, options: Sequence[str], task: str, seconds: float, folder: str) -> None:
        """Start it in a folder and wait; :class:`ModelError` if it fails or takes longer."""
        try:
            done = _finished([self.path, *options], seconds, folder)
        except subprocess.TimeoutExpired:
            raise ModelError(
                f"trtexec needs more than {seconds:.0f} s to {task}; see whether the GPU is busy"
            ) from None
        if done.returncode:
            raise ModelError(f"trtexec cannot {task} ({last_error(done.stdout)})")


def _finished(command: Sequence[str], seconds: float, folder: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds,
    )


def find_program() -> Program:
    """The ``trtexec`` of this machine; :class:`NotInstalledError` if there is none, or one that is too old."""
    path = os.environ.get(VARIABLE) or shutil.which("trtexec") or str(USUAL_PLACE)
    remedy = f"install TensorRT {MIN_MAJOR} or later, or name it in ${VARIABLE}"
    try:
        done = _finished([path, "--help"], START_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(f"trtexec does not start ({error}); {remedy}") from None
    version = read_version(done.stdout)
    if version is None:
        raise NotInstalledError(f"{path} does not say which TensorRT it is ({last_error(done.stdout)}); {remedy}")
    if int(version.split(".")[0]) < MIN_MAJOR:
        raise NotInstalledError(f"{path} is of TensorRT {version}; {remedy}")
    return Program(path, version, frozenset(re.findall(r"^  (--\w+)", done.stdout, re.MULTILINE)))


def read_version(log: str) -> str | None:
    """``10.16.0.72`` of ``[TensorRT v101600] [b72]``; ``None`` without such a line."""
    found = re.search(r"\[TensorRT v(\d+)\](?: \[b(\d+)\])?", log)
    if found is None:
        return None
    number, build = int(found[1]), found[2]
    unit = 100 if number >= 10000 else 10  # up to 8.x there is one digit for the minor version
    parts = [number // (unit * 100), number // 100 % unit, number % 100]
    return ".".join(map(str, [*parts, *([build] if build else [])]))


def last_error(log: str) -> str:
    """The last error that is not the consequence of another one, with the lines that belong to it."""
    entries = re.split(r"^(?=\[\d\d/\d\d/\d{4}-|&&&& )", log, flags=re.MULTILINE)
    errors = [" ".join(entry.split("[E]", 1)[1].split()) for entry in entries if "[E]" in entry]
    errors = [error for error in errors if error not in CONSEQUENCES] or errors
    if errors:
        return errors[-1]
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith("&&&&")]
    return lines[-1] if lines else "it prints nothing"


def read_times_ns(path: Path, warm_up_ms: float) -> list[int]:
    """Nanoseconds of each run after the warm-up, which old versions write into the file too."""
    with _reading("times"):
        runs = json.loads(path.read_text(encoding="utf-8"))
        durations = [round(run["computeMs"] * 1e6) for run in runs if run["startComputeMs"] >= warm_up_ms]
    if not durations:
        raise ModelError(f"trtexec has timed no run after its warm-up of {warm_up_ms:g} ms; choose longer blocks")
    return durations


def read_outputs(path: Path, names: Sequence[str]) -> list[Array]:
    """Output tensors in the order of ``names``; the file has them in any order."""
    with _reading("outputs"):
        tensors = {tensor["name"]: tensor for tensor in json.loads(path.read_text(encoding="utf-8"))}
        return [
            np.array(tensors[name]["values"], np.float32).reshape(
                [int(size) for size in tensors[name]["dimensions"].split("x") if size]
            )
            for name in names
        ]


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """:class:`ModelError` if trtexec did not write a file, or not all of it, or NaN or infinities into it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the {what} that trtexec exported cannot be read ({type(error).__name__}: {error}); run it again"
        ) from None


def _shapes(inputs: Sequence[Input], batch: int) -> tuple[str, ...]:
    """The option that settles a free batch; trtexec refuses it where nothing is free."""
    for name, _, dtype in inputs:
        if dtype in WHOLE_NUMBERS:
            raise ModelError(
                f"input {name!r} is a {dtype}; trtexec fills inputs with numbers of its own, which are no tokens, so "
                "only floats and bytes can be timed"
            )
    arrays = random_inputs(inputs, batch, np.random.default_rng(0))
    free = [entry.name for entry in inputs if not all(isinstance(size, int) for size in entry.shape)]
    spec = [f"{name}:{'x'.join(map(str, arrays[name].shape))}" for name in free]
    return (f"--shapes={','.join(spec)}",) if spec else ()


def graph_ends(model: Model) -> tuple[list[Input], list[str]]:
    """Inputs of an ONNX model and names of its outputs, from the file of :func:`ends_file` beside it if there is one.

    Raises:
        ModelError: If there is no such file, or if it is no ONNX model.
        NotInstalledError: If it has to be read, and there is no onnx package.
    """
    what = check_exists(model, "an ONNX")
    if not isinstance(model, bytes) and (beside := Path(model).with_suffix(ENDS_SUFFIX)).is_file():
        inputs, outputs = json.loads(beside.read_text(encoding="utf-8"))
        return [Input(*entry) for entry in inputs], outputs
    onnx, errors = require("onnx", "onnx"), require("google.protobuf.message", "onnx")
    try:
        graph = onnx.load_from_string(read_model(model)).graph
    except errors.DecodeError as error:
        raise ModelError(f"{what} is not a valid ONNX model ({error}); export it again") from None
    if not graph.output:
        raise ModelError(f"{what} is not a valid ONNX model (it has no outputs); export it again")
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_input(onnx, value) for value in graph.input if value.name not in weights]
    return inputs, [value.name for value in graph.output]


def ends_file(model: Model) -> bytes:
    """What has to lie beside an ONNX model, as ``.ends``, on a machine without the onnx package, as devices are."""
    return json.dumps(graph_ends(model)).encode()


def _input(onnx: ModuleType, value: Any) -> Input:
    tensor = value.type.tensor_type
    shape = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return Input(value.name, shape, "float32" if dtype == "float" else dtype)
