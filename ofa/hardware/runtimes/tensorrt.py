"""TensorRT through its Python API, 10.x and 11.x. Where it is only a program see :mod:`ofa.hardware.runtimes.trtexec`.

Networks are strongly typed: what they compute in is what the ONNX graph says, so fp16 models are exported as fp16 and
int8 models hold Q/DQ nodes. From 11.x there is nothing else; on 10.x a flag asks for it, so that both agree.

Memory and streams come from ``cuda.bindings``: NVIDIA's own, a few megabytes, without torch on the device. No GPU was
at hand when this was written: names and signatures are those of the 10.16 and 11.4 bindings, nothing was executed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.files import atomic_path
from ofa.hardware.runtimes.session import Array, Arrays, Input, Model, ModelError, Run, check_exists, random_inputs
from ofa.optional import NotInstalledError, extra, require
from ofa.setting import Setting

EXTRA = extra("tensorrt")
ENGINE_SUFFIX = ".engine"
BUILD_FLAGS = ("strongly typed", "no tf32")
DTYPES = {"FLOAT": "float32", "HALF": "float16"}
DTYPES |= {name.upper(): name for name in ("int8", "uint8", "int32", "int64", "bool")}


class TensorRt:
    """Runs engines that it builds and keeps; all kernels of a call are launched at once as a CUDA graph.

    Which kernels ("tactics") an engine gets depends on timings that TensorRT takes while it builds. They are kept in a
    timing cache, one per GPU, version and flags, so that the parts and the whole networks of a table get the same ones.
    fp32 means fp32: TF32 is off.
    """

    format: str = "onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    on_cpu = False

    def prepare(self, model: Model, setting: Setting) -> TensorRtSession:
        """Build the engine of ONNX bytes or an ONNX file, or load it if this was done before; or load ``*.engine``."""
        what, versions = check_exists(model, "an ONNX"), self.versions()
        is_engine = not isinstance(model, bytes) and Path(model).suffix == ENGINE_SUFFIX
        path = Path(str(model)) if is_engine else self._cached(model, setting, versions)
        session = self._load(path, what, setting.batch)
        if session is None and is_engine:
            raise ModelError(
                f"{what} was built for another GPU or version than {versions}; build it again from its ONNX file"
            )
        if session is None:
            timings = cache_file("timing", BUILD_FLAGS, versions)
            known = timings.read_bytes() if timings.is_file() else b""
            engine, known = self._build(model, what, setting.batch, known)
            for file, data in ((timings, known), (path, engine)):
                with atomic_path(file) as temporary:
                    temporary.write_bytes(data)
            session = self._load(path, what, setting.batch)
        if session is None:
            raise ModelError(f"TensorRT cannot load the engine that it has just built of {what}; free some GPU memory")
        return session

    def engine(self, model: Model, setting: Setting) -> bytes:
        """The engine that :meth:`prepare` builds of a model, serialised; it raises the same."""
        self.prepare(model, setting)
        return self._cached(model, setting, self.versions()).read_bytes()

    def _cached(self, model: Model, setting: Setting, versions: dict[str, str]) -> Path:
        return cache_file("engine", read_model(model), setting.batch, BUILD_FLAGS, versions)

    def versions(self) -> dict[str, str]:
        trt = require("tensorrt", EXTRA)
        require("cuda.bindings.runtime", EXTRA)
        return {"tensorrt": trt.__version__, **gpu_versions()}

    def _build(self, model: Model, what: str, batch: int, timings: bytes) -> tuple[bytes, bytes]:
        """A serialised engine, and the timing cache that came with it."""
        trt = require("tensorrt", EXTRA)
        logger = _logger(trt)
        builder = trt.Builder(logger)
        # The flag has another number in 11.x, where it changes nothing.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        path = () if isinstance(model, bytes) else (str(model),)  # weights in other files lie beside it
        if not parser.parse(read_model(model), *path):
            errors = [parser.get_error(index).desc() for index in range(parser.num_errors)] or logger.errors
            raise ModelError(f"{what} is not a valid ONNX model for TensorRT ({'; '.join(errors)}); export it again")

        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        tensors = [network.get_input(index) for index in range(network.num_inputs)]
        arrays = random_inputs([_input(t.name, t.shape, t.dtype) for t in tensors], batch, np.random.default_rng(0))
        profile = builder.create_optimization_profile()
        for tensor in tensors:
            profile.set_shape(tensor.name, *[arrays[tensor.name].shape] * 3)
        if any(-1 in tuple(tensor.shape) for tensor in tensors):
            config.add_optimization_profile(profile)
        # A cache of another GPU or version is refused, and a new one begun.
        cache = config.create_timing_cache(timings)
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise ModelError(f"TensorRT cannot build {what} ({'; '.join(logger.errors[-2:])})")
        return bytes(memoryview(engine)), bytes(memoryview(config.get_timing_cache().serialize()))

    def _load(self, path: Path, what: str, batch: int) -> TensorRtSession | None:
        """``None`` if there is no such file, or if it holds no engine that runs here."""
        if not path.is_file():
            return None
        trt, cuda = require("tensorrt", EXTRA), require("cuda.bindings.runtime", EXTRA)
        logger = _logger(trt)
        loaded = trt.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
        return None if loaded is None else TensorRtSession(trt, cuda, loaded, logger, what, batch)


class TensorRtSession:
    """An engine with its memory on the GPU, which all calls share."""

    def __init__(self, trt: Any, cuda: Any, engine: Any, logger: Any, what: str, batch: int) -> None:
        self._cuda, self._engine, self._logger, self._what, self._batch = cuda, engine, logger, what, batch
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ModelError(
                f"the GPU has no room for {what} ({'; '.join(logger.errors[-2:])}); free some of its memory"
            )
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._inputs = [
            _input(name, engine.get_tensor_shape(name), engine.get_tensor_dtype(name))
            for name in names
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        ]
        arrays = random_inputs(self._inputs, batch, np.random.default_rng(0))
        for name, array in arrays.items():
            self._context.set_input_shape(name, array.shape)
        self._outputs = {
            name: _empty(name, self._context.get_tensor_shape(name), engine.get_tensor_dtype(name))
            for name in names
            if name not in arrays
        }
        self._stream = self._call(cuda.cudaStreamCreate())
        self._shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        self._addresses: dict[str, int] = {}
        weakref.finalize(self, _free, cuda, self._addresses)
        for name, array in {**arrays, **self._outputs}.items():
            self._addresses[name] = self._call(cuda.cudaMalloc(max(array.nbytes, 1)))
            self._context.set_tensor_address(name, int(self._addresses[name]))

    def random_inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        return random_inputs(self._inputs, self._batch, rng)

    def run(self, inputs: Arrays) -> list[Array]:
        self._upload(inputs)
        self._enqueue()
        self._call(self._cuda.cudaStreamSynchronize(self._stream))
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for name, array in self._outputs.items():
            self._call(self._cuda.cudaMemcpy(array.ctypes.data, self._addresses[name], array.nbytes, kind))
        return [array.copy() for array in self._outputs.values()]

    def prepared(self, inputs: Arrays) -> Run:
        """Inputs and outputs stay on the GPU while it is timed, as in trtexec from 11.x on."""
        self.run(inputs)  # TensorRT puts work off to the first call, which a graph must not hold
        cuda, stream = self._cuda, self._stream
        self._call(cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        self._enqueue()
        graph = self._call(cuda.cudaGraphInstantiate(self._call(cuda.cudaStreamEndCapture(stream)), 0))

        def run() -> dict[str, int]:
            self._call(cuda.cudaGraphLaunch(graph, stream))
            self._call(cuda.cudaStreamSynchronize(stream))
            return self._addresses

        return run

    def _upload(self, inputs: Arrays) -> None:
        for name, (shape, dtype) in self._shapes.items():
            array = np.ascontiguousarray(inputs[name])
            if array.shape != shape or array.dtype != dtype:
                raise ModelError(
                    f"input {name!r} of {self._what} is {dtype} of shape {shape}, not {array.dtype} of {array.shape}"
                )
            kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._call(self._cuda.cudaMemcpy(self._addresses[name], array.ctypes.data, array.nbytes, kind))

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise ModelError(f"TensorRT cannot run {self._what} ({'; '.join(self._logger.errors[-2:])})")

    def _call(self, result: tuple[Any, ...]) -> Any:
        """The value that a function of CUDA returns behind its status."""
        status, *values = result
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise ModelError(
                f"the GPU cannot run {self._what} ({status.name}); see that it is free and has memory left"
            )
        return values[0] if values else None


def _free(cuda: Any, addresses: dict[str, int]) -> None:
    for address in addresses.values():
        cuda.cudaFree(address)


def _logger(trt: Any) -> Any:
    """Keeps errors instead of printing them."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _input(name: str, shape: Sequence[int], dtype: Any) -> Input:
    return Input(name, [None if size < 0 else size for size in shape], DTYPES.get(dtype.name, dtype.name))


def _empty(name: str, shape: Sequence[int], dtype: Any) -> Array:
    """Where an output goes."""
    if dtype.name not in DTYPES:
        raise ModelError(f"output {name!r} is a {dtype.name}, which numpy lacks; export it as a float")
    if any(size < 0 for size in shape):
        raise ModelError(f"output {name!r} has free dimensions {list(shape)}; export it with a fixed size")
    return np.empty(tuple(shape), DTYPES[dtype.name])


def gpu_versions() -> dict[str, str]:
    """Name of the first GPU, and the newest CUDA that its driver runs.

    They are asked of the driver itself, so that no package need be there.

    Raises:
        NotInstalledError: If there is no driver or no GPU.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise NotInstalledError(
            f"this machine has no NVIDIA driver ({error}); install it, or choose a device of another runtime"
        ) from None
    version, number, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    status = (
        driver.cuInit(0)
        or driver.cuDriverGetVersion(ctypes.byref(version))
        or driver.cuDeviceGet(ctypes.byref(number), 0)
        or driver.cuDeviceGetName(name, len(name), number)
    )
    if status:
        raise NotInstalledError(
            f"the NVIDIA driver finds no GPU (error {status}); see nvidia-smi, or choose a device of another runtime"
        )
    return {"cuda": f"{version.value // 1000}.{version.value % 1000 // 10}", "gpu": name.value.decode()}


def read_model(model: Model) -> bytes:
    return model if isinstance(model, bytes) else Path(model).read_bytes()


def cache_file(kind: str, *facts: object) -> Path:
    """File for what depends on these facts, whether it is there or not; bytes count by their content."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(hashlib.sha256(fact if isinstance(fact, bytes) else repr(fact).encode()).digest())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "ofa" / "tensorrt" / f"{digest.hexdigest()[:24]}.{kind}"
