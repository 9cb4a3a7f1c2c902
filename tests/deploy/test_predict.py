"""What a bundle's receiver runs: predict.py, alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ofa.data import DataConfig, ImageData, load_data, preprocessing
from ofa.deploy import read_bundle
from ofa.tasks.predict_class import preprocess


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
