"""What a bundle's receiver runs: predict.py, alone."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ofa.data import DataConfig, DataError, ImageData, load_data, preprocessing
from ofa.data.picture import to_input
from ofa.deploy import export_bundle, read_bundle, verify_bundle
from ofa.deploy.parity import load_outputs
from ofa.hardware import Device, load_device
from ofa.hardware.runtimes import RUNTIMES, NotInstalledError
from ofa.supernet import create_supernet
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
    found = [to_input(data.source.images[index], spec) for index in data.splits.test[:4]]
    np.testing.assert_array_equal(np.stack(found), images.numpy())


def test_samples_are_preprocessed_as_the_pictures_that_they_come_from(bundle: Path) -> None:
    info = read_bundle(bundle)
    data = load_data(DataConfig(name="digits"), image_size=32)
    images, labels = next(data.batches("test", batch_size=32, image_size=info.arch["resolution"]))
    found = [to_input(Image.open(bundle / name), asdict(info.preprocessing)) for name in info.sample_names]
    np.testing.assert_array_equal(np.stack(found), images.numpy())
    assert info.sample_labels == tuple(labels.tolist())


CPU_DEVICES = ["cpu-1t", "cpu-int8-1t", "openvino-1t", "openvino-int8-1t", "executorch-1t", "litert-1t"]


def installed(name: str) -> Device:
    device = load_device(name)
    try:
        RUNTIMES[device.setting.runtime]().versions()
    except NotInstalledError as error:
        pytest.skip(str(error))
    return device


@pytest.mark.alone
@pytest.mark.parametrize("name", CPU_DEVICES)
def test_runs_in_every_runtime_of_a_cpu(
    evaluator: SubnetEvaluator, candidates: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    device = installed(name)
    result = export_bundle(
        evaluator,
        candidates[2:],
        out=tmp_path / "bundle",
        device=device,
        budget_ms=4.2,
        measure=lambda files, speed: [latency(1.0) for _ in files],
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
        with pytest.raises(DataError, match=r"1.png is truncated or not an image"):
            verify_bundle(bundle, images=root)
    else:
        command = [sys.executable, "-I", str(bundle / "predict.py"), str(evil)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and "cannot identify image file" in done.stderr


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


# -- pictures of every kind --------------------------------------------------------------------------------------------


def pictures(root: Path) -> Path:
    """Two kinds of pictures, told apart by the end that is brighter, in every form that a picture may come in."""
    rng = np.random.default_rng(0)
    for number in range(24):
        for label in ("left", "right"):
            values = rng.integers(0, 90, (40, 40), dtype=np.uint8)
            values[:, slice(0, 20) if label == "left" else slice(20, 40)] += 130
            image = Image.fromarray(values)
            exif = Image.Exif()
            if number % 8 == 1:
                exif[0x0112] = 6
                image = image.rotate(90, expand=True)
            elif number % 8 == 2:
                image.putalpha(Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)))
            elif number % 8 == 3:
                image = Image.fromarray(values.astype(np.uint16) * 257)
            elif number % 8 == 4:
                image = image.convert("CMYK")
            elif number % 8 == 5:
                image = image.resize((120, 30))
            elif number % 8 == 6:
                image = image.convert("P")
            elif number % 8 == 7:
                image = image.convert("RGB")
            place = root / label / f"{number:02}.{'tif' if image.mode == 'CMYK' else 'png'}"
            place.parent.mkdir(parents=True, exist_ok=True)
            image.save(place, exif=exif)
    return root


SIGHTS: dict[str, dict[str, Any]] = {
    "letterbox": {"fit": "letterbox", "ground": (40,)},
    "squash": {"fit": "squash", "crop_pct": 0.9, "interpolation": "bilinear"},
    "wide": {"proportions": (2, 3)},
    "grey": {"channels": 1},
    "alpha": {"channels": 4},
}


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SubnetEvaluator:
    """A network that was trained on such pictures for a moment."""
    settings = dict(SIGHTS[request.param])
    channels, (height, width) = settings.pop("channels", 3), settings.pop("proportions", (1, 1))
    root = pictures(tmp_path_factory.mktemp("pictures"))
    shares = {"test_share": 16, "search_share": 4, "calibration_share": 8}
    config = DataConfig(name="folder", root=str(root), crop_padding=0, **shares, **settings)
    data = load_data(config, image_size=32, channels=channels, proportions=(height, width))
    torch.manual_seed(0)
    supernet = create_supernet(
        "test_efficientnet",
        num_classes=2,
        in_chans=channels,
        input_size=(32, 32 * width // height),
        resolution=(24, 32),
        depth=(1,),
    )
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(12):
        for images, labels in data.train_batches(epoch=epoch, batch_size=8, seed=0):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(supernet.model(images), labels).backward()
            optimizer.step()
    return SubnetEvaluator(supernet.eval(), data)


@pytest.mark.alone
@pytest.mark.parametrize(
    "name",
    [name if name.startswith("cpu") else pytest.param(name, marks=pytest.mark.slow) for name in CPU_DEVICES],
)
@pytest.mark.parametrize(
    "seen",
    [sight if sight == "letterbox" else pytest.param(sight, marks=pytest.mark.slow) for sight in SIGHTS],
    indirect=True,
)
def test_predicts_what_evaluation_does_whatever_the_picture(seen: SubnetEvaluator, tmp_path: Path, name: str) -> None:
    device = installed(name)
    arch = {**seen.supernet.space.largest(), "resolution": 24}
    result = export_bundle(
        seen,
        [{"arch": arch, "latency_ms": 1.0}],
        out=tmp_path / "bundle",
        device=device,
        budget_ms=4.2,
        measure=lambda files, speed: [latency(1.0) for _ in files],
        run_info=RUN_INFO,
    )
    data, rows = seen.data, seen.data.splits.test
    found = table_of(result.path, Path(str(data.config.root)), tmp_path)
    assert len(found) == 48
    inputs = torch.cat([images for images, _ in data.batches("test", batch_size=8, image_size=24)])
    if device.setting.precision == "int8":
        file = result.path / result.info.model.files[0]
        outputs = load_outputs(file, setting=device.setting, batch=1)(inputs.numpy())
    else:
        outputs = seen.calibrated(arch)(inputs).detach().numpy()
    expected = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    same = found.loc[[data.source.images.name(index) for index in rows]]
    assert same["class"].tolist() == [data.classes[index] for index in outputs.argmax(axis=1)]
    np.testing.assert_allclose(same.iloc[:, 2:], expected, atol=2e-5)
    assert np.ptp(expected[:, 0]) > 0.01
    assert verify_bundle(result.path, images=data.config.root).ok


def table_of(bundle: Path, root: Path, out: Path) -> pd.DataFrame:
    """What predict.py writes of all files in a folder, by their names, in a process that has none of ours."""
    command = [sys.executable, "-I", str(bundle / "predict.py"), str(root), "--csv", str(out / "found.csv")]
    subprocess.run(command, cwd=out, capture_output=True, text=True, check=True)
    table = pd.read_csv(out / "found.csv")
    return table.set_index(table["file"].map(lambda file: str(Path(file).relative_to(root))))


def test_says_what_it_cannot_read(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.png").write_bytes(b"none")
    for name, message in [("nowhere", "is no file"), ("empty", "holds no pictures"), ("none.png", "cannot identify")]:
        command = [sys.executable, "-I", str(bundle / "predict.py"), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
