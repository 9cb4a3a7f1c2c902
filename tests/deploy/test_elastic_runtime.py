"""An artefact of two small subnets: what it holds, what it computes in both runtimes, what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import torch
from killed import fill_disk
from torch import nn

from ofa.config import from_mapping
from ofa.data import DataConfig, ImageData, load_data
from ofa.deploy import elastic_graph
from ofa.deploy.controller import LatencyController
from ofa.deploy.elastic_format import (
    FOLDER,
    INFO,
    WEIGHTS,
    ElasticError,
    ElasticInfo,
    LatencyMs,
    read_elastic,
)
from ofa.deploy.elastic_runtime import (
    ELASTIC_RUNTIMES,
    ElasticRuntime,
    RuntimeName,
    UnknownSubnetError,
    give_back_memory,
)
from ofa.deploy.elastic_write import ElasticOptions, write_elastic
from ofa.errors import UsageError
from ofa.files import NoSpaceError
from ofa.formats.onnx import OpsetError
from ofa.space import Arch
from ofa.supernet import create_supernet
from ofa.training import SubnetEvaluator
from ofa.training.evaluation import judge
from ofa.training.recipe import ModelConfig

MODEL = ModelConfig(name="ofa_mobilenetv3_tiny")
QUICK = ElasticOptions(rounds=2, block_seconds=0.001)
RUNTIMES: list[RuntimeName] = ["onnxruntime", "torch"]


@pytest.fixture(scope="module")
def archs(evaluator: SubnetEvaluator) -> dict[str, Arch]:
    """The second is wider, has larger kernels, and takes larger images."""
    space = evaluator.supernet.space
    smallest = dict(space.smallest())
    wider = {name: space[name].values[-1] for name in smallest if name.endswith(("expand", "kernel"))}
    return {"small": space.arch(smallest), "large": space.arch({**smallest, **wider, "resolution": 28})}


@pytest.fixture(scope="module")
def written(evaluator: SubnetEvaluator, archs: dict[str, Arch], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("elastic") / "artefact"
    steps: list[tuple[int, int, str]] = []
    write_elastic(
        evaluator,
        archs,
        out,
        rng=np.random.default_rng(0),
        model=MODEL,
        provenance={"run": "none"},
        options=QUICK,
        progress=lambda *step: steps.append(step),
    )
    assert [done for done, _, _ in steps] == list(range(9)) and {num for _, num, _ in steps} == {9}
    return out


@pytest.fixture(scope="module")
def modules(evaluator: SubnetEvaluator, archs: dict[str, Arch]) -> dict[str, nn.Module]:
    """The extracted, calibrated subnets."""
    return {name: evaluator.calibrated(arch).eval() for name, arch in archs.items()}


@pytest.fixture
def artefact(written: Path, tmp_path: Path) -> Path:
    """A copy, to do anything with."""
    return Path(shutil.copytree(written, tmp_path / "artefact"))


def images_of(evaluator: SubnetEvaluator, resolution: int, num: int = 5) -> np.ndarray:
    """The first test images."""
    (batch,) = next(iter(evaluator.batches("test", {"resolution": resolution})))[0].tensors
    images: np.ndarray = batch[:num].contiguous().numpy()
    return images


def write_info(path: Path, info: ElasticInfo) -> ElasticInfo:
    """Describe the files of a folder as they are; gives what is read then."""
    FOLDER.seal(path, info.to_json())
    return read_elastic(path)


def with_latencies(path: Path, *, runtime: str = "onnxruntime", **ms: float) -> ElasticInfo:
    """Say that subnets took so long."""
    info = read_elastic(path)
    known = tuple(LatencyMs(p10=ms[each.name], p50=ms[each.name], p90=ms[each.name]) for each in info.subnets)
    measurements = tuple(
        dataclasses.replace(each, latency_ms=known) if each.runtime == runtime else each for each in info.measurements
    )
    return write_info(path, dataclasses.replace(info, measurements=measurements))


def with_accuracies(path: Path, **percent: float) -> None:
    info = read_elastic(path)
    subnets = tuple(dataclasses.replace(each, score=percent[each.name]) for each in info.subnets)
    write_info(path, dataclasses.replace(info, subnets=subnets))


# -- what is written ---------------------------------------------------------------------------------------------------


def test_weights_are_stored_once(written: Path, modules: dict[str, nn.Module], archs: dict[str, Arch]) -> None:
    tensors = safetensors.numpy.load_file(written / WEIGHTS)
    own = {name for name in tensors if "/" in name}
    assert all((name.partition("/")[0] in archs and "running_" in name) or "num_batches" in name for name in own)
    large = dict(modules["large"].named_parameters())
    assert {name for name in tensors if "/" not in name} == set(large)
    # The subnets are nested, so what is stored is no more than the larger one.
    assert {name: tensors[name].shape for name in large} == {name: tuple(p.shape) for name, p in large.items()}
    for name in archs:
        weights_bytes = 4 * sum(parameter.numel() for parameter in modules[name].parameters())
        assert (written / f"{name}.onnx").stat().st_size < weights_bytes / 3
        onnx.checker.check_model(written / f"{name}.onnx", full_check=True)


def test_graphs_run_without_this_library(
    written: Path, evaluator: SubnetEvaluator, modules: dict[str, nn.Module], archs: dict[str, Arch]
) -> None:
    for name, arch in archs.items():
        images = images_of(evaluator, int(arch["resolution"]), 1)
        session = onnxruntime.InferenceSession(written / f"{name}.onnx", providers=["CPUExecutionProvider"])
        with torch.inference_mode():
            expected = modules[name](torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(
            session.run(["logits"], {"images": images})[0], expected, atol=1e-4 * np.abs(expected).max()
        )


def test_info_says_what_was_written(
    written: Path,
    evaluator: SubnetEvaluator,
    modules: dict[str, nn.Module],
    archs: dict[str, Arch],
    check_sums: Callable[[Path], object],
) -> None:
    info = read_elastic(written)
    assert [subnet.name for subnet in info.subnets] == ["small", "large"]
    assert info.classes == evaluator.data.classes and info.channels == 3 and info.model is not None
    assert info.num_images == len(evaluator.data.splits["test"]) and info.split == "test"
    assert info.provenance["run"] == "none" and "torch" in info.provenance["exported_with"]
    for subnet, arch in zip(info.subnets, archs.values(), strict=True):
        assert evaluator.supernet.space.arch(subnet.arch) == arch and subnet.resolution == arch["resolution"]
        batches = evaluator.batches("test", subnet.arch)
        top1 = judge(modules[subnet.name], batches, evaluator.task.scorer(None)).value
        assert subnet.low < subnet.score < subnet.high and subnet.score == pytest.approx(top1)
        assert set(subnet.max_abs_difference) == {"onnxruntime", "torch"}
        assert subnet.preprocessing["input_size"] == [3, subnet.resolution, subnet.resolution]
    assert [(each.runtime, each.threads) for each in info.measurements] == [("onnxruntime", 1), ("torch", 1)]
    assert all(0 < each.p10 <= each.p50 <= each.p90 for one in info.measurements for each in one.latency_ms)
    text = (written / INFO).read_text(encoding="utf-8") + (written / "small.onnx").read_bytes().decode("latin1")
    assert str(Path.home()) not in text and str(Path(__file__).parents[2]) not in text
    check_sums(written)
    assert not list(written.parent.glob(".*"))
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in written.iterdir())  # whoever runs the server may read


def test_what_cannot_be_written_is_refused(
    evaluator: SubnetEvaluator, archs: dict[str, Arch], written: Path, tmp_path: Path
) -> None:
    def write(out: Path, subnets: object = archs, model: ModelConfig | None = MODEL, overwrite: bool = False) -> None:
        write_elastic(evaluator, subnets, out, rng=np.random.default_rng(0), model=model, overwrite=overwrite)  # type: ignore[arg-type]

    out = tmp_path / "new"
    with pytest.raises(ElasticError, match="torch needs to know what the supernet was made of"):
        write(out, model=None)
    with pytest.raises(ElasticError, match="two of the 2 subnets are the same"):
        write(out, [archs["small"]] * 2)
    with pytest.raises(ElasticError, match="no subnets to write"):
        write(out, [])
    with pytest.raises(UsageError, match=r"subnet '\.\./x' must be up to 64 letters"):
        write(out, {"../x": archs["small"]})
    with pytest.raises(ElasticError, match="holds an elastic artefact; give another folder, or replace it"):
        write(written)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("all of it")
    with pytest.raises(ElasticError, match=r"is not an elastic artefact .*; it is left alone"):
        write(tmp_path / "precious", overwrite=True)
    shutil.copytree(written, tmp_path / "mixed")
    (tmp_path / "mixed" / "thesis.tex").write_text("all of it")
    with pytest.raises(ElasticError, match=r"is not an elastic artefact \(it holds 'thesis\.tex'\)"):
        write(tmp_path / "mixed", overwrite=True)
    assert not out.exists() and sorted(path.name for path in tmp_path.iterdir()) == ["mixed", "precious"]


def test_a_full_disk_leaves_the_artefact_that_was_there(
    evaluator: SubnetEvaluator, archs: dict[str, Arch], written: Path, small_disk: Path
) -> None:
    out = Path(shutil.copytree(written, small_disk / "artefact"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    fill_disk(small_disk)
    message = r"weights\.safetensors: No space left on device \(\d[\d,]* bytes free, \d[\d,]+ needed\); make space"
    with pytest.raises(NoSpaceError, match=message):
        write_elastic(evaluator, archs, out, rng=np.random.default_rng(0), model=MODEL, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in small_disk.iterdir()) == ["artefact", "ballast"]


# -- running -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[*RUNTIMES, pytest.param("cuda", marks=pytest.mark.gpu)])
def runtime(request: pytest.FixtureRequest, written: Path) -> ElasticRuntime:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("torch sees no CUDA device")
        return ElasticRuntime(written, "torch", device="cuda")
    return ElasticRuntime(written, request.param)


def test_every_subnet_computes_what_its_module_does(
    runtime: ElasticRuntime, evaluator: SubnetEvaluator, modules: dict[str, nn.Module], full_fp32: None
) -> None:
    for _ in range(2):  # back and forth
        for subnet in runtime.subnets:
            runtime.use(subnet.name)
            assert runtime.current.name == subnet.name and runtime.current.input_shape[1] == subnet.resolution
            images = images_of(evaluator, subnet.resolution)
            with torch.inference_mode():
                expected = modules[subnet.name](torch.from_numpy(images)).numpy()
            limit = 1e-4 * np.abs(expected).max()
            np.testing.assert_allclose(runtime.run(images), expected, rtol=0, atol=limit)
            np.testing.assert_allclose(runtime.run(images[2:3]), expected[2:3], rtol=0, atol=limit)
            mirrored = np.ascontiguousarray(images[..., ::-1])[..., ::-1]  # the same, with a negative stride
            np.testing.assert_allclose(runtime.run(mirrored), expected, rtol=0, atol=limit)


def test_the_common_end_of_the_networks_runs_in_one_session(
    written: Path, evaluator: SubnetEvaluator, modules: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small as it is here: the layers after the last batch norm, of which there are the same in both."""
    monkeypatch.setattr(elastic_graph, "MIN_TAIL_BYTES", 1)
    runtime = ElasticRuntime(written)
    assert runtime._subnets.tail is not None  # type: ignore[attr-defined]
    for subnet in runtime.subnets:
        runtime.use(subnet.name)
        images = images_of(evaluator, subnet.resolution)
        with torch.inference_mode():
            expected = modules[subnet.name](torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(runtime.run(images), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_modules_of_torch_share_their_weights(written: Path, modules: dict[str, nn.Module]) -> None:
    """What is not loaded takes no memory of its own for weights; what is, copies only slices that torch would copy."""
    runtime = ElasticRuntime(written, "torch", max_loaded=1)
    views: dict[str, nn.Module] = runtime._subnets._modules  # type: ignore[attr-defined]
    weights = [parameter for module in views.values() for parameter in module.parameters()]
    stored = {parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes() for parameter in weights}
    assert sum(stored.values()) == sum(parameter.nbytes for parameter in modules["large"].parameters())
    for name, module in views.items():
        for path, parameter in module.named_parameters():
            assert torch.equal(parameter, modules[name].get_parameter(path)), path


def test_whoever_holds_a_subnet_is_not_concerned_by_switching(
    runtime: ElasticRuntime, evaluator: SubnetEvaluator
) -> None:
    runtime.use("large")
    held = runtime.current
    images = images_of(evaluator, held.input_shape[1])
    logits = held.run(images)
    runtime.use("small")
    np.testing.assert_array_equal(held.run(images), logits)


def test_images_of_another_shape_are_refused(runtime: ElasticRuntime, evaluator: SubnetEvaluator) -> None:
    runtime.use("small")
    for images in (
        images_of(evaluator, 28),
        images_of(evaluator, 20).astype(np.float64),
        images_of(evaluator, 20)[0],
        images_of(evaluator, 20)[:0],
    ):
        with pytest.raises(ElasticError, match=r"'small' takes float32 images of shape \(N, 3, 20, 20\), not"):
            runtime.run(images)


def test_threads_switch_while_others_run(runtime: ElasticRuntime, evaluator: SubnetEvaluator) -> None:
    images, expected = {}, {}
    for subnet in runtime.subnets:
        runtime.use(subnet.name)
        images[subnet.name] = images_of(evaluator, subnet.resolution, 1)
        expected[subnet.name] = runtime.run(images[subnet.name])
    wrong: list[object] = []
    stop = threading.Event()

    def switch() -> None:
        names = [subnet.name for subnet in runtime.subnets]
        while not stop.is_set():
            for name in names:
                runtime.use(name)
                stop.wait(0.0005)  # lets the others have the interpreter

    def ask() -> None:
        try:
            for _ in range(40):
                subnet = runtime.current
                found = subnet.run(images[subnet.name])
                if not np.allclose(found, expected[subnet.name], atol=1e-5):
                    wrong.append((subnet.name, found))
        except Exception as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=ask) for _ in range(3)]
    switching = threading.Thread(target=switch)
    for thread in (switching, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    switching.join()
    assert not wrong


def test_a_budget_chooses_the_most_accurate_subnet_that_keeps_it(artefact: Path) -> None:
    with_accuracies(artefact, small=70.0, large=80.0)
    with_latencies(artefact, small=2.0, large=4.0)
    runtime = ElasticRuntime(artefact)
    assert runtime.current.name == "small"  # the fastest, until asked
    for budget_ms, name in ((3.9, "small"), (4.0, "large"), (100, "large"), (2.0, "small")):
        assert runtime.set_budget_ms(budget_ms).name == name == runtime.current.name
    with pytest.raises(ElasticError, match=r"keeps 1\.9 ms .* 'small', takes 2\.000 ms; ask for at least 2\.000 ms"):
        runtime.set_budget_ms(1.9)
    assert runtime.current.name == "small"
    with_accuracies(artefact, small=80.0, large=70.0)
    assert ElasticRuntime(artefact).set_budget_ms(100).name == "small"


def test_latencies_belong_to_a_runtime_and_its_threads(artefact: Path) -> None:
    with_latencies(artefact, small=2.0, large=4.0)
    runtime = ElasticRuntime(artefact, threads=2)
    assert [subnet.latency_ms for subnet in runtime.subnets] == [None, None] and not runtime.is_measured_here
    with pytest.raises(ElasticError, match=r"no latencies of onnxruntime with threads=2; call measure\(\) first"):
        runtime.set_budget_ms(5)
    with pytest.raises(ElasticError, match="no measured latencies"):
        LatencyController(runtime, 5.0)
    measured = runtime.measure(rng=np.random.default_rng(0), rounds=2, block_seconds=0.001)
    assert [subnet.latency_ms for subnet in runtime.subnets] == [each.p50 for each in measured.latency_ms]
    assert runtime.is_measured_here and runtime.set_budget_ms(1e6)
    assert [each.threads for each in read_elastic(artefact).measurements] == [1, 1]  # what is on disk stays


def test_latencies_belong_to_a_device(artefact: Path) -> None:
    """Those of an artefact that says none, as all did, are of the CPU."""
    edit_info(artefact, lambda data: [each.pop("device") for each in data["measurements"]])
    info = read_elastic(artefact)
    cpu = info.measured("torch", 1)
    assert cpu is not None and cpu.device == "cpu" and info.measured("torch", 1, "cuda:0") is None
    gpu = dataclasses.replace(cpu, device="cuda:0", latency_ms=tuple(LatencyMs(p10=1, p50=1, p90=1) for _ in "12"))
    info = write_info(artefact, dataclasses.replace(info, measurements=(gpu, *info.measurements)))
    assert info.measured("torch", 1) == cpu and info.measured("torch", 1, "cuda:0") == gpu
    assert [subnet.latency_ms for subnet in ElasticRuntime(artefact, "torch").subnets] == [
        each.p50 for each in cpu.latency_ms
    ]


@pytest.mark.gpu
def test_latencies_on_a_gpu(artefact: Path, cuda: str) -> None:
    runtime = ElasticRuntime(artefact, "torch", device=cuda)
    assert runtime.device == "cuda:0" and not runtime.is_measured_here
    with pytest.raises(ElasticError, match=r"no latencies of torch on cuda:0 with threads=1; call measure\(\) first"):
        runtime.set_budget_ms(5)
    measured = runtime.measure(rng=np.random.default_rng(0), rounds=2, block_seconds=0.001)
    assert measured.device == "cuda:0" and measured.fingerprint["runtime"]["gpu"]
    assert runtime.is_measured_here and runtime.set_budget_ms(1e6)
    assert {p.device.type for module in runtime._subnets._modules.values() for p in module.parameters()} == {"cuda"}  # type: ignore[attr-defined]


@pytest.mark.gpu
def test_a_supernet_on_a_gpu_is_written(
    evaluator: SubnetEvaluator, archs: dict[str, Arch], tmp_path: Path, cuda: str
) -> None:
    """What was calibrated there computes the same on the CPU, to the 1e-4 that writing demands."""
    there = SubnetEvaluator(copy.deepcopy(evaluator.supernet).to(cuda), evaluator.data)
    info = write_elastic(there, archs, tmp_path / "new", rng=np.random.default_rng(0), model=MODEL, options=QUICK)
    assert [subnet.name for subnet in info.subnets] == list(archs)
    runtimes = [ElasticRuntime(tmp_path / "new", "torch", device=device) for device in ("cpu", cuda)]
    for subnet in info.subnets:
        images = images_of(evaluator, subnet.resolution)
        for runtime in runtimes:
            runtime.use(subnet.name)
        expected, found = (runtime.run(images) for runtime in runtimes)
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_latencies_of_another_machine_are_told_from_ones_own(artefact: Path) -> None:
    assert ElasticRuntime(artefact).is_measured_here
    info = read_elastic(artefact)
    elsewhere = tuple(
        dataclasses.replace(each, fingerprint={**each.fingerprint, "id": "another"}) for each in info.measurements
    )
    write_info(artefact, dataclasses.replace(info, measurements=elsewhere))
    runtime = ElasticRuntime(artefact)
    assert not runtime.is_measured_here and runtime.set_budget_ms(1e6)


@pytest.mark.parametrize("name", RUNTIMES)
def test_no_more_subnets_are_held_than_asked_for(
    artefact: Path, evaluator: SubnetEvaluator, monkeypatch: pytest.MonkeyPatch, name: RuntimeName
) -> None:
    with_latencies(artefact, runtime=name, small=2.0, large=4.0)
    made: list[str] = []
    load = ElasticRuntime._load
    monkeypatch.setattr(ElasticRuntime, "_load", lambda self, name: made.append(name) or load(self, name))
    runtime = ElasticRuntime(artefact, name, max_loaded=1)
    assert made == ["small"]
    held = runtime.current
    runtime.use("large")
    runtime.use("large")
    assert made == ["small", "large"] and list(runtime._loaded) == ["large"]
    assert held.run(images_of(evaluator, 20)).shape == (5, 10)  # what a request holds goes on
    runtime.use("small")
    assert made == ["small", "large", "small"]
    made.clear()
    both = ElasticRuntime(artefact, name)
    both.use("large")
    assert sorted(made) == ["large", "small"]


def test_a_controller_switches_it(artefact: Path, evaluator: SubnetEvaluator) -> None:
    with_accuracies(artefact, small=70.0, large=80.0)
    with_latencies(artefact, small=2.0, large=4.0)
    runtime, seconds = ElasticRuntime(artefact), iter(range(100))
    controller = LatencyController(runtime, 100.0, clock=lambda: float(next(seconds)))  # a second a request
    assert runtime.current.name == "large"
    images = {size: images_of(evaluator, size, 1) for size in (20, 28)}
    while runtime.current.name == "large":
        assert controller.run(images[runtime.current.input_shape[1]]).shape == (1, 10)
    assert next(seconds) == 8  # four requests, two readings each


def test_opening_refuses_what_makes_no_sense(written: Path) -> None:
    with pytest.raises(ElasticError, match="unknown runtime 'onnx'; known: onnxruntime, torch"):
        ElasticRuntime(written, "onnx")  # type: ignore[arg-type]
    with pytest.raises(ElasticError, match="threads must be at least 1, not 0"):
        ElasticRuntime(written, threads=0)
    with pytest.raises(ElasticError, match="max_loaded must be at least 1, not 0; leave it out to hold all"):
        ElasticRuntime(written, max_loaded=0)
    with pytest.raises(ElasticError, match="onnxruntime runs subnets on the CPU, not on 'cuda:0'; use runtime='torch'"):
        ElasticRuntime(written, device="cuda")
    with pytest.raises(ElasticError, match="device must be 'cpu', 'cuda' or 'cuda:1', not 'gpu'"):
        ElasticRuntime(written, "torch", device="gpu")
    with pytest.raises(ElasticError, match=r"torch sees \d+ CUDA devices, so none is 'cuda:99'; use device='cpu'"):
        ElasticRuntime(written, "torch", device="cuda:99")
    with pytest.raises(UnknownSubnetError, match="unknown subnet 'smal'; did you mean 'small'"):
        ElasticRuntime(written).use("smal")


def test_reading_needs_no_torch() -> None:
    """The modules themselves; the package around them is another matter."""
    code = (
        "import sys, types; package = types.ModuleType('ofa.deploy'); package.__path__ = [sys.argv[1]];"
        "import ofa; sys.modules['ofa.deploy'] = package;"
        "import ofa.deploy.elastic_runtime, ofa.deploy.elastic_onnx, ofa.deploy.controller;"
        "assert not {'torch', 'pandas', 'onnx'} & set(sys.modules)"
    )
    folder = Path(__file__).parents[2] / "ofa" / "deploy"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


# -- what may not be trusted -------------------------------------------------------------------------------------------


def edit_info(path: Path, change: Callable[[dict], object]) -> None:
    data = json.loads((path / INFO).read_text(encoding="utf-8"))
    change(data)
    (path / INFO).write_text(json.dumps(data), encoding="utf-8")


def refused(path: Path, match: str, runtime: RuntimeName = "onnxruntime") -> None:
    with pytest.raises(ElasticError, match=match):
        ElasticRuntime(path, runtime)


def test_a_changed_file_is_refused(artefact: Path) -> None:
    for name in (WEIGHTS, "small.onnx"):
        data = bytearray((artefact / name).read_bytes())
        data[-5] ^= 1
        (artefact / name).write_bytes(data)
        refused(artefact, f"{name} is not the file that elastic.json lists: its sha256 differs")
        data[-5] ^= 1
        (artefact / name).write_bytes(data[:-1])
        refused(artefact, f"{name} is {len(data) - 1} bytes long, not {len(data)}")
        (artefact / name).write_bytes(data)
    ElasticRuntime(artefact)


@pytest.mark.parametrize("name", [".hidden", "more.bin", "folder/file"])
def test_files_that_are_no_part_of_it_are_refused(artefact: Path, name: str) -> None:
    (artefact / name).parent.mkdir(exist_ok=True)
    (artefact / name).write_text("weights")
    refused(artefact, f"holds '{name}', which is no part of an elastic artefact; remove it")


def test_links_and_missing_files_are_refused(artefact: Path, tmp_path: Path) -> None:
    for name in (INFO, WEIGHTS, "small.onnx"):
        elsewhere = tmp_path / "elsewhere"
        (artefact / name).rename(elsewhere)
        refused(artefact, f"no elastic artefact at .*{name}" if name == INFO else f"{name} is missing")
        (artefact / name).symlink_to(elsewhere)
        refused(artefact, f"{name} is a link")
        (artefact / name).unlink()
        (artefact / name).mkdir()
        refused(artefact, f"{name} is no plain file")
        (artefact / name).rmdir()
        elsewhere.rename(artefact / name)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data.update(format=2), "has format 2, this version reads 1"),
        (lambda data: data.update(subnet=[]), "unknown key 'subnet'"),
        (lambda data: data.update(subnets=[]), "1 to 256 subnets"),
        (lambda data: data["subnets"].append(data["subnets"][0]), "of different names"),
        (lambda data: data["subnets"][0].update(name="../small"), "name '../small' must be"),
        (lambda data: data["subnets"][0].update(resolution=10**6), "resolution must be 1 to 4096"),
        (lambda data: data["files"].update({"../x": {"sha256": "", "bytes": 0}}), "leaves the folder"),
        (lambda data: data["files"].update({"x": 1}), "must have 'sha256' and 'bytes'"),
        (lambda data: data["files"].pop("weights.safetensors"), "does not list weights.safetensors"),
        (lambda data: data["measurements"][0]["latency_ms"].pop(), "2 latencies, one per subnet"),
    ],
)
def test_a_wrong_description_is_refused(artefact: Path, change: Callable[[dict], object], match: str) -> None:
    edit_info(artefact, change)
    refused(artefact, match)


def test_nesting_without_end_is_refused(artefact: Path) -> None:
    (artefact / INFO).write_text('{"format": 1, "provenance": ' + "[" * 100_000 + "]" * 100_000 + "}")
    refused(artefact, r"elastic\.json")


def test_a_graph_that_reads_other_files_is_refused(artefact: Path) -> None:
    model = onnx.load(artefact / "small.onnx", load_external_data=False)
    tensor = next(each for each in model.graph.initializer if each.external_data)
    tensor.external_data[0].value = "../elsewhere"
    (artefact / "small.onnx").write_bytes(model.SerializeToString())
    write_info(artefact, read_with_new_sums(artefact))
    refused(artefact, "is not taken from weights")


def read_with_new_sums(path: Path) -> ElasticInfo:
    """The description as it was, of files that are no longer as they were."""
    data = json.loads((path / INFO).read_text(encoding="utf-8"))
    return ElasticInfo.from_json({key: value for key, value in data.items() if key != "format"}, where="test")


def test_torch_refuses_models_that_do_not_fit(artefact: Path) -> None:
    info = read_elastic(artefact)
    assert info.model is not None
    write_info(artefact, dataclasses.replace(info, model=None))
    refused(artefact, "does not say what model it is of", "torch")
    write_info(artefact, dataclasses.replace(info, model={**info.model, "name": "resnet18"}))
    with pytest.raises(ValueError):
        ElasticRuntime(artefact, "torch")
    write_info(artefact, dataclasses.replace(info, model={**info.model, "name": "hf-hub:someone/model"}))
    with pytest.raises(ValueError, match="unknown source 'hf-hub'"):
        ElasticRuntime(artefact, "torch")
    write_info(artefact, dataclasses.replace(info, classes=tuple("abc")))
    ElasticRuntime(artefact, "torch")  # the classifier is what is stored, whatever it is called


# -- other networks ----------------------------------------------------------------------------------------------------


def evaluator_of(name: str, size: int, prepare: Callable[[nn.Module], object], **choices: object) -> SubnetEvaluator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = create_supernet(name, num_classes=10, **choices).eval()
        prepare(supernet.model)
    data: ImageData = load_data(
        DataConfig(name="digits", limit=64, calibration_share=16, search_share=16, test_share=16), image_size=size
    )
    return SubnetEvaluator(supernet, data, batch_size=16, num_calibration_images=16)


@torch.no_grad()
def train_transforms(model: nn.Module) -> None:
    """As after training: the matrices are no identities."""
    for name, parameter in model.named_parameters():
        if "kernel_transform" in name:
            parameter += 0.1 * torch.randn_like(parameter)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "choices"),
    [
        ("ofa_mobilenetv3_tiny", 32, {"kernel_transforms": True}),
        ("ofa_mobilenetv3_w1.0", 128, {}),
        ("ofa_resnet50d", 128, {}),
        ("vit_tiny", 224, {}),
        ("autoformer_tiny", 224, {}),
        ("convnext_atto", 64, {"resolution": (64,)}),
        ("regnety_002", 64, {"resolution": (64,)}),
        ("resnetv2_50", 64, {"resolution": (64,)}),
    ],
)
def test_every_family_shares_its_weights(name: str, size: int, choices: dict[str, object], tmp_path: Path) -> None:
    """Learned kernel matrices, elastic width, heads, no batch norm, groups, standardised weights; with their logits."""
    evaluator = evaluator_of(name, size, train_transforms, **choices)
    space, rng = evaluator.supernet.space, np.random.default_rng(0)
    resolution = size if size in space["resolution"].values else space["resolution"].values[0]
    archs = [space.arch({**arch, "resolution": resolution}) for arch in (space.smallest(), space.sample(rng))]
    archs.append(space.arch({**space.largest(), "resolution": resolution}))
    model = from_mapping(ModelConfig, {"name": name, **choices}, where="test")
    info = write_elastic(evaluator, archs, tmp_path / "elastic", rng=rng, model=model, options=QUICK)
    stored = sum(entry["bytes"] for entry in info.files.values())
    separate = sum(4 * sum(p.numel() for p in evaluator.supernet.extract(arch).parameters()) for arch in archs)
    largest = 4 * sum(p.numel() for p in evaluator.supernet.model.parameters())
    # The weights of standardised convolutions are stored as graphs have them and as torch has them.
    assert stored < (separate + 1.1 * largest if name == "resnetv2_50" else min(separate, 1.3 * largest))
    for runtime in ELASTIC_RUNTIMES:
        ElasticRuntime(tmp_path / "elastic", runtime)  # type: ignore[arg-type]


def test_memory_is_given_back_where_the_system_can_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[int] = []
    for libc in (SimpleNamespace(malloc_trim=trimmed.append), SimpleNamespace()):  # glibc's function, and macOS
        monkeypatch.setattr("ofa.deploy.elastic_runtime.ctypes.CDLL", lambda name, libc=libc: libc)
        give_back_memory()
    assert trimmed == [0]


@pytest.mark.parametrize(
    ("opset", "ir_version"), [(17, 8), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((18, 8), (21, 10)))]
)
def test_graphs_are_in_the_opset_that_is_asked_for_and_the_lowest_ir_version(
    evaluator: SubnetEvaluator, archs: dict[str, Arch], tmp_path: Path, opset: int, ir_version: int
) -> None:
    options = dataclasses.replace(QUICK, runtimes=("onnxruntime",), opset=opset)
    info = write_elastic(evaluator, archs, tmp_path / "out", rng=np.random.default_rng(0), options=options)
    for subnet in info.subnets:  # compared with torch, or there would be none
        graph = onnx.load(tmp_path / "out" / subnet.graph, load_external_data=False)
        assert (graph.opset_import[0].version, graph.ir_version) == (opset, ir_version)
    with pytest.raises(OpsetError, match="opset must be 9 to"):
        dataclasses.replace(QUICK, opset=3)
    with pytest.raises(OpsetError, match=r"HardSwish.*; the lowest is 14"):
        options = dataclasses.replace(options, opset=13)
        write_elastic(evaluator, archs, tmp_path / "old", rng=np.random.default_rng(0), options=options)
