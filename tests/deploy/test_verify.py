"""Verification: what holds passes, what does not is named, nothing is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from PIL import Image

from ofa.data import DataError
from ofa.deploy import BundleError, read_bundle, verify_bundle
from ofa.deploy.foreign_graph import disorder, problem_of
from ofa.deploy.verify import VerifyResult
from ofa.hardware import load_device
from ofa.states import Speed

from .conftest import DEVICE, Stopwatch

FILES = ["model.onnx", "bundle.json", "README.md", "predict.py", "SHA256SUMS", "samples/outputs.npy", "samples/007.png"]


def reseal(bundle: Path, *, change: Any = lambda info: None) -> None:
    """Make sizes and sums right again, as whoever forges a bundle would."""
    file = bundle / "bundle.json"
    info = json.loads(file.read_text())
    for name in info["files"]:
        data = (bundle / name).read_bytes()
        info["files"][name] = {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
    change(info)
    file.write_text(json.dumps(info))
    sums = {name: entry["sha256"] for name, entry in info["files"].items()}
    sums["bundle.json"] = sha256(file.read_bytes()).hexdigest()
    (bundle / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofa.deploy.verify.PAUSE_SECONDS", 0)


def names_of_failed(result: VerifyResult) -> set[str]:
    assert not result.ok
    return {check.name for check in result.failed}


def test_a_good_bundle_holds(bundle: Path) -> None:
    result = verify_bundle(bundle, device=DEVICE, measure=Stopwatch(4.1))
    assert result.ok
    rows = {check.name: check for check in result.checks}
    assert {*FILES, "parity", "accuracy", "latency"} <= set(rows)
    assert rows["latency"].found == "p50 4.100 ms (p10 3.690, p50 4.100, p90 4.510, repeats to 0.5 %)"
    reseal(bundle)
    assert verify_bundle(bundle).ok


def test_a_missed_budget_is_named(bundle: Path) -> None:
    (check,) = verify_bundle(bundle, device=DEVICE, measure=Stopwatch(4.5, 4.4, 4.3)).failed
    assert (check.name, check.expected) == ("latency", "p50 at most 4.2 ms")
    assert check.found.startswith("p50 4.300 ms") and check.found.endswith("best of 3 measurements")


def test_a_miss_is_measured_again(bundle: Path) -> None:
    result = verify_bundle(bundle, device=DEVICE, measure=Stopwatch(5.7, 4.1))
    assert result.ok and result.checks[-1].found.endswith("best of 2 measurements")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 0.99])
def test_a_flipped_bit_is_found(name: str, where: float, bundle: Path) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[int(where * len(data))] ^= 1
    (bundle / name).write_bytes(data)
    try:
        assert name in names_of_failed(verify_bundle(bundle, device=DEVICE, measure=Stopwatch()))
    except BundleError as error:
        assert name == "bundle.json"
        assert str(bundle / name) in str(error)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["truncated", "emptied", "removed", "extended"])
def test_other_damage_is_found(name: str, how: str, bundle: Path) -> None:
    data = (bundle / name).read_bytes()
    if how == "removed":
        (bundle / name).unlink()
    else:
        damaged = {"truncated": data[: len(data) // 2], "emptied": b"", "extended": data + b"\n"}[how]
        (bundle / name).write_bytes(damaged)
    try:
        assert name in names_of_failed(verify_bundle(bundle, device=DEVICE, measure=Stopwatch()))
    except BundleError as error:
        assert name == "bundle.json"
        assert name in str(error) or str(bundle) in str(error)


@pytest.mark.parametrize(
    "name", ["../secret", "samples/../../secret", "/etc/hostname", "C:\\secret", ".hidden", "a//b", "", "a\nb", "./a"]
)
def test_names_that_leave_the_bundle_are_refused(name: str, bundle: Path) -> None:
    (bundle.parent / "secret").write_text("secret")
    entry = {"sha256": sha256(b"secret").hexdigest(), "bytes": 6}
    reseal(bundle, change=lambda info: info["files"].update({name: entry}))
    (check,) = (check for check in verify_bundle(bundle).failed if check.name == name)
    assert "leaves the folder" in check.found


@pytest.mark.parametrize("linked", ["samples", "model.onnx"])
def test_links_are_refused_even_if_contents_are_right(linked: str, bundle: Path) -> None:
    (bundle / linked).rename(bundle.parent / "elsewhere")
    (bundle / linked).symlink_to(bundle.parent / "elsewhere")
    failed = verify_bundle(bundle).failed
    assert {check.found for check in failed} <= {"a link", "not listed"}
    assert any(check.name.startswith(linked) for check in failed)


def test_a_pipe_is_not_read(bundle: Path) -> None:
    (bundle / "README.md").unlink()
    os.mkfifo(bundle / "README.md")
    (check,) = verify_bundle(bundle).failed
    assert (check.name, check.found) == ("README.md", "no plain file")


@pytest.mark.parametrize("name", [".git/config", ".weights.bin", "samples/.hidden", "numpy.py"])
def test_files_that_are_not_listed_are_named_hidden_ones_too(name: str, bundle: Path) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("raise SystemExit")  # predict.py would import it
    (check,) = verify_bundle(bundle).failed
    assert (check.name, check.found) == (name, "not listed")


def test_a_listed_file_that_no_bundle_has_is_named(bundle: Path) -> None:
    (bundle / "onnx.py").write_text("raise SystemExit")
    reseal(
        bundle,
        change=lambda info: info["files"].update(
            {"onnx.py": {"sha256": sha256(b"raise SystemExit").hexdigest(), "bytes": 16}}
        ),
    )
    (check,) = verify_bundle(bundle).failed
    assert (check.name, check.found) == ("onnx.py", "no file of a bundle")


def test_files_that_must_be_listed(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    file = bundle / "bundle.json"
    info = json.loads(file.read_text())
    del info["files"]["model.onnx"]
    file.write_text(json.dumps(info))
    reseal(bundle)
    assert names_of_failed(verify_bundle(bundle)) == {"model.onnx"}


def test_a_claim_of_gigabytes_is_refused(bundle: Path) -> None:
    with (bundle / "model.onnx").open("r+b") as file:
        file.truncate(3 << 30)  # sparse: it takes no room
    (check,) = (check for check in verify_bundle(bundle).failed if check.name == "model.onnx")
    assert "above the limit" in check.found


# -- forged: sums are right, contents are not ------------------------------------------------------------------------


def header_claiming(num_rows: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (num_rows, 10)})
    return buffer.getvalue()


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def pickled_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[Bomb()]], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def huge_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (5000, 5000)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("samples/outputs.npy", header_claiming(10**12), "mmap|size"),
        ("samples/outputs.npy", pickled_array(), "Python objects|pickle"),
        ("samples/outputs.npy", pickle.dumps(Bomb()), "pickle"),
        ("samples/000.png", huge_png(), "5000"),
        ("samples/000.png", b"not a picture", "cannot identify"),
        ("model.onnx", b"not a model", "not a valid ONNX model"),
        ("model.onnx", b"", "model"),
    ],
)
def test_forged_contents_are_refused(
    name: str, data: bytes, found: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    (bundle / name).write_bytes(data)
    reseal(bundle)
    (check,) = verify_bundle(bundle, device=DEVICE, measure=Stopwatch()).failed
    assert check.name == "parity"
    assert any(word in check.found for word in found.split("|")), check.found
    assert not Path("exploded").exists()


SECRET = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
SECRET.external_data.add(key="location", value="../secret")


def in_an_initializer(model: ModelProto) -> None:
    model.graph.initializer.append(SECRET)


def in_a_sparse_initializer(model: ModelProto) -> None:
    model.graph.sparse_initializer.append(SparseTensorProto(values=SECRET))


def in_a_constant(model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=SECRET))


def in_a_list_of_an_attribute(model: ModelProto) -> None:
    model.graph.node[0].attribute.add(name="odd", type=onnx.AttributeProto.TENSORS).tensors.append(SECRET)


def in_a_sparse_constant(model: ModelProto) -> None:
    node = model.graph.node.add(op_type="Constant", output=["c"])
    node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.values.CopyFrom(
        SECRET
    )


def in_a_branch(model: ModelProto) -> None:
    branch = helper.make_graph([], "b", [], [], [SECRET])
    model.graph.node.append(helper.make_node("If", ["images"], ["z"], then_branch=branch, else_branch=branch))


def in_a_function(model: ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=SECRET)
    model.functions.append(helper.make_function("mine", "f", [], ["c"], [constant], []))


def in_training(model: ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(SECRET)


def not_marked(model: ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="../secret")


@pytest.mark.parametrize(
    "hide",
    [
        in_an_initializer, in_a_sparse_initializer, in_a_constant, in_a_list_of_an_attribute, in_a_sparse_constant,
        in_a_branch, in_a_function, in_training, not_marked,
    ],
    ids=lambda hide: hide.__name__,
)  # fmt: skip
def test_weights_in_other_files_are_refused(hide: Callable[[ModelProto], None], bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    hide(model)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)
    (check,) = verify_bundle(bundle).failed
    name = model.graph.initializer[0].name if hide is not_marked else "hidden"
    assert f"takes weight {name!r} from another file" in check.found


def in_a_circle(model: ModelProto) -> str:
    model.graph.node.insert(0, helper.make_node("Relu", [model.graph.node[-1].output[0]], ["back"]))
    model.graph.node[1].input[0] = "back"
    return "'Relu' reads .*, which nothing before it makes"


def made_twice(model: ModelProto) -> str:
    model.graph.node.append(helper.make_node("Relu", ["images"], [model.graph.node[0].output[0]]))
    return "'Relu' makes .*, which is there already"


def constant_made_twice(model: ModelProto) -> str:
    model.graph.initializer.append(model.graph.initializer[0])
    return "two of its constants have one name"


def circle_in_a_branch(model: ModelProto) -> str:
    nodes = [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    branch = helper.make_graph(nodes, "b", [], [])
    model.graph.node.append(helper.make_node("If", ["images"], ["z"], then_branch=branch, else_branch=branch))
    return "'Relu' reads 'b', which nothing before it makes"


def circle_in_a_function(model: ModelProto) -> str:
    nodes = [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("mine", "f", [], ["b"], nodes, []))
    return "'Relu' reads 'b', which nothing before it makes"


@pytest.mark.parametrize(
    "spoil",
    [in_a_circle, made_twice, constant_made_twice, circle_in_a_branch, circle_in_a_function],
    ids=lambda spoil: spoil.__name__,
)
def test_graphs_in_disorder_are_refused_before_they_are_walked(
    spoil: Callable[[ModelProto], str], bundle: Path
) -> None:
    model = onnx.load(bundle / "model.onnx")
    message = spoil(model)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)
    (check,) = verify_bundle(bundle).failed
    assert check.name == "parity" and re.search(message, check.found), check.found


def test_nodes_may_stand_in_another_order(bundle: Path) -> None:
    """As in what ONNX Runtime's quantizer makes; ONNX asks for more, and runtimes do not."""
    model = onnx.load(bundle / "model.onnx")
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert disorder(model, in_order=False) == "" and "which nothing before it makes" in disorder(model)


def test_branches_may_read_what_is_around_them_and_name_alike() -> None:
    """Their names are their own: the next branch, and what follows, may use them again."""
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["inside"])], "b", [], [])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Relu", ["y"], ["inside"]),
        helper.make_node("Clip", ["inside", "", "x"], ["z"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "c", "z")]
    assert disorder(helper.make_model(helper.make_graph(nodes, "g", values[:2], values[2:]))) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE net SYSTEM "file:///etc/passwd"><net/>', "has a document type definition"),
        ("<other/>", "is not an OpenVINO IR: it begins with 'other'"),
        ("ONNX", "is not a valid OpenVINO IR: syntax error"),
        ('<?xml version="1.0"?><net name="n"><layers/></net>', ""),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_ir_that_could_name_files_is_refused(text: str, message: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_bytes(text.encode(encoding))
    problem = problem_of(tmp_path / "model.xml")
    assert message in problem and bool(message) == bool(problem)


# -- a network that does not behave ------------------------------------------------------------------------------------


def looping(num_steps: int) -> ModelProto:
    """Doubles its picture so often, and says the first ten numbers."""
    steps = [helper.make_node("Add", ["v", "v"], ["w"]), helper.make_node("Identity", ["go"], ["goes"])]
    carried = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("v", "w")]
    control = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "goes")]
    step = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    body = helper.make_graph(steps, "body", [step, control[0], carried[0]], [control[1], carried[1]])
    nodes = [
        helper.make_node("Loop", ["steps", "always", "images"], ["big"], body=body),
        helper.make_node("Reshape", ["big", "flat"], ["f"]),
        helper.make_node("Slice", ["f", "from", "to", "axis"], ["logits"]),
    ]
    values = {"steps": np.int64(num_steps), "always": np.bool_(True), "flat": np.array([1, -1])}
    values |= {"from": np.array([0]), "to": np.array([10]), "axis": np.array([1])}
    constants = [numpy_helper.from_array(np.array(value), name) for name, value in values.items()]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, None, None])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(nodes, "g", [images], [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_network_that_does_not_end_is_ended(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofa.deploy.verify.SECONDS", 3.0)
    (bundle / "model.onnx").write_bytes(looping(1 << 62).SerializeToString())
    reseal(bundle)
    before = time.monotonic()
    (check,) = verify_bundle(bundle).failed
    assert time.monotonic() - before < 60
    assert (check.name, check.found) == ("parity", "the network has not come to an end within 3 s")


def test_a_bundle_cannot_widen_what_it_is_checked_by(bundle: Path) -> None:
    """Another network is found whatever the bundle says of its own tolerance, and of what it was compared with."""
    model = onnx.load(bundle / "model.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.raw_data = (np.frombuffer(weights.raw_data, dtype=np.float32) * 1.01).tobytes()
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle, change=lambda info: info["parity"].update(tolerance=1e30, reference="quantized graph"))
    (check,) = verify_bundle(bundle).failed
    assert (check.name, check.expected) == ("parity", "outputs of 32 sample pictures to 0.0001 of the largest")
    reseal(bundle, change=lambda info: info["parity"].update(tolerance=float("inf")))
    with pytest.raises(BundleError, match="is no finite number"):
        verify_bundle(bundle)


def test_stored_outputs_that_nothing_departs_from_are_refused(bundle: Path) -> None:
    outputs = np.load(bundle / "samples" / "outputs.npy")
    outputs[3, 5] = np.inf  # any difference is below a share of that
    np.save(bundle / "samples" / "outputs.npy", outputs)
    reseal(bundle)
    (check,) = verify_bundle(bundle).failed
    assert check.name == "parity" and "not finite" in check.found


def test_another_model_is_not_the_one_promised(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.raw_data = (np.frombuffer(weights.raw_data, dtype=np.float32) * 1.01).tobytes()
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)
    (check,) = verify_bundle(bundle).failed
    assert check.name == "parity"
    assert "departs by" in check.found


def test_predict_script_is_never_run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    (bundle / "predict.py").write_text("open('exploded', 'w')")
    reseal(bundle)
    (check,) = verify_bundle(bundle).failed
    assert (check.name, check.expected, check.found) == ("predict.py", "the program of this package", "another program")
    assert not Path("exploded").exists()


def test_reading_touches_only_bundle_json(bundle: Path) -> None:
    for name in read_bundle(bundle).files:
        (bundle / name).unlink()
    assert read_bundle(bundle).device == "cpu-1t"


# -- on another machine, on somebody's own pictures --------------------------------------------------------------------


def test_a_device_of_another_runtime_is_refused(bundle: Path) -> None:
    with pytest.raises(
        BundleError, match="is for onnxruntime in fp32, but device openvino-1t computes in fp32 on openv"
    ):
        verify_bundle(bundle, device=load_device("openvino-1t"), measure=Stopwatch())


def test_the_median_may_miss_by_what_the_machine_repeats_to(bundle: Path) -> None:
    assert verify_bundle(bundle, device=DEVICE, measure=Stopwatch(4.2 * 1.004)).ok  # repeats to 0.5 %
    (check,) = verify_bundle(bundle, device=DEVICE, measure=Stopwatch(*[4.2 * 1.006] * 3)).failed
    assert check.name == "latency"


SPEED = {
    "state": "slow",
    "percentile": 90,
    "states": {"kind": "two speeds", "fast_ms": 0.1, "typical_ms": 0.1, "slow_ms": 0.137, "slow_share": 0.3},
}


@pytest.mark.parametrize(
    ("times_as_long", "holds", "text"),
    [
        (1 / 1.37, True, "repeats to 0.5 %)"),
        (1.0, True, "p90 4.180 ms when the machine is slow"),
        (1.02, True, "; this machine is 1.40 times slower now than when its table was made"),
        (0.9 / 1.37, True, "; this machine is 1.11 times faster now than when its table was made"),
        (1.5, False, "; this machine is 2.06 times slower now than when its table was made"),
    ],
)
def test_a_budget_is_held_at_the_speed_that_it_is_for(
    bundle: Path, times_as_long: float, holds: bool, text: str
) -> None:
    """The 90th percentile counts; slower than ever while the table was made, the machine keeps no promise."""
    reseal(bundle, change=lambda info: info.update(speed=SPEED))
    stopwatch = Stopwatch(*[3.8] * 3, times_as_long=times_as_long)
    check = verify_bundle(bundle, device=DEVICE, measure=stopwatch).checks[-1]
    assert (check.name, check.ok, check.expected) == ("latency", holds, "p90 at most 4.2 ms when the machine is slow")
    assert text in check.found
    assert stopwatch.asked == read_bundle(bundle).speed


@pytest.mark.parametrize("wrong", [{"typical_ms": 0}, {"slow_ms": 1e300}, {"slope": 1e300}, {"fast_ms": "x"}])
def test_speeds_that_no_machine_has_are_no_bundle(bundle: Path, wrong: dict[str, Any]) -> None:
    speed = {**SPEED, "states": {**SPEED["states"], **wrong}}  # type: ignore[dict-item]
    reseal(bundle, change=lambda info: info.update(speed=speed))
    with pytest.raises(BundleError, match=r"speed: states.*must be"):
        read_bundle(bundle)


def test_on_another_machine_its_own_speed_counts(bundle: Path) -> None:
    def change(info: dict[str, Any]) -> None:
        info.update(speed=SPEED, fingerprint={"id": "of another", "cpu": "Cortex-A76"})

    reseal(bundle, change=change)
    stopwatch = Stopwatch(3.8)
    assert "than it was promised for" in verify_bundle(bundle, device=DEVICE, measure=stopwatch).checks[-1].found
    assert stopwatch.asked == Speed(percentile=90)


def test_another_machine_is_named(bundle: Path) -> None:
    reseal(bundle, change=lambda info: info["fingerprint"].update(id="of another", cpu="Cortex-A76"))
    (check,) = (c for c in verify_bundle(bundle, device=DEVICE, measure=Stopwatch(4.1)).checks if c.name == "latency")
    assert check.ok and "than it was promised for (Cortex-A76)" in check.found


def fill(folder: Path, bundle: Path, *, shift: int) -> None:
    """The bundle's own samples as somebody's pictures, in the folder of their class or of a later one."""
    info = read_bundle(bundle)
    for name, label in zip(info.sample_names, info.sample_labels, strict=True):
        place = folder / info.classes[(label + shift) % len(info.classes)]
        place.mkdir(parents=True, exist_ok=True)
        (place / Path(name).name).write_bytes((bundle / name).read_bytes())


def test_accuracy_on_a_folder_of_pictures(bundle: Path, tmp_path: Path) -> None:
    fill(tmp_path / "right", bundle, shift=0)
    steps: list[tuple[int, int, str]] = []
    result = verify_bundle(bundle, images=tmp_path / "right", progress=lambda *step: steps.append(step))
    (check,) = (check for check in result.checks if check.name == "accuracy on pictures")
    expected = np.load(bundle / "samples" / "outputs.npy").argmax(axis=1)
    right = (expected == np.array(result.info.sample_labels)).mean()
    assert check.found.startswith(f"{100 * right:.1f} % (") and check.found.endswith("of 32")
    assert steps[-1] == (32, 32, "classifying pictures")


def test_pictures_that_are_none_or_of_other_classes_are_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        verify_bundle(bundle, images=tmp_path / "nowhere")
    folder = tmp_path / "pictures"
    (folder / "7").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no pictures; they go into a folder per class, such as 0/"):
        verify_bundle(bundle, images=folder)
    (folder / "7" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken.png is truncated or not an image"):
        verify_bundle(bundle, images=folder)
    (folder / "seven").mkdir()
    with pytest.raises(DataError, match="class 'seven'"):
        verify_bundle(bundle, images=folder)


def test_a_runtime_that_is_not_there_is_named(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not for this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # this process has it already, the one that runs the network not
    (check,) = verify_bundle(bundle).failed
    assert check.name == "parity" and "(not for this machine); install it with: pip install onnxruntime" in check.found
