"""A runtime in a process of its own, for networks that nobody vouches for: they may hang, crash, or fill the memory.

The process gets so much time, and on a CPU so much memory; then it is ended. It is no sandbox: whoever finds a fault of
the runtime that executes what it should not has our rights. It imports what the runner of far machines does
(:mod:`ofa.hardware.transports.bundle`), which takes a fraction of a second; both ends are in this file.

Each way goes a line of JSON, and after it the arrays that it names, raw.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ofa.hardware.runtimes import Kernels, Model, ModelError, NotInstalledError, Runtime
from ofa.hardware.runtimes.session import Array, Arrays, Run
from ofa.setting import Setting

MEMORY_SHARE = 0.75  # of this machine's
MAX_LINE_BYTES = 1 << 16
ENDING_SECONDS = 5.0
MAX_OUTPUT_BYTES = 1 << 30
START = "import sys; sys.path.insert(0, sys.argv[1]); from ofa.hardware.apart import serve; serve()"
ERRORS = {error.__name__: error for error in (ModelError, NotInstalledError)}


@contextmanager
def apart(factory: Callable[[], Runtime], *, seconds: float) -> Iterator[Runtime]:
    """A runtime whose sessions run elsewhere, until the block ends.

    Args:
        factory: An entry of :data:`~ofa.hardware.runtimes.RUNTIMES`, which can be imported by its name.
        seconds: For all that a session does, from its start on.
    """
    with contextlib.ExitStack() as sessions:
        yield _Apart(factory, seconds, sessions)


class _Apart:
    def __init__(self, factory: Callable[[], Runtime], seconds: float, sessions: contextlib.ExitStack) -> None:
        self._factory, self._seconds, self._sessions = factory, seconds, sessions
        self._here = here = factory()
        self.format, self.precisions, self.on_cpu = here.format, here.precisions, here.on_cpu

    def prepare(self, model: Model, setting: Setting) -> _Session:
        assert isinstance(model, (str, Path)), "a file"
        session = self._sessions.enter_context(_started(self._seconds))
        session.ask(
            {
                "path": [entry for entry in sys.path if entry],
                "runtime": [self._factory.__module__, self._factory.__qualname__],
                "model": str(Path(str(model)).absolute()),
                "setting": dataclasses.asdict(setting),
                "is_limited": self.on_cpu,
            }
        )
        return session

    def versions(self) -> dict[str, str]:
        return self._here.versions()


@contextmanager
def _started(seconds: float) -> Iterator[_Session]:
    from ofa.hardware.transports.bundle import build_bundle

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "runner.pyz")
        bundle.write_bytes(build_bundle())
        # -P: not a module from where we happen to be, which may be the folder that is looked at.
        command = [sys.executable, "-P", "-c", START, str(bundle)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder
        )
        with contextlib.suppress(BrokenPipeError), process:  # what was not written when it ended
            try:
                yield _Session(process, seconds)
            finally:
                process.kill()


class _Session:
    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._process, self._seconds, self._lock = process, seconds, threading.Lock()
        self._end = time.monotonic() + seconds

    def run(self, inputs: Arrays) -> list[Array]:
        return self.ask({}, inputs)

    def kernels(self) -> Kernels:
        (counts,) = self.ask({"kernels": True})
        return Kernels(*map(int, counts))

    def ask(self, request: Mapping[str, Any], inputs: Arrays | None = None) -> list[Array]:
        """One answer; :class:`ModelError` if it is a refusal, or if the process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        given = inputs or {}
        with self._lock:
            timer = threading.Timer(max(0.0, self._end - time.monotonic()), self._process.kill)
            timer.start()
            try:
                _write(self._process.stdin, {**request, "names": list(given)}, list(given.values()))
                answer, outputs = _read(self._process.stdout)
            except (OSError, EOFError):
                raise ModelError(self._why_it_ended()) from None
            finally:
                timer.cancel()
        if "error" in answer:
            kind, message = answer["error"]
            raise ERRORS.get(kind, ModelError)(message)
        return outputs

    def _why_it_ended(self) -> str:
        if time.monotonic() >= self._end:
            return f"the network has not come to an end within {self._seconds:g} s"
        try:
            status = self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return "the runtime gives no answer that can be read"
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return f"the runtime ended with {how}: the network makes it crash, or takes more memory than there is"

    def random_inputs(self, rng: np.random.Generator) -> Arrays:
        raise NotImplementedError  # nothing is timed here

    def prepared(self, inputs: Arrays) -> Run:
        raise NotImplementedError


# -- the other process -------------------------------------------------------------------------------------------------


def serve() -> None:
    """Load the model that the first request names, then run it on the arrays of each that follows."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # runtimes print
    session: Any = None
    outputs: list[Any] = []
    while True:
        try:
            request, arrays = _read(requests)
        except EOFError:
            return
        try:
            if session is None:
                session, outputs = _load(request), list[Array]()
            elif "kernels" in request:
                outputs = [np.array(session.kernels())]
            else:
                outputs = session.run(dict(zip(request["names"], arrays, strict=True)))
        # Whatever a runtime makes of a stranger's network is its answer.
        except Exception as error:
            _write(answers, {"error": [type(error).__name__, str(error)[:2000]]}, [])
            continue
        _write(answers, {}, outputs)


def _load(request: Mapping[str, Any]) -> Any:
    sys.path += [entry for entry in request["path"] if entry not in sys.path]
    if request["is_limited"]:
        _limit_memory()
    module, name = request["runtime"]
    return getattr(importlib.import_module(module), name)().prepare(request["model"], Setting(**request["setting"]))


def _limit_memory() -> None:
    import resource

    # What is written to, not what is reserved: allocators and threads reserve far more than they use.
    limit = int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


# -- both --------------------------------------------------------------------------------------------------------------


def _write(stream: IO[bytes], line: Mapping[str, Any], arrays: Sequence[Array]) -> None:
    described = [[array.dtype.str, array.shape] for array in arrays]
    stream.write(json.dumps({**line, "arrays": described}).encode() + b"\n")
    for array in arrays:
        stream.write(array.tobytes())
    stream.flush()


def _read(stream: IO[bytes]) -> tuple[dict[str, Any], list[Array]]:
    """What the other end wrote; :class:`EOFError` if it has ended."""
    line = stream.readline(MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError
    content = json.loads(line)
    arrays = []
    for dtype, shape in content["arrays"]:
        kind = np.dtype(dtype)
        num_bytes = kind.itemsize * int(np.prod(shape, dtype=object))
        if num_bytes > MAX_OUTPUT_BYTES:
            raise ModelError(f"an output of {num_bytes} bytes is above the limit of {MAX_OUTPUT_BYTES}")
        data = stream.read(num_bytes)
        if len(data) < num_bytes:
            raise EOFError
        arrays.append(np.frombuffer(data, kind).reshape(shape))
    return content, arrays
