"""Verification: what holds passes, what does not is named, nothing is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from ofa.data import DataError
from ofa.deploy import BundleError, read_bundle, verify_bundle
from ofa.deploy.verify import VerifyResult
from ofa.hardware import load_device

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
    assert {"format", *FILES, "parity", "accuracy", "latency"} <= set(rows)
    assert rows["latency"].found == "p50 4.100 ms (p10 3.690, p90 4.510, repeats to 0.5 %)"
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


def test_unlisted_files_are_named_but_not_hidden_ones(bundle: Path) -> None:
    (bundle / ".git").mkdir()
    (bundle / ".git" / "config").write_text("")
    assert verify_bundle(bundle).ok
    (bundle / "numpy.py").write_text("raise SystemExit")  # predict.py would import it
    assert names_of_failed(verify_bundle(bundle)) == {"numpy.py"}


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


def test_weights_in_other_files_are_refused(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)
    (check,) = verify_bundle(bundle).failed
    assert f"takes weight {tensor.name!r} from another file" in check.found


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


def test_a_runtime_that_is_not_there_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ofa.hardware.runtimes import NotInstalledError
    from ofa.hardware.runtimes.onnxruntime import OnnxRuntime

    def prepare(*args: object) -> None:
        raise NotInstalledError("onnxruntime cannot be imported; install it with: pip install onnxruntime")

    monkeypatch.setattr(OnnxRuntime, "prepare", prepare)
    (check,) = verify_bundle(bundle).failed
    assert check.name == "parity" and "pip install onnxruntime" in check.found
