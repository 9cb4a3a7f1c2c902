"""TensorRT without a GPU: recorded output of trtexec, a stand-in for it, and a stand-in for the Python API.

The Python API was not run on a GPU. Its stand-in has the names of the 10.16 and 11.4 bindings, and shows only what our
own code decides: what is built once, what is kept under which name, and what errors say.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper

from ofa.hardware.runtimes import ModelError, NotInstalledError, tensorrt, trtexec
from ofa.hardware.runtimes.session import Burst, Input
from ofa.hardware.runtimes.tensorrt import TensorRt, TensorRtSession, cache_file, gpu_versions
from ofa.hardware.runtimes.trtexec import (
    TrtExec,
    ends_file,
    find_program,
    graph_ends,
    last_error,
    read_outputs,
    read_times_ns,
    read_version,
)
from ofa.hardware.timing import SystemClock, time_models

RECORDED = Path(__file__).parent / "recorded"
GPU = {"cuda": "12.6", "gpu": "Orin"}


def doubling(shape=(1, 3), element_type=TensorProto.FLOAT):
    """A model that adds its input to itself, and has a weight that is also listed as an input."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Add", ["x", "w"], ["z"])],
        "doubling",
        [helper.make_tensor_value_info(name, element_type, shape) for name in ("x", "w")],
        [helper.make_tensor_value_info(name, element_type, shape) for name in ("z", "y")],
        [helper.make_tensor("w", element_type, [1], [0.0])],
    )
    return helper.make_model(graph).SerializeToString()


def device(batch=1):
    return SimpleNamespace(name="orin", batch=batch, threads=1)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, and a GPU that is only a name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (tensorrt, trtexec):
        monkeypatch.setattr(module, "gpu_versions", lambda: dict(GPU))
    return tmp_path / "cache" / "ofa" / "tensorrt"


# What trtexec prints and exports.


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101600] [b72] # trtexec --version", "10.16.0.72"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # ./trtexec --onnx=ISTD_NS.onnx", "10.13.3.9"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100001] # trtexec", "10.0.1"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110000] [b114] # trtexec --stronglyTyped", "11.0.0.114"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8503] # trtexec --fp16", "8.5.3"),
        ("bash: trtexec: command not found", None),
    ],
)
def test_versions_are_read_from_recorded_banners(banner, version):
    assert read_version(banner) == version


def test_times_on_the_gpu_are_read_in_full():
    """The time stamps beside them would give 0.23, 0.23, 0.22, 0.23, 0.24 ms."""
    durations = read_times_ns(RECORDED / "times-10.json", 5000)
    assert durations == [225098, 224609, 225098, 231445, 236328]


def test_the_warm_up_that_old_versions_export_is_left_out():
    assert read_times_ns(RECORDED / "times-7.json", 4.9) == [2703780, 4498460]
    with pytest.raises(ModelError, match=r"timed no run after its warm-up of 200 ms; choose longer blocks"):
        read_times_ns(RECORDED / "times-7.json", 200)


@pytest.mark.parametrize("content", [None, "", "[\n  {", '{"computeMs": 1}', '[{"computeMs": 1.0}]', '["run"]'])
def test_incomplete_times_are_refused(content, tmp_path):
    path = tmp_path / "times.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=r"times that trtexec exported cannot be read \(.+\); run it again"):
        read_times_ns(path, 200)


def test_outputs_are_put_in_the_order_of_the_model(tmp_path):
    path = tmp_path / "outputs.json"
    path.write_text(
        '[\n  { "name" : "b"\n  , "dimensions" : "2"\n  , "values" : [ 1, 2.5 ]\n  }\n'
        ', { "name" : "a"\n  , "dimensions" : "1x2"\n  , "values" : [ 3, 4 ]\n  }\n]\n'
    )
    first, second = read_outputs(path, ["a", "b"])
    np.testing.assert_array_equal(first, np.array([[3, 4]], np.float32))
    np.testing.assert_array_equal(second, np.array([1, 2.5], np.float32))
    with pytest.raises(ModelError, match=r"outputs that trtexec exported cannot be read \(KeyError: 'c'\)"):
        read_outputs(path, ["c"])
    path.write_text(path.read_text().replace("2.5", "nan"))
    with pytest.raises(ModelError, match="JSONDecodeError"):
        read_outputs(path, ["a"])


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("failed-parsing", r"ERROR: ModelImporter.*Invalid Node - /Tile.*an IIOneHotLayer cannot be used"),
        ("failed-building", r"Cask convolution isConsistent check failed\.\)"),
        ("failed-loading", r"engine created with incompatible serialization version"),
        ("unknown-option", r"Unknown option: --fp16"),
    ],
)
def test_the_cause_is_found_in_recorded_logs(log, reason):
    error = last_error((RECORDED / f"{log}.log").read_text())
    assert re.search(reason, error)
    assert "set up failed" not in error and "&&&&" not in error and "\n" not in error


def test_logs_without_a_cause_give_their_last_line():
    assert last_error("[09/02/2024-17:35:22] [E] Engine set up failed\n") == "Engine set up failed"
    assert last_error("loading\nlibnvinfer.so.10: cannot open\n\n&&&& FAILED x\n") == "libnvinfer.so.10: cannot open"
    assert last_error("") == "it prints nothing"


# What a model takes and gives.


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), ("batch", 3, 8, 8), ()])
@pytest.mark.parametrize(("element_type", "dtype"), [(1, "float32"), (10, "float16"), (2, "uint8"), (7, "int64")])
def test_the_ends_of_a_graph_are_those_that_it_was_made_with(shape, element_type, dtype):
    sizes = [size if isinstance(size, int) else None for size in shape]
    assert graph_ends(doubling(shape, element_type)) == ([Input("x", sizes, dtype)], ["z", "y"])


def test_whatever_is_cut_off_is_no_model():
    model = doubling()
    for length in range(len(model) // 2):  # the graph is longer than that
        with pytest.raises(ModelError, match=r"model is not a valid ONNX model .*; export it again"):
            graph_ends(model[:length])


# A stand-in for trtexec.

STAND_IN = """
import json, os, sys, time
from pathlib import Path
import numpy as np

here = Path(__file__).parent
help_text = (here / "help.txt").read_text()
arguments = dict((word.split("=", 1) + [""])[:2] for word in sys.argv[1:])
with open(here / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "--help" in arguments:
    print(help_text)
    sys.exit(0)
fault = (here / "fault").read_text() if (here / "fault").exists() else ""
for option in arguments:
    if "  " + option not in help_text:
        print("[09/08/2026-10:20:40] [E] Unknown option: " + option)
        sys.exit(1)
if fault == "fail":
    print((here / "failed.log").read_text())
    sys.exit(1)
if fault == "hang":
    time.sleep(60)
if "--onnx" in arguments:
    assert Path(arguments["--onnx"]).is_file() and Path(arguments["--timingCacheFile"]).parent.is_dir()
    Path(arguments["--saveEngine"]).write_text("" if fault == "no engine" else "an engine")
    sys.exit(0)
assert Path(arguments["--loadEngine"]).read_text() == "an engine"
if "--exportTimes" in arguments:
    start = float(arguments["--warmUp"])
    runs = [{"startComputeMs": start + 0.25 * run, "computeMs": 0.25} for run in range(int(arguments["--iterations"]))]
    text = json.dumps(runs)
    Path(arguments["--exportTimes"]).write_text(text[:-9] if fault == "truncated" else text)
if "--exportOutput" in arguments:
    name, file = arguments["--loadInputs"].split(":")
    values = np.fromfile(file, np.float32)
    shape = arguments.get("--shapes", "x:1x3").split(":")[1]
    outputs = [{"name": "y", "dimensions": shape, "values": (2 * values).tolist()}]
    outputs += [{"name": "z", "dimensions": shape, "values": values.tolist()}]
    Path(arguments["--exportOutput"]).write_text(json.dumps(outputs))
"""


class StandIn:
    """The program in a folder of its own; ``fault`` is what it does wrong."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "trtexec"
        self.path.write_text(f"#!{sys.executable}\n{STAND_IN}")
        self.path.chmod(0o755)
        self.says("help-10.5")

    def says(self, help_text):
        (self.folder / "help.txt").write_text((RECORDED / f"{help_text}.txt").read_text())

    def fault(self, kind):
        (self.folder / "fault").write_text(kind)

    def calls(self):
        """The options of each start, without those that only ask for help."""
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call != ["--help"]]


@pytest.fixture
def program(monkeypatch, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    stand_in = StandIn(folder)
    monkeypatch.setenv("TRTEXEC", str(stand_in.path))
    return stand_in


def names(call):
    return {word.split("=", 1)[0] for word in call}


@pytest.mark.parametrize(("help_text", "version"), [("help-10.5", "10.5.0.18"), ("help-11", "11.1.0.106")])
def test_versions_name_program_driver_and_gpu(program, help_text, version):
    program.says(help_text)
    assert TrtExec().versions() == {"trtexec": version, **GPU}


def test_an_engine_is_built_once_per_model_batch_and_version(program, cache, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(doubling())
    runtime = TrtExec()
    for model in (doubling(), path, str(path)):
        runtime.prepare(model, device())
    TrtExec().prepare(doubling(), device())
    (build,) = program.calls()
    assert {"--stronglyTyped", "--noTF32", "--skipInference", "--timingCacheFile"} <= names(build)
    assert not {"--fp16", "--int8", "--shapes"} & names(build)
    assert len(list(cache.glob("*.engine"))) == 1

    runtime.prepare(doubling((1, 4)), device())
    program.says("help-11")
    TrtExec().prepare(doubling(), device())
    timings = [next(word for word in call if word.startswith("--timingCacheFile")) for call in program.calls()]
    assert timings[0] == timings[1] != timings[2]


def test_a_block_is_one_start_of_the_program(program):
    run = TrtExec().prepare(doubling(), device()).prepared({})
    assert isinstance(run, Burst)
    assert run.durations_ns(20_000_000, 7) == [250_000] * 7
    call = program.calls()[-1]
    assert {"--warmUp=200", "--duration=0.020000", "--iterations=7"} <= set(call)
    assert {"--noDataTransfers", "--useSpinWait", "--useCudaGraph"} <= names(call)
    result = time_models(
        {"model": run},
        anchor=run,
        rng=np.random.default_rng(0),
        num_blocks=2,
        block_seconds=0.01,
        clock=SystemClock(on_cpu=False),
    )
    assert [block.durations_ns for block in result.blocks] == [(250_000,) * 10] * 2


@pytest.mark.parametrize("help_text", ["help-10.5", "help-11"])
def test_outputs_are_those_of_the_given_inputs(program, help_text):
    program.says(help_text)
    session = TrtExec().prepare(doubling(("batch", 3)), device(batch=2))
    inputs = session.random_inputs(np.random.default_rng(0))
    assert inputs["x"].shape == (2, 3)
    z, y = session.run(inputs)
    np.testing.assert_allclose(y, 2 * inputs["x"], rtol=1e-5)
    np.testing.assert_allclose(z, inputs["x"], rtol=1e-5)
    build, run = program.calls()
    assert "--shapes=x:2x3" in build and "--shapes=x:2x3" in run
    assert ("--includeDataTransfers" in run) == (help_text == "help-11")
    assert "--noDataTransfers" not in run


def test_a_machine_without_onnx_is_told_what_a_model_takes(program, monkeypatch, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(doubling(("batch", 3)))
    ends = ends_file(path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(NotInstalledError, match=r"onnx cannot be imported.*pip install onnx"):
        TrtExec().prepare(path, device(batch=2))
    path.with_suffix(".ends").write_bytes(ends)
    session = TrtExec().prepare(path, device(batch=2))
    inputs = session.random_inputs(np.random.default_rng(0))
    _, y = session.run(inputs)
    np.testing.assert_allclose(y, 2 * inputs["x"], rtol=1e-5)


def test_other_free_sizes_and_types_are_refused(program):
    with pytest.raises(ModelError, match=r"'x' has free dimensions.*fixed size"):
        TrtExec().prepare(doubling((1, "free")), device())
    with pytest.raises(ModelError, match=r"'x' is a int64; trtexec fills .* only floats and bytes"):
        TrtExec().prepare(doubling(element_type=TensorProto.INT64), device())


def test_trtexec_refuses_what_is_not_a_model(program, tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match=r"no model .*model\.onnx"):
        TrtExec().prepare(path, device())
    path.write_bytes(b"not a model")
    for source in (path, b"not a model", b""):
        with pytest.raises(ModelError, match="not a valid ONNX model"):
            TrtExec().prepare(source, device())


def test_a_build_that_fails_leaves_nothing_behind(program, cache):
    (program.folder / "failed.log").write_text((RECORDED / "failed-building.log").read_text())
    program.fault("fail")
    with pytest.raises(ModelError, match=r"trtexec cannot build model \(.*Cask convolution"):
        TrtExec().prepare(doubling(), device())
    program.fault("no engine")
    with pytest.raises(ModelError, match="built no engine of model, though it reports success"):
        TrtExec().prepare(doubling(), device())
    assert not list(cache.glob("*"))
    program.fault("")
    TrtExec().prepare(doubling(), device())
    assert len(list(cache.glob("*"))) == 1


def test_runs_that_fail_say_why(program, monkeypatch):
    run = TrtExec().prepare(doubling(), device()).prepared({})
    (program.folder / "failed.log").write_text((RECORDED / "failed-loading.log").read_text())
    program.fault("fail")
    with pytest.raises(ModelError, match=r"trtexec cannot run model \(.*incompatible serialization version"):
        run.durations_ns(1_000_000, 5)
    program.fault("truncated")
    with pytest.raises(ModelError, match=r"times .* cannot be read \(JSONDecodeError"):
        run.durations_ns(1_000_000, 5)
    program.fault("hang")
    monkeypatch.setattr(trtexec, "START_SECONDS", 0.5)
    with pytest.raises(ModelError, match=r"needs more than 1 s to run model; see whether the GPU is busy"):
        run.durations_ns(50_000_000, 5)


def test_missing_and_old_programs_are_not_installed(program, monkeypatch):
    old = (RECORDED / "help-10.5.txt").read_text().replace("v100500] [b18]", "v8602]")
    (program.folder / "help.txt").write_text(old)
    with pytest.raises(NotInstalledError, match=r"is of TensorRT 8\.6\.2; install TensorRT 10 or later"):
        TrtExec().versions()
    (program.folder / "help.txt").write_text("libnvinfer.so.10: cannot open shared object file")
    with pytest.raises(NotInstalledError, match=r"does not say which TensorRT it is \(libnvinfer"):
        TrtExec().versions()
    monkeypatch.setenv("TRTEXEC", str(program.folder / "nothing"))
    with pytest.raises(NotInstalledError, match=r"trtexec does not start .*name it in \$TRTEXEC"):
        TrtExec().versions()


def test_the_program_is_looked_for_in_the_path_and_in_its_usual_place(program, monkeypatch, tmp_path):
    monkeypatch.delenv("TRTEXEC")
    monkeypatch.setenv("PATH", os.pathsep.join([str(program.folder), os.environ["PATH"]]))
    assert find_program().path == str(program.path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(trtexec, "USUAL_PLACE", program.path)
    assert find_program().path == str(program.path)


# The driver.


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(tensorrt.ctypes, "CDLL", missing)
    with pytest.raises(NotInstalledError, match=r"no NVIDIA driver \(libcuda\.so\.1.*another runtime"):
        gpu_versions()


def test_the_driver_is_asked_for_the_gpu(monkeypatch):
    def put(reference, value):
        reference._obj.value = value
        return 0

    driver = SimpleNamespace(
        cuInit=lambda flags: 0,
        cuDriverGetVersion=lambda version: put(version, 12060),
        cuDeviceGet=lambda number, index: put(number, index),
        cuDeviceGetName=lambda name, size, number: setattr(name, "value", b"Orin") or 0,
    )
    monkeypatch.setattr(tensorrt.ctypes, "CDLL", lambda name: driver)
    assert gpu_versions() == {"cuda": "12.6", "gpu": "Orin"}
    driver.cuInit = lambda flags: 100
    with pytest.raises(NotInstalledError, match=r"finds no GPU \(error 100\)"):
        gpu_versions()


def test_the_cache_is_named_by_content(cache):
    first = cache_file("engine", b"model", 1)
    assert first.parent == cache and first.suffix == ".engine"
    assert first == cache_file("engine", b"model", 1)
    assert len({first, cache_file("engine", b"model", 2), cache_file("engine", b"other", 1)}) == 3


# A stand-in for the Python API.


class Named(int):
    """A number with a name, like an enumerator of the bindings."""

    def __new__(cls, name, value=0):
        self = super().__new__(cls, value)
        self.name = name
        return self


class FakeTrt(types.ModuleType):
    """Engines are the model's bytes behind a mark; ``fails`` names what goes wrong."""

    def __init__(self, version, strongly_typed):
        super().__init__("tensorrt")
        self.__version__ = version
        self.network_flags, self.profiles, self.timing_caches, self.cleared = [], [], [], []
        self.fails = ""
        self.num_builds = 0
        fake = self

        class ILogger:
            ERROR, INTERNAL_ERROR, INFO = "error", "internal error", "info"

        class Tensor:
            def __init__(self, entry):
                self.name, self.dtype = entry.name, Named("FLOAT")
                self.shape = tuple(-1 if size is None else size for size in entry.shape)

        class Builder:
            def __init__(self, logger):
                self.logger = logger
                logger.log(ILogger.INFO, "hello")

            def create_network(self, flags):
                fake.network_flags.append(flags)
                return SimpleNamespace(num_inputs=0)

            def create_builder_config(self):
                return Config()

            def create_optimization_profile(self):
                return SimpleNamespace(shapes={}, set_shape=lambda name, *shapes: fake.profiles.append(shapes))

            def build_serialized_network(self, network, config):
                if fake.fails == "build":
                    self.logger.log(ILogger.ERROR, "no implementation for node Add")
                    return None
                fake.num_builds += 1
                return b"engine:" + network.model

        class Config:
            def clear_flag(self, flag):
                fake.cleared.append(flag)

            def add_optimization_profile(self, profile):
                fake.profiles.append("added")

            def create_timing_cache(self, data):
                return data

            def set_timing_cache(self, cache, ignore_mismatch):
                fake.timing_caches.append(cache)
                return not (cache and fake.fails == "timing cache")

            def get_timing_cache(self):
                return SimpleNamespace(serialize=lambda: b"timings")

        class OnnxParser:
            num_errors = 1

            def __init__(self, network, logger):
                self.network = network

            def parse(self, model, *path):
                try:
                    entries, _ = graph_ends(model)
                except ModelError:
                    return False
                tensors = [Tensor(entry) for entry in entries]
                self.network.model, self.network.num_inputs = model, len(tensors)
                self.network.get_input = lambda index: tensors[index]
                return True

            def get_error(self, index):
                return SimpleNamespace(desc=lambda: "In node 0 with name: conv: UNSUPPORTED_NODE")

        class Runtime:
            def __init__(self, logger):
                pass

            def deserialize_cuda_engine(self, data):
                return SimpleNamespace(data=data) if data.startswith(b"engine:") else None

        self.ILogger, self.Builder, self.OnnxParser, self.Runtime = ILogger, Builder, OnnxParser, Runtime
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=strongly_typed)
        self.BuilderFlag = SimpleNamespace(TF32="TF32")


@pytest.fixture(params=[("10.16.1.11", 1), ("11.4.0.106", 0)], ids=["10", "11"])
def trt(request, monkeypatch):
    """The bindings of one version, and sessions that need no CUDA."""
    fake = FakeTrt(*request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", types.ModuleType("cuda.bindings.runtime"))
    monkeypatch.setattr(tensorrt, "TensorRtSession", lambda trt, cuda, engine, *rest: engine)
    return fake


def test_networks_are_strongly_typed_by_the_flag_of_the_version(trt):
    TensorRt().prepare(doubling(), device())
    assert trt.network_flags == [2 if trt.__version__.startswith("10") else 1]
    assert trt.cleared == ["TF32"]
    assert "added" not in trt.profiles


def test_the_same_model_is_built_once(trt, cache, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(doubling())
    sessions = [TensorRt().prepare(model, device()) for model in (doubling(), path, str(path))]
    assert trt.num_builds == 1
    assert len({session.data for session in sessions}) == 1
    TensorRt().prepare(doubling((1, 4)), device())
    assert trt.num_builds == 2
    assert trt.timing_caches == [b"", b"timings"]
    trt.__version__ = "10.99.0"
    TensorRt().prepare(doubling(), device())
    assert trt.num_builds == 3 and trt.timing_caches[-1] == b""
    assert len(list(cache.glob("*.engine"))) == 3 and len(list(cache.glob("*.timing"))) == 2


def test_a_free_batch_gets_a_profile(trt):
    TensorRt().prepare(doubling(("batch", 3)), device(batch=4))
    assert trt.profiles == [((4, 3),) * 3, "added"]
    TensorRt().prepare(doubling(("batch", 3)), device(batch=5))
    assert trt.num_builds == 2
    with pytest.raises(ModelError, match=r"'x' has free dimensions.*fixed size"):
        TensorRt().prepare(doubling((1, "free")), device())


def test_files_that_no_longer_load_are_made_anew(trt, cache):
    TensorRt().prepare(doubling(), device())
    (engine,) = cache.glob("*.engine")
    engine.write_bytes(b"of another version")
    trt.fails = "timing cache"
    assert TensorRt().prepare(doubling(), device()).data == engine.read_bytes()
    assert trt.num_builds == 2
    assert trt.timing_caches == [b"", b"timings", b""]


def test_an_engine_can_be_taken_along(trt, tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(TensorRt().engine(doubling(), device()))
    assert trt.num_builds == 1
    assert TensorRt().prepare(path, device()).data == b"engine:" + doubling()
    assert trt.num_builds == 1
    path.write_bytes(b"of another GPU")
    with pytest.raises(ModelError, match=r"model\.engine was built for another GPU or version.*again from its ONNX"):
        TensorRt().prepare(path, device())


def test_errors_are_those_of_tensorrt(trt, cache, tmp_path):
    with pytest.raises(ModelError, match=r"no model .*model\.onnx"):
        TensorRt().prepare(tmp_path / "model.onnx", device())
    with pytest.raises(ModelError, match=r"not a valid ONNX model for TensorRT \(In node 0.*UNSUPPORTED_NODE\)"):
        TensorRt().prepare(b"not a model", device())
    trt.fails = "build"
    with pytest.raises(ModelError, match=r"cannot build model \(no implementation for node Add\)"):
        TensorRt().prepare(doubling(), device())
    assert not list(cache.glob("*"))


def test_versions_name_tensorrt_driver_and_gpu(trt):
    assert TensorRt().versions() == {"tensorrt": trt.__version__, **GPU}


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(NotInstalledError, match=r"tensorrt cannot be imported.*ofa-toolkit\[tensorrt\]"):
        TensorRt().versions()


# A stand-in for CUDA, whose memory is the host's.


class FakeCuda:
    """Notes its calls; a graph is what was enqueued while it was captured."""

    cudaError_t = SimpleNamespace(cudaSuccess=Named("cudaSuccess", 0))
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self):
        self.memory, self.calls, self.captured, self.status = {}, [], None, self.cudaError_t.cudaSuccess

    def cudaStreamCreate(self):
        return self.status, 7

    def cudaMalloc(self, num_bytes):
        buffer = ctypes.create_string_buffer(num_bytes)
        self.memory[ctypes.addressof(buffer)] = buffer
        return self.status, ctypes.addressof(buffer)

    def cudaFree(self, address):
        del self.memory[address]
        return (self.status,)

    def cudaMemcpy(self, target, source, num_bytes, kind):
        self.calls.append("copy")
        ctypes.memmove(target, source, num_bytes)
        return (self.status,)

    def enqueue(self, work):
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def cudaStreamSynchronize(self, stream):
        self.calls.append("synchronize")
        return (self.status,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.captured = []
        return (self.status,)

    def cudaStreamEndCapture(self, stream):
        graph, self.captured = self.captured, None
        return self.status, graph

    def cudaGraphInstantiate(self, graph, flags):
        return self.status, graph

    def cudaGraphLaunch(self, graph, stream):
        self.calls.append("launch")
        for work in graph:
            work()
        return (self.status,)


class FakeEngine:
    """``y`` is twice ``x``; the batch of ``x`` is free."""

    num_io_tensors = 2

    def __init__(self, cuda):
        self.cuda, self.addresses, self.shape, self.num_runs = cuda, {}, None, 0
        self.works = True

    def create_execution_context(self):
        return self

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_mode(self, name):
        return {"x": "input", "y": "output"}[name]

    def get_tensor_dtype(self, name):
        return Named("FLOAT")

    def get_tensor_shape(self, name):
        return self.shape or (-1, 3)

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        if self.works:
            self.cuda.enqueue(self.double)
        return self.works

    def double(self):
        self.num_runs += 1
        x, y = (np.ctypeslib.as_array((ctypes.c_float * 6).from_address(self.addresses[name])) for name in "xy")
        y[:] = 2 * x


@pytest.fixture
def engine():
    return FakeEngine(FakeCuda())


@pytest.fixture
def session(engine):
    trt = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="input"))
    return TensorRtSession(trt, engine.cuda, engine, SimpleNamespace(errors=["out of tactics"]), "model", 2)


def test_a_session_computes_from_what_it_is_given(session, engine):
    inputs = session.random_inputs(np.random.default_rng(0))
    assert inputs["x"].shape == (2, 3) and inputs["x"].dtype == np.float32
    first = session.run(inputs)
    session.run({"x": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(first[0], 2 * inputs["x"])


def test_a_timed_run_launches_one_graph_and_copies_nothing(session, engine):
    run = session.prepared(session.random_inputs(np.random.default_rng(0)))
    engine.cuda.calls.clear()
    before = engine.num_runs
    assert [run() is not None for _ in range(3)] == [True] * 3
    assert engine.cuda.calls == ["launch", "synchronize"] * 3
    assert engine.num_runs == before + 3


def test_inputs_of_another_shape_or_type_never_reach_the_gpu(session):
    for array in (np.zeros((3, 3), np.float32), np.zeros((2, 3), np.float64)):
        with pytest.raises(ModelError, match=r"'x' of model is float32 of shape \(2, 3\), not float"):
            session.run({"x": array})


def test_what_the_gpu_refuses_is_an_error(session, engine):
    inputs = session.random_inputs(np.random.default_rng(0))
    engine.works = False
    with pytest.raises(ModelError, match=r"TensorRT cannot run model \(out of tactics\)"):
        session.run(inputs)
    engine.cuda.status = Named("cudaErrorMemoryAllocation", 2)
    with pytest.raises(ModelError, match=r"GPU cannot run model \(cudaErrorMemoryAllocation\)"):
        session.run(inputs)


def test_memory_is_given_back_with_the_session(engine):
    trt = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="input"))
    session = TensorRtSession(trt, engine.cuda, engine, SimpleNamespace(errors=[]), "model", 2)
    assert len(engine.cuda.memory) == 2
    del session
    assert not engine.cuda.memory


def test_the_names_that_are_called_are_in_the_real_bindings_of_cuda():
    cuda = pytest.importorskip("cuda.bindings.runtime")
    for name in [name for name in dir(FakeCuda) if name.startswith("cuda")]:
        assert hasattr(cuda, name)
        for member in vars(getattr(FakeCuda, name)) if isinstance(getattr(FakeCuda, name), SimpleNamespace) else ():
            assert hasattr(getattr(cuda, name), member)
