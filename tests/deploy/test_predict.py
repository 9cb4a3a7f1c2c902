"""What a bundle's receiver runs: predict.py, alone."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ofa.data import DataConfig, DataError, ImageData, load_data, preprocessing
from ofa.data.readers.source import FORMATS
from ofa.deploy import export_bundle, read_bundle, verify_bundle
from ofa.deploy.parity import load_outputs
from ofa.hardware import load_device
from ofa.hardware.runtimes import RUNTIMES, NotInstalledError
from ofa.tasks import predict_class
from ofa.tasks.predict_class import preprocess
from ofa.training import SubnetEvaluator

from .conftest import RUN_INFO, latency


def test_runs_on_its_own_and_agrees(bundle: Path, tmp_path: Path) -> None:
    info = read_bundle(bundle)
    names = [str(bundle / name) for name in info.sample_names[:3]]
    # -I: neither this checkout nor the user's packages can be imported by accident.
    command = [sys.executable, "-I", str(bundle / "predict.py"), *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    logits = np.load(bundle / "samples" / "outputs.npy")[:3].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for line, name, row in zip(done.stdout.splitlines(), names, probabilities, strict=True):
        found_name, label, probability = line.split("\t")
        assert (found_name, label) == (name, info.classes[row.argmax()])
        assert float(probability) == pytest.approx(row.max(), abs=1e-3)


def colours(root: Path) -> ImageData:
    rng = np.random.default_rng(0)
    for label in "ab":
        (root / label).mkdir(parents=True)
        for index in range(24):
            pixels = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index:02}.png")
    return load_data(DataConfig(name="folder", root=str(root)), image_size=32)


@pytest.mark.parametrize("kind", ["grey", "colour"])
@pytest.mark.parametrize("resolution", [32, 20])
def test_preprocessing_equals_that_of_the_data(kind: str, resolution: int, tmp_path: Path) -> None:
    data = load_data(DataConfig(name="digits"), image_size=32) if kind == "grey" else colours(tmp_path)
    images, _ = next(data.batches("test", batch_size=4, image_size=resolution))
    spec = asdict(preprocessing(data, resolution))
    found = [preprocess(data.source.images[index], spec) for index in data.splits.test[:4]]
    np.testing.assert_array_equal(np.stack(found), images.numpy())


def test_samples_are_preprocessed_as_the_pictures_that_they_come_from(bundle: Path) -> None:
    info = read_bundle(bundle)
    data = load_data(DataConfig(name="digits"), image_size=32)
    images, labels = next(data.batches("test", batch_size=32, image_size=info.arch["resolution"]))
    found = [preprocess(Image.open(bundle / name), asdict(info.preprocessing)) for name in info.sample_names]
    np.testing.assert_array_equal(np.stack(found), images.numpy())
    assert info.sample_labels == tuple(labels.tolist())


@pytest.mark.alone
@pytest.mark.parametrize(
    "name", ["cpu-1t", "cpu-int8-1t", "openvino-1t", "openvino-int8-1t", "executorch-1t", "litert-1t"]
)
def test_runs_in_every_runtime_of_a_cpu(
    evaluator: SubnetEvaluator, candidates: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    device = load_device(name)
    try:
        RUNTIMES[device.setting.runtime]().versions()
    except NotInstalledError as error:
        pytest.skip(str(error))
    result = export_bundle(
        evaluator,
        candidates[2:],
        out=tmp_path / "bundle",
        device=device,
        budget_ms=4.2,
        measure=lambda files: [latency(1.0) for _ in files],
        run_info=RUN_INFO,
    )
    names = [str(result.path / sample) for sample in result.info.sample_names[:4]]
    command = [sys.executable, "-I", str(result.path / "predict.py"), *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    inputs = np.stack([result.info.task.read_input(Path(each), result.info.preprocessing) for each in names])
    outputs = load_outputs(result.path / result.info.model.files[0], setting=device.setting, batch=1)(inputs)
    found = [line.split("\t")[1] for line in done.stdout.splitlines() if line.startswith(str(result.path))]
    assert found == [result.info.classes[row.argmax()] for row in outputs]


@pytest.mark.parametrize("reads", ["data", "bundle", "predict.py"])
def test_a_picture_of_another_format_starts_no_program(bundle: Path, tmp_path: Path, reads: str) -> None:
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    root = tmp_path / "pictures"
    for label in "78":
        (root / label).mkdir(parents=True)
        for index in range(5):
            Image.new("L", (9, 9)).save(root / label / f"{index}.png")
    evil = root / "7" / "1.png"
    evil.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(evil) as image:
        assert image.format == "EPS"
    if reads == "data":
        with pytest.raises(DataError, match=r"1.png is truncated or not an image"):
            load_data(DataConfig(name="folder", root=str(root)), image_size=32)
    elif reads == "bundle":
        with pytest.raises(DataError, match=r"1.png is no picture that can be read"):
            verify_bundle(bundle, images=root)
    else:
        command = [sys.executable, "-I", str(bundle / "predict.py"), str(evil)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and "cannot identify image file" in done.stderr
    assert predict_class.FORMATS == FORMATS


@pytest.mark.parametrize("reads", ["data", "bundle"])
def test_a_pipe_among_pictures_is_not_waited_for(bundle: Path, tmp_path: Path, reads: str) -> None:
    root = tmp_path / "pictures"
    (root / "7").mkdir(parents=True)
    os.mkfifo(root / "7" / "0.png")
    with pytest.raises(DataError, match="is no regular file"):
        if reads == "data":
            load_data(DataConfig(name="folder", root=str(root)), image_size=32)
        else:
            verify_bundle(bundle, images=root)
