"""Every target that runs on a CPU, from the subnet to what its receiver runs, in every precision that it has there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from ofa.deploy import TARGETS, ExportOptions, TargetError, export_bundle, read_bundle, verify_bundle
from ofa.deploy.parity import TOLERANCES, compare_outputs
from ofa.deploy.targets.network import HalfPrecision, Network
from ofa.hardware import Device
from ofa.hardware.runtimes import RUNTIMES, NotInstalledError
from ofa.hardware.runtimes.tensorrt import TensorRt
from ofa.setting import Setting
from ofa.training import SubnetEvaluator

from .conftest import RUN_INFO, latency

pytestmark = pytest.mark.alone
ON_CPU = [
    (name, runtime, precision)
    for name, target in TARGETS.items()
    for runtime in target.runtimes[:1]
    for precision in target.precisions
    if RUNTIMES[runtime]().on_cpu
]
Make = Callable[..., Path]
Names = tuple[list[str], list[str]]


@pytest.fixture(scope="module")
def make(
    evaluator: SubnetEvaluator, candidates: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Make:
    def make(runtime: str, precision: Any, **options: Any) -> Path:
        try:
            RUNTIMES[runtime]().versions()
        except NotInstalledError as error:
            pytest.skip(str(error))
        result = export_bundle(
            evaluator,
            candidates[2:],
            out=tmp_path_factory.mktemp("bundle") / f"{runtime}-{precision}",
            device=Device(name="here", setting=Setting(runtime=runtime, precision=precision)),
            budget_ms=4.2,
            measure=lambda files, speed: [latency(1.0) for _ in files],
            run_info=RUN_INFO,
            # A network that knows nothing may lose by chance; looking for what loses it takes ExecuTorch minutes.
            options=ExportOptions(max_loss_points=100, **options),
        )
        return result.path

    return make


@pytest.fixture(
    scope="module",
    params=[pytest.param(each, marks=[pytest.mark.slow] * (each[1:] == ("executorch", "int8"))) for each in ON_CPU],
    ids=lambda each: f"{each[0]}-{each[2]}",
)
def made(request: pytest.FixtureRequest, make: Make) -> Path:
    _, runtime, precision = request.param
    return make(runtime, precision)


def test_a_bundle_holds_what_it_promises(made: Path) -> None:
    info, result = read_bundle(made), verify_bundle(made)
    assert result.ok, result.failed
    assert info.parity.tolerance == TOLERANCES[info.model.precision]


def test_how_much_is_in_int8_is_said_and_counted_again(made: Path) -> None:
    quantization, checks = read_bundle(made).model.quantization, {check.name for check in verify_bundle(made).checks}
    assert (quantization is not None) == ("INT8" in checks) == (read_bundle(made).model.precision == "int8")
    if quantization is not None:
        assert quantization.int8_macs_percent is not None and quantization.int8_macs_percent >= 95
        assert f"| Kernels | {quantization.kernels} |" in (made / "README.md").read_text(encoding="utf-8")


def test_its_receiver_gets_the_classes_of_its_samples(made: Path, tmp_path: Path) -> None:
    info = read_bundle(made)
    names = [str(made / name) for name in info.sample_names]
    command = [sys.executable, "-I", str(made / "predict.py"), *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = np.load(made / "samples" / "outputs.npy")
    found = [line.split("\t")[1] for line in done.stdout.splitlines() if line.startswith(str(made))]
    surely = np.ptp(np.sort(expected)[:, -2:], axis=1) > info.parity.tolerance * np.abs(expected).max()
    right = np.array([label == info.classes[row.argmax()] for label, row in zip(found, expected, strict=True)])
    assert right[surely].all() and (surely.any() or info.model.precision == "int8")


# -- names -----------------------------------------------------------------------------------------------------------


def names_in_onnx(path: Path) -> Names:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return [each.name for each in session.get_inputs()], [each.name for each in session.get_outputs()]


def names_in_openvino(path: Path) -> Names:
    import openvino

    model = openvino.Core().read_model(path)
    inputs, outputs = ([port.any_name for port in ports] for ports in (model.inputs, model.outputs))
    return inputs, outputs


def names_in_litert(path: Path) -> Names:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return list(runner.get_input_details()), list(runner.get_output_details())


NAMES_IN = {"onnxruntime": names_in_onnx, "openvino": names_in_openvino, "litert": names_in_litert}
NAMELESS = {"executorch"}  # a method takes its inputs in order, and says no names


def check_names(bundle: Path) -> Names:
    model = read_bundle(bundle).model
    names = NAMES_IN[model.runtime](bundle / model.files[0])
    assert names == ([model.input], [model.output])
    return names


def test_every_runtime_is_asked_for_its_names() -> None:
    assert {runtime for _, runtime, _ in ON_CPU} == set(NAMES_IN) | NAMELESS


def test_names_in_the_file_are_those_of_the_bundle(made: Path) -> None:
    if read_bundle(made).model.runtime in NAMELESS:
        pytest.skip("the file has none")
    assert check_names(made) == (["images"], ["logits"])


@pytest.mark.parametrize(("runtime", "precision"), [("onnxruntime", "int8"), ("openvino", "fp32"), ("litert", "fp32")])
def test_probabilities_are_called_so_in_the_file(make: Make, runtime: str, precision: str) -> None:
    bundle = make(runtime, precision, from_pixels=True)
    assert check_names(bundle) == (["images"], ["probabilities"])
    assert np.load(bundle / "samples" / "outputs.npy").sum(axis=1) == pytest.approx(1, abs=1e-3)


def test_litert_runs_by_the_names_of_the_bundle(make: Make) -> None:
    from ofa.hardware.runtimes.litert import LiteRt

    try:
        LiteRt().versions()
    except NotInstalledError as error:
        pytest.skip(str(error))
    from ai_edge_litert.interpreter import Interpreter

    bundle = make("litert", "fp32")
    info = read_bundle(bundle)
    run = Interpreter(str(bundle / "model.tflite")).get_signature_runner()
    image = info.task.read_input(bundle / "samples" / "000.png", info.preprocessing)
    found = run(**{info.model.input: image[None]})[info.model.output]
    compare_outputs(np.load(bundle / "samples" / "outputs.npy")[:1], found, what="it", tolerance=1e-4)


# -- a free batch ----------------------------------------------------------------------------------------------------


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    found: np.ndarray = onnxruntime.InferenceSession(path).run(None, {"images": images})[0]
    return found


def run_openvino(path: Path, images: np.ndarray) -> np.ndarray:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: np.ndarray = np.array(compiled({"images": images})[0])
    return found


SIMILAR = (("openvino", "fp16"), ("openvino", "int8"), ("onnxruntime", "fp16"))


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        pytest.param(runtime, precision, marks=[pytest.mark.slow] * ((runtime, precision) in SIMILAR))
        for name, runtime, precision in ON_CPU
        if TARGETS[name].free_batch
    ],
)
def test_a_free_batch_takes_any_number(make: Make, runtime: str, precision: str) -> None:
    bundle = make(runtime, precision, dynamic_batch=True)
    info, run = read_bundle(bundle), {"onnxruntime": run_onnx, "openvino": run_openvino}[runtime]
    assert info.model.batch is None and verify_bundle(bundle).ok
    images = np.stack([info.task.read_input(bundle / name, info.preprocessing) for name in info.sample_names[:7]])
    file = bundle / info.model.files[0]
    expected = np.load(bundle / "samples" / "outputs.npy")[:7]
    for batch in (1, 3, 7):
        found = run(file, images[:batch])
        compare_outputs(expected[:batch], found, what=f"{batch}", tolerance=TOLERANCES[precision])
        compare_outputs(run(file, images)[:batch], found, what=f"{batch} of 7", tolerance=TOLERANCES[precision])


@pytest.mark.parametrize("runtime", [runtime for name, runtime, _ in ON_CPU if not TARGETS[name].free_batch])
def test_a_free_batch_is_refused_where_there_is_none(make: Make, runtime: str) -> None:
    with pytest.raises(TargetError, match=f"target {runtime} needs a fixed batch; leave --dynamic-batch out"):
        make(runtime, "fp32", dynamic_batch=True)


# -- versions of ONNX ------------------------------------------------------------------------------------------------

IR_VERSIONS = {14: 7, 15: 8, 17: 8, 18: 8, 19: 9, 21: 10}  # github.com/onnx/onnx, docs/Versioning.md


SLOW = [pytest.param(precision, marks=pytest.mark.slow) for precision in ("fp16", "int8")]


@pytest.mark.parametrize("precision", ["fp32", *SLOW])
def test_a_file_has_the_lowest_ir_version_that_its_opset_permits(make: Make, precision: str) -> None:
    for opset in (14, 18, 21) if precision == "int8" else IR_VERSIONS:
        bundle = make("onnxruntime", precision, opset=opset)
        model = onnx.load(bundle / "model.onnx")
        assert (model.opset_import[0].version, model.ir_version) == (opset, IR_VERSIONS[opset])
        assert verify_bundle(bundle).ok
        card = (bundle / "README.md").read_text(encoding="utf-8")
        assert f"| Format | ONNX, opset {opset}, IR version {IR_VERSIONS[opset]} |" in card
        assert f"| Precision | {precision}" in card


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_so_has_the_graph_beside_an_engine(monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    monkeypatch.setattr(TensorRt, "engine", lambda self, model, setting: b"engine of " + model)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).eval()
    network = Network(module=HalfPrecision(module) if precision == "fp16" else module, input_shape=(3, 8, 8), opset=17)
    files = TARGETS["tensorrt"].export(network, Setting(runtime="tensorrt", precision=precision)).files
    model = onnx.load_from_string(files["model.onnx"])
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert files["model.engine"] == b"engine of " + files["model.onnx"]


@pytest.mark.parametrize("runtime", ["openvino", "litert", "executorch"])
def test_an_opset_is_refused_where_no_onnx_file_leaves(make: Make, runtime: str) -> None:
    with pytest.raises(TargetError, match=r"device here gets model\..* in opset 17; leave --opset out"):
        make(runtime, "fp32", opset=17)


def test_int8_is_refused_in_an_opset_that_does_not_know_it(make: Make) -> None:
    with pytest.raises(TargetError, match="INT8 cannot be said in opset 12; the lowest is 13: ask for it"):
        make("onnxruntime", "int8", opset=12)
