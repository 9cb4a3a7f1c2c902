"""Writing and reading bundles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ofa.deploy import BundleError, ExportResult, Latency, read_bundle, write_bundle
from ofa.states import Speed, States
from ofa.tasks import Samples


@pytest.fixture(scope="module")
def contents(exported: ExportResult) -> dict[str, Any]:
    """The arguments that the shared bundle was written with."""
    return {
        "model": {"model.onnx": (exported.path / "model.onnx").read_bytes()},
        "info": exported.info,
        "samples": Samples(
            [(exported.path / name).read_bytes() for name in exported.info.sample_names], exported.info.sample_labels
        ),
        "outputs": np.load(exported.path / "samples" / "outputs.npy"),
    }


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_same_inputs_give_the_same_bytes(exported: ExportResult, contents: dict[str, Any], tmp_path: Path) -> None:
    os.utime(exported.path / "model.onnx", (0, 0))
    assert tree(write_bundle(tmp_path / "again", **contents)) == tree(exported.path)


def test_holds_what_the_contract_says(exported: ExportResult, check_sums: Callable[[Path], object]) -> None:
    info = json.loads((exported.path / "bundle.json").read_text())
    assert info["format"] == 5
    keys = "arch model device fingerprint budget_ms latency_ms top1_percent preprocessing classes provenance files"
    assert set(keys.split()) <= set(info)
    assert {"p10", "p50", "p90"} <= set(info["latency_ms"])
    assert len(info["latency_ms"]["quantiles"]) == 21
    assert set(info["files"]) == set(tree(exported.path)) - {"bundle.json", "SHA256SUMS"}
    check_sums(exported.path)


def test_model_card_has_the_hub_header(exported: ExportResult) -> None:
    _, header, text = (exported.path / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert "license" not in metadata
    assert metadata["pipeline_tag"] == "image-classification"
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(exported.info.score.value / 100)
    assert "within 4.2 ms on cpu-1t" in text


def test_existing_bundle_is_replaced_only_when_asked(contents: dict[str, Any], tmp_path: Path) -> None:
    out = write_bundle(tmp_path / "bundle", **contents)
    faster = {**contents, "info": replace(contents["info"], budget_ms=3.0)}
    with pytest.raises(BundleError, match="holds a bundle; give another folder, or replace it with --overwrite"):
        write_bundle(out, **faster)
    assert read_bundle(out).budget_ms == 4.2
    write_bundle(out, **faster, overwrite=True)
    assert read_bundle(out).budget_ms == 3.0
    assert list(tmp_path.iterdir()) == [out]


def occupy_with_file(out: Path) -> None:
    out.write_text("mine")


def occupy_with_folder(out: Path) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")


def occupy_with_bundle_and_more(out: Path) -> None:
    occupy_with_folder(out)
    (out / "bundle.json").write_text("{}")


def occupy_with_link(out: Path) -> None:
    occupy_with_folder(out.parent / "elsewhere")
    out.symlink_to(out.parent / "elsewhere")


@pytest.mark.parametrize(
    "occupy", [occupy_with_file, occupy_with_folder, occupy_with_bundle_and_more, occupy_with_link]
)
def test_anything_else_is_never_replaced(
    occupy: Callable[[Path], None], contents: dict[str, Any], tmp_path: Path
) -> None:
    occupy(tmp_path / "bundle")
    before = tree(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle"):
        write_bundle(tmp_path / "bundle", **contents, overwrite=True)
    assert tree(tmp_path) == before


def test_empty_folder_is_filled(contents: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    assert read_bundle(write_bundle(tmp_path / "bundle", **contents)) is not None


@pytest.mark.parametrize("where", ["README.md", "outputs.npy", "SHA256SUMS"])
@pytest.mark.parametrize("is_there", [False, True])
def test_failure_in_the_middle_leaves_what_was(
    where: str, is_there: bool, contents: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    if is_there:
        write_bundle(out, **contents)
    before = tree(tmp_path)
    write_bytes = Path.write_bytes

    def fail(path: Path, data: bytes) -> int:
        if path.name == where:
            raise OSError("no space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space left"):
        write_bundle(out, **contents, overwrite=True)
    assert tree(tmp_path) == before
    assert out.exists() == is_there
    assert len(list(tmp_path.iterdir())) == is_there


def test_unreadable_bundles_say_why(bundle: Path, tmp_path: Path) -> None:
    file = bundle / "bundle.json"
    with pytest.raises(BundleError, match=r"no bundle at .*; name a folder that `ofa export` left"):
        read_bundle(tmp_path / "nowhere")
    text = file.read_text()
    cases = [
        (text[:100], "truncated or not JSON"),
        (text.replace('"format": 5', '"format": 6'), "format 6, this version reads 2 and 3 and 4 and 5"),
        (text.replace('"budget_ms"', '"bugdet_ms"'), "did you mean 'budget_ms'"),
        (text.replace('"color": "L"', '"color": "CMYK"'), "color cannot be 'CMYK'"),
        (text.replace("        32,\n", "        320000,\n"), "resize needs heights and widths of 1 to 4096"),
        ("[" * 100_000, "nested more than 50 deep"),
        (text.replace('"budget_ms": 4.2', '"budget_ms": ' + "9" * 5000), "bundle.json"),
        (text.replace('"bytes"', '"size"'), "must have 'sha256' and 'bytes'"),
        (text.replace('"target": "onnx"', '"target": "onxn"'), "did you mean 'onnx'"),
        (text.replace('"files": [\n      "model.onnx"', '"files": [\n      "predict.py"'), r"not \['predict.py'\]"),
        (text.replace('"batch": 1', '"batch": 1000000'), "batch must be 1 to 4096"),
    ]
    for damaged, message in cases:
        file.write_text(damaged)
        with pytest.raises(BundleError, match=message):
            read_bundle(bundle)
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere.json")
    (tmp_path / "elsewhere.json").write_text(text)
    with pytest.raises(BundleError, match="is a link"):
        read_bundle(bundle)


def test_a_card_tells_latencies_at_each_speed(contents: dict[str, Any], tmp_path: Path) -> None:
    states = States("two speeds", 0.1, 0.1, 0.125, slope=1.0)
    latency_ms = Latency(p10=0.9, p50=1.0, p90=1.1, p99=2.0, cold_p50=1.3)
    info = replace(contents["info"], latency_ms=latency_ms, speed=Speed(states=states))
    card = (write_bundle(tmp_path / "bundle", **(contents | {"info": info})) / "README.md").read_text()
    assert "| Latency | 1.000 ms median when the machine is slow, 0.900 to 1.100 ms (p10 to p90)" in card
    assert "| Latency when it is fast | 0.800 ms median, 0.880 ms (p90), 1.600 ms (p99) |" in card
    assert "typical" not in card  # that is the fast one
    assert "| Latency after others used the caches | 1.300 ms median |" in card


def test_a_card_tells_times_of_a_batch_from_those_of_an_image(contents: dict[str, Any], tmp_path: Path) -> None:
    info = replace(contents["info"], model=replace(contents["info"].model, batch=8))
    card = (write_bundle(tmp_path / "bundle", **{**contents, "info": info}) / "README.md").read_text()
    assert "a budget of 4.2 ms per batch of 8 (0.525 ms per image)." in card
    assert "| Latency per batch of 8 (0.312 ms per image) | 2.500 ms median" in card
