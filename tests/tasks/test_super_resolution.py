"""Larger pictures, the whole way: checkers and stripes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError
from ofa.deploy import read_bundle, verify_bundle
from ofa.metrics import PSNR
from ofa.supernet import create_supernet
from ofa.tasks import SuperResolution
from ofa.tasks.predict_enlarged import OVERLAP, enlarged, places
from ofa.tasks.super_resolution import PictureScorer, psnr_db, structural_similarity
from ofa.tasks.task import Exhibit
from ofa.training import Run, SubnetEvaluator, load_recipe, train

from .helpers import check_schema, make_bundle

WORDS = (
    "model.resolution=[16]",
    "model.depth=[1, 2]",
    "train.epochs=15",
    "train.batch_size=8",
    "train.learning_rate=0.002",
    "train.eval_every_epochs=0",
    "train.device=cpu",
)


def write_pictures(folder: Path, num: int) -> Path:
    """Stripes of any direction in two colours; 40 by 36 pixels."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:36, :40]
    for index in range(num):
        angle, width, colours = rng.uniform(0, np.pi), rng.uniform(3, 6), rng.integers(256, size=(2, 3))
        chosen = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) / width * np.pi) > 0
        place = folder / ("train" if index < num * 0.8 else "test") / f"{index:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours[chosen.astype(int)].astype(np.uint8)).save(place)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and a run; not to be changed."""
    folder = tmp_path_factory.mktemp("stripes")
    write_pictures(folder / "stripes", 100)
    train(load_recipe("super_resolution", (f"data.root={folder / 'stripes'}", *WORDS)), folder / "run")
    return folder


def bilinear_db(evaluator: SubnetEvaluator) -> float:
    """What the network begins with."""
    found = []
    for images, large in evaluator.data.batches("test", batch_size=8, image_size=16):
        enlarged_images = torch.nn.functional.interpolate(images, scale_factor=2, mode="bilinear")
        found += [psnr_db(*pair) for pair in zip(enlarged_images.numpy(), large.numpy(), strict=True)]
    return float(np.mean(found))


def test_it_is_better_than_enlarging(run: Run, evaluator: SubnetEvaluator) -> None:
    assert evaluator.data.splits.test.size == 20 and run.num_classes == 3
    largest, smallest = evaluator.values([run.space.largest(), run.space.smallest()], split="test")
    assert min(largest, smallest) > bilinear_db(evaluator) + 0.5
    assert run.task.metric == PSNR and PSNR.text(31.416) == "31.42 dB"


def test_what_is_given_is_made_of_what_is_right(run: Run) -> None:
    data = run.data()
    images, large = next(run.task.batches(data, "test", batch_size=4, sizes={"resolution": 16}))
    assert images.shape == (4, 3, 16, 16) and large.shape == (4, 3, 32, 32)
    pixels = (255 * large[0]).round().to(torch.uint8).permute(1, 2, 0).numpy()
    small = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal((255 * images[0]).round().to(torch.uint8).permute(1, 2, 0).numpy(), small)
    images, large = next(run.task.train_batches(data, epoch=0, batch_size=4, seed=0))
    assert images.shape == (4, 3, 16, 16) and large.shape == (4, 3, 32, 32) and 0 <= large.min() < large.max() <= 1


def test_likeness_is_what_the_papers_say() -> None:
    rng = np.random.default_rng(0)
    right = rng.uniform(size=(3, 40, 48))
    found = (right + 0.1 * rng.normal(size=right.shape)).clip(0, 1)
    assert psnr_db(right + 0.1, right) == pytest.approx(20)
    assert structural_similarity(right, right) == pytest.approx(1)
    image = pytest.importorskip("torchmetrics.functional.image")
    pair = [torch.from_numpy(each)[None] for each in (found, right)]
    expected = float(image.structural_similarity_index_measure(*pair, data_range=1.0))
    assert structural_similarity(found, right) == pytest.approx(expected, abs=1e-6)
    assert psnr_db(found, right) == pytest.approx(float(image.peak_signal_noise_ratio(*pair, data_range=1.0)), abs=1e-4)


def test_a_judge_of_pictures() -> None:
    rng, scorer = np.random.default_rng(0), PictureScorer(is_thorough=True)
    right = rng.uniform(size=(12, 3, 16, 16))
    found = right + rng.uniform(0.01, 0.2, size=(12, 1, 1, 1)) * rng.normal(size=right.shape)
    for rows in (slice(0, 5), slice(5, 12)):
        scorer.update(torch.from_numpy(found[rows]), torch.from_numpy(right[rows]))
    score = scorer.score()
    assert score.num_images == 12 == len(scorer.similarities) and score.low < score.value < score.high
    assert score.value == pytest.approx(np.mean([psnr_db(*pair) for pair in zip(found.clip(0, 1), right, strict=True)]))


def test_spaces_of_edsr() -> None:
    supernet = create_supernet("edsr_tiny", num_classes=3)
    assert {dim.kind for dim in supernet.dims} >= {"depth", "expand", "width"}
    assert supernet.space["resolution"].values[-1] == 48


def test_any_size_is_enlarged_piece_by_piece() -> None:
    """Twice as large, exactly: by a network that repeats pixels."""
    assert places(16, 16) == [0] and places(40, 16) == [0, 8, 16, 24] and places(10, 16) == [0]
    for length in range(17, 80):
        found = places(length, 16)
        assert found[-1] + 16 == length and max(np.diff(found)) <= 16 - OVERLAP + 1
    rng = np.random.default_rng(0)
    look = {"color": "RGB", "fit": "crop", "crop_pct": 1.0, "ground": (255, 255, 255), "white": None}
    spec = {
        **look,
        "interpolation": "bicubic",
        "resize": [[16, 16]],
        "channels": 3,
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
    }
    info = {"preprocessing": {**spec, "layout": "NCHW", "dtype": "float32"}, "model": {"batch": 1}}
    for size in ((50, 37, 3), (16, 16, 3), (7, 40, 3)):
        pixels = rng.integers(256, size=size).astype(np.uint8)
        found = enlarged(info, lambda inputs: inputs.repeat(2, axis=2).repeat(2, axis=3), Image.fromarray(pixels))
        np.testing.assert_array_equal(found, pixels.repeat(2, axis=0).repeat(2, axis=1))


def test_a_bundle(bundle: Path, run: Run, evaluator: SubnetEvaluator, work: Path, tmp_path: Path) -> None:
    info = read_bundle(bundle)
    assert info.task == SuperResolution() and info.model.output == "pixels"
    assert info.preprocessing.resize == ((16, 16),) and info.sample_labels[0] == "samples/000-large.png"
    assert info.score.value == pytest.approx(float(evaluator.values([run.space.smallest()], split="test")[0]), abs=0.01)
    check_schema(bundle)
    assert verify_bundle(bundle).ok
    details = json.loads((bundle / "bundle.json").read_text())
    assert "structural_similarity" in json.dumps(details)
    picture = next((work / "stripes" / "test").iterdir())
    command = [sys.executable, bundle / "predict.py", picture, "--out", tmp_path / "out"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "80 × 72 pixels" in said
    with Image.open(said.split("\t")[1]) as image:
        assert image.size == (80, 72)


def test_a_bundle_that_takes_pixels(run: Run, evaluator: SubnetEvaluator, bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(evaluator, run, tmp_path / "pixels", from_pixels=True)
    assert verify_bundle(other).ok
    one, another = (np.load(folder / "samples" / "outputs.npy") for folder in (bundle, other))
    np.testing.assert_allclose(one, another, atol=1e-4)


def test_the_page_shows_pictures(bundle: Path, run: Run) -> None:
    info = json.loads((bundle / "bundle.json").read_text())
    section = run.task.report_section([Exhibit(name="cpu-1t", folder=bundle, info=info)])
    assert section is not None and len(section.rows) == 6 and all("dB" in cell for cell in section.rows[0][1:])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.random_erasing=0.2", "leaves task super_resolution to guess"),
        ("data.mixup=0.2", "is for classes"),
        ("task.factor=9", "task.factor must be from 2 to 8, not 9"),
    ],
)
def test_what_does_not_go_together(work: Path, word: str, message: str) -> None:
    from ofa.training.preflight import check_recipe

    with pytest.raises((ConfigError, DataError), match=message):
        check_recipe(load_recipe("super_resolution", (f"data.root={work / 'stripes'}", word)))


def test_a_model_of_another_factor(work: Path, tmp_path: Path) -> None:
    recipe = load_recipe("super_resolution", (f"data.root={work / 'stripes'}", *WORDS, "task.factor=3"))
    with pytest.raises(ConfigError, match=r"makes pictures of 32 × 32 pixels, but task.factor 3 needs 48 × 48"):
        train(recipe, tmp_path / "run")


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="found no pictures to train on"):
        SuperResolution().source(DataConfig(name="folder", root=str(tmp_path)))
