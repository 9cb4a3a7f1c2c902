"""Batches: what they hold, in which order, and that memory or workers make no difference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ofa.data import SPLITS, DataConfig, DataError, ImageData, load_data, preprocessing
from ofa.data.image_data import augment, statistics

from .helpers import noise, write_folder, write_idx, write_parquet


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(DataConfig(), image_size=16)


@pytest.fixture
def folder(tmp_path: Path) -> DataConfig:
    write_folder(tmp_path / "train", {"cat": 20, "dog": 30}, extension="jpg")
    write_folder(tmp_path / "test", {"cat": 5, "dog": 4}, seed=1)
    return DataConfig(name="folder", root=str(tmp_path), horizontal_flip=True)


def test_batches_cover_a_split_in_order(digits: ImageData) -> None:
    batches = list(digits.batches("search", batch_size=100))
    assert [len(labels) for _, labels in batches] == [100, 100, 70]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.shape == (270, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert (labels.numpy() == load_digits().target[digits.splits.search]).all()
    again = torch.cat([images for images, _ in digits.batches("search", batch_size=33)])
    assert torch.equal(images, again)


def test_normalised(digits: ImageData) -> None:
    images = torch.cat([images for images, _ in digits.batches("train", batch_size=500)])
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_given_mean_and_std_are_used() -> None:
    data = load_data(DataConfig(mean=(0.5,), std=(0.25,)), image_size=8)
    assert (data.mean, data.std) == ((0.5,) * 3, (0.25,) * 3)
    images, _ = next(data.batches("test", batch_size=1))
    raw = load_digits().images[data.splits.test[0]]
    assert np.abs(images[0, 1].numpy() - (raw / 16 - 0.5) / 0.25).max() < 0.5 / 255 / 0.25 + 1e-6


def test_statistics_by_numpy() -> None:
    pixels = noise(np.random.default_rng(0), 7, 3, 4, 4) // 3
    mean, std = statistics(iter(torch.from_numpy(pixels).split(2)))
    assert mean == pytest.approx((pixels / 255).mean(axis=(0, 2, 3)))
    assert std == pytest.approx((pixels / 255).std(axis=(0, 2, 3)))
    with pytest.raises(DataError, match="all pixels of the training images have the same value"):
        statistics(iter([torch.full((2, 1, 4, 4), 9, dtype=torch.uint8)]))


def _epoch(data: ImageData, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(data.train_batches(**{"epoch": 0, "batch_size": 10, "seed": 0, **options}))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_train_batches_are_decided_by_seed_and_epoch(folder: DataConfig) -> None:
    data = load_data(folder, image_size=8)
    before = torch.get_rng_state()
    images, _ = _epoch(data)
    assert len(images) == len(data.splits.train) // 10 * 10
    assert torch.equal(images, _epoch(data)[0])
    assert not torch.equal(images, _epoch(data, epoch=1)[0])
    assert not torch.equal(images, _epoch(data, seed=1)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_each_training_image_comes_once() -> None:
    data = load_data(DataConfig(crop_padding=0), image_size=8)
    images, labels = _epoch(data, batch_size=len(data.splits.train))
    expected = torch.cat([images for images, _ in data.batches("train", batch_size=100)])
    assert not torch.equal(images, expected)
    assert torch.equal(images.flatten(1).sum(1).sort()[0], expected.flatten(1).sum(1).sort()[0])
    by_label = [images[labels == label].sum().item() for label in range(10)]
    assert by_label == pytest.approx(
        [expected[data.labels("train") == label].sum().item() for label in range(10)], abs=0.1
    )


def test_augment_by_pad_and_crop() -> None:
    rng = np.random.default_rng(0)
    pixels = noise(rng, 200, 3, 8, 8)
    varied = augment(torch.from_numpy(pixels), DataConfig(crop_padding=0.25, horizontal_flip=True), rng).numpy()
    seen = set()
    for image, result in zip(pixels, varied, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
        crops = {(y, x): padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)}
        matches = [
            (y, x, flip)
            for (y, x), crop in crops.items()
            for flip in (False, True)
            if (result == (crop[..., ::-1] if flip else crop)).all()
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 45  # of 50


def test_decoding_as_needed_equals_memory(folder: DataConfig) -> None:
    memory = load_data(folder, image_size=8)
    lazy = load_data(folder, image_size=8, memory_limit_bytes=50 * 3 * 8 * 8)
    assert memory.pixels is not None
    assert lazy.pixels is None
    assert (lazy.mean, lazy.std) == (memory.mean, memory.std)
    before = torch.get_rng_state()
    for size in (None, 6):
        for split in SPLITS:
            pairs = zip(
                lazy.batches(split, batch_size=7, image_size=size),
                memory.batches(split, batch_size=7, image_size=size),
                strict=True,
            )
            assert all(torch.equal(one, other) for pair in pairs for one, other in zip(*pair, strict=True))
    assert torch.equal(_epoch(lazy)[0], _epoch(memory)[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("memory_limit_bytes", [0, 10**6])
def test_truncated_image_is_named_by_memory_and_workers(folder: DataConfig, memory_limit_bytes: int) -> None:
    for path in Path(str(folder.root)).glob("train/dog/*"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"^\S*dog/\d+\.jpg is truncated or not an image .*replace or remove it$"):
        load_data(folder, image_size=8, memory_limit_bytes=memory_limit_bytes)


def test_stored_splits_are_used_again(folder: DataConfig, tmp_path: Path) -> None:
    first = load_data(folder, image_size=8)
    other_seed = DataConfig(name="folder", root=folder.root, seed=5)
    again = load_data(other_seed, image_size=8, splits=first.splits.to_json())
    assert (again.splits.search == first.splits.search).all()
    with pytest.raises(DataError, match="belong to other data"):
        load_data(DataConfig(), image_size=8, splits=first.splits.to_json())


def test_mistakes(digits: ImageData) -> None:
    with pytest.raises(DataError, match="unknown split 'val'"):
        digits.batches("val", batch_size=4)
    with pytest.raises(DataError, match="batch_size is 0"):
        digits.batches("test", batch_size=0)
    with pytest.raises(DataError, match="image_size is 17, but the data is stored at 16"):
        digits.batches("test", batch_size=4, image_size=17)
    with pytest.raises(DataError, match="batch_size is 2000, but there are only 1078 training images"):
        digits.train_batches(epoch=0, batch_size=2000, seed=0)
    with pytest.raises(DataError, match="image_size is 0"):
        load_data(DataConfig(), image_size=0)


def test_progress_reaches_the_end() -> None:
    calls: list[tuple[int, int, str]] = []
    load_data(DataConfig(), image_size=8, progress=lambda done, total, what: calls.append((done, total, what)))
    assert calls[-1] == (1797, 1797, "decoding images")
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)


# -- preprocessing, by its description alone -------------------------------------------------------------------------


def _follow(description: dict[str, Any], image: Image.Image) -> np.ndarray:
    """What somebody writes who has only ``bundle.json``, Pillow and numpy."""
    image = image.convert(description["color"])
    side = min(image.width, image.height)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    for size in description["resize"]:
        image = image.resize((size, size), Image.Resampling[description["interpolation"].upper()])
    pixels = np.asarray(image, dtype=description["dtype"]) / np.float32(255)
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * description["channels"], axis=2)
    pixels = (pixels - np.float32(description["mean"])) / np.float32(description["std"])
    assert description["layout"] == "NCHW"
    assert list(pixels.transpose(2, 0, 1).shape) == description["input_size"]
    return pixels.transpose(2, 0, 1)[None]


@pytest.mark.parametrize("resolution", [24, 17])
@pytest.mark.parametrize("name", ["folder", "idx", "parquet"])
def test_preprocessing_reproduces_the_loader_exactly(name: str, resolution: int, tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", {"cat": 12, "dog": 14}, extension="jpg")
    write_idx(
        tmp_path / "idx",
        "train",
        noise(np.random.default_rng(0), 30, 28, 20),
        np.arange(30, dtype=np.uint8) % 3,
        gz=True,
    )
    write_parquet(tmp_path / "parquet" / "train.parquet", 20, ["a", "b"])
    data = load_data(DataConfig(name=name, root=str(tmp_path / name)), image_size=24)
    description = preprocessing(data, resolution)
    images, _ = next(data.batches("train", batch_size=8, image_size=resolution))
    for index, image in zip(data.splits.train, images.numpy(), strict=False):
        assert (_follow(description, data.source.images[index]) == image).all()


# -- imports ---------------------------------------------------------------------------------------------------------


def test_import_is_light() -> None:
    heavy = ("sklearn", "pyarrow", "timm", "pandas", "torchvision")
    script = f"import sys, ofa.data; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
