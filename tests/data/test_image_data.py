"""Batches: what they hold, in which order, and that memory or workers make no difference."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ofa.data import SPLITS, DataConfig, DataError, ImageData, load_data, preprocessing
from ofa.data.image_data import statistics
from ofa.data.readers.source import ArrayImages, Source

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


def test_decoding_as_needed_equals_memory(folder: DataConfig) -> None:
    memory = load_data(folder, image_size=8)
    lazy = load_data(folder, image_size=8, memory_limit_bytes=50 * 3 * 8 * 8)
    assert "train" in memory.pixels
    assert "train" not in lazy.pixels and len(lazy.pixels["search"]) == len(lazy.splits.search)
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


def test_training_images_calibrate_as_they_are_and_are_in_memory_once(folder: DataConfig) -> None:
    data = load_data(replace(folder, auto_augment="rand_augment"), image_size=8)
    assert data.pixels["calibration"].data_ptr() == data.pixels["train"].data_ptr()
    train, calibration = (
        torch.cat([images for images, _ in data.batches(split, batch_size=9)]) for split in ("train", "calibration")
    )
    assert torch.equal(calibration, train[: len(calibration)])
    apart = load_data(replace(folder, calibration_share=6), image_size=8)
    assert (len(apart.splits.calibration), len(apart.splits.train)) == (6, len(data.splits.train) - 6)
    assert len(apart.pixels["calibration"]) == 6
    whole = torch.cat([part for split in apart.splits.distinct for part in apart.pixels[split]])
    assert len({part.numpy().tobytes() for part in whole.view(59, -1)}) == 59  # each image once


@pytest.fixture
def spawned() -> Iterator[None]:
    """Processes begin as macOS begins them: with an empty memory rather than a copy of this one's."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("spawned")
def test_workers_that_share_no_memory_decode_too(folder: DataConfig) -> None:
    memory, lazy = (load_data(folder, image_size=8, memory_limit_bytes=limit, num_workers=1) for limit in (10**6, 0))
    pairs = zip(*(data.batches("search", batch_size=7) for data in (memory, lazy)), strict=True)
    assert all(torch.equal(one, other) for pair in pairs for one, other in zip(*pair, strict=True))


@pytest.mark.parametrize("memory_limit_bytes", [0, 10**6])
def test_truncated_image_is_named_by_memory_and_workers(folder: DataConfig, memory_limit_bytes: int) -> None:
    for path in Path(str(folder.root)).glob("train/dog/*"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"\n  \S*dog/\d+\.jpg is truncated or not an image .*replace or remove it\n"):
        load_data(folder, image_size=8, memory_limit_bytes=memory_limit_bytes)


def test_stored_splits_are_used_again(folder: DataConfig, tmp_path: Path) -> None:
    first = load_data(folder, image_size=8)
    other_seed = DataConfig(name="folder", root=folder.root, seed=5)
    again = load_data(other_seed, image_size=8, splits=first.splits.to_json())
    assert (again.splits.search == first.splits.search).all()
    with pytest.raises(DataError, match=r"row 0 is new .*none of the run's 59 samples is there; give the run"):
        load_data(DataConfig(), image_size=8, splits=first.splits.to_json())


def test_mistakes(digits: ImageData) -> None:
    with pytest.raises(DataError, match="unknown split 'val'"):
        digits.batches("val", batch_size=4)
    with pytest.raises(DataError, match="batch_size is 0"):
        digits.batches("test", batch_size=0)
    with pytest.raises(DataError, match="image_size is 17, but the data is stored at 16"):
        digits.batches("test", batch_size=4, image_size=17)
    with pytest.raises(DataError, match="batch_size is 2000, but there are only 1168 training images"):
        digits.train_batches(epoch=0, batch_size=2000, seed=0)
    with pytest.raises(DataError, match="image_size is 0"):
        load_data(DataConfig(), image_size=0)


def test_progress_reaches_the_end() -> None:
    calls: list[tuple[int, int, str]] = []
    load_data(
        DataConfig(),
        image_size=8,
        progress=lambda done, total, what: calls.append((done, total, what)) if total else None,
    )
    assert calls[-1] == (1797, 1797, "decoding images")
    for what in ("reading images", "decoding images"):
        done = [done for done, _, name in calls if name == what]
        assert done == sorted(done) and done[-1] == 1797


# -- training batches with everything on -----------------------------------------------------------------------------

VARIED = {"horizontal_flip": True, "crop_scale": 0.4, "auto_augment": "rand_augment", "random_erasing": 0.5}
MIXED = {**VARIED, "mixup": 0.8, "cutmix": 1.0}
TIMM = {**VARIED, "auto_augment": "timm:rand-m9-mstd0.5-inc1"}


def _varied(root: Path, kind: str, *, lazy: bool = False, **options: Any) -> ImageData:
    if kind == "rgb":
        write_folder(root / "train", {"cat": 20, "dog": 30}, extension="jpg")
    else:
        write_idx(
            root, "train", noise(np.random.default_rng(0), 60, 10, 12), np.arange(60, dtype=np.uint8) % 3, gz=True
        )
    config = DataConfig(name="folder" if kind == "rgb" else "idx", root=str(root), **options)
    data = load_data(config, image_size=10, memory_limit_bytes=0 if lazy else 10**9)
    assert bool(data.pixels) != lazy
    return data


def _list(data: ImageData, **options: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(data.train_batches(**{"epoch": 1, "batch_size": 8, "seed": 3, **options}))


def _same(one: list[tuple[torch.Tensor, torch.Tensor]], other: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return all(torch.equal(x, y) for pair in zip(one, other, strict=True) for x, y in zip(*pair, strict=True))


def _global_states() -> str:
    return str((np.random.get_state(), random.getstate(), torch.get_rng_state().tolist()))


@pytest.mark.parametrize(
    "options",
    [VARIED, MIXED, {**VARIED, "auto_augment": "trivial_augment"}, TIMM],
    ids=["varied", "mixed", "trivial", "timm"],
)
@pytest.mark.parametrize("kind", ["grey", "rgb"])
def test_start_goes_on_as_the_whole_epoch_did(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = _varied(tmp_path, kind, **options)
    whole = _list(data)
    assert len(whole) == len(data.splits.train) // 8 > 2
    assert all(images.shape == (8, 3, 10, 10) and images.isfinite().all() for images, _ in whole)
    for start in range(len(whole) + 1):
        assert _same(_list(data, start=start), whole[start:])
    assert not torch.equal(whole[0][0], _list(data, epoch=0)[0][0])


def test_no_two_batches_draw_the_same() -> None:
    data = load_data(DataConfig(crop_padding=0.4), image_size=8)
    ramp = (torch.arange(8)[:, None] * 16 + torch.arange(8)).to(torch.uint8).expand(1168, 1, -1, -1)
    data = replace(data, pixels={"train": ramp}, mean=(0.0,) * 3, std=(1.0,) * 3)
    batches = [images for images, _ in _list(data, batch_size=64)]
    assert len({images.numpy().tobytes() for images in batches}) == len(batches) == 18


@pytest.mark.parametrize("policy", ["rand_augment", "trivial_augment", "timm:augmix-m5-w2"])
@pytest.mark.parametrize("kind", ["grey", "rgb"])
def test_shards_are_rows_of_the_whole(kind: str, policy: str, tmp_path: Path) -> None:
    data = _varied(tmp_path, kind, **{**VARIED, "auto_augment": policy})
    whole = _list(data)
    for num_shards in (2, 4, 8):
        for rank in range(num_shards):
            rows = [tuple(part[rank::num_shards] for part in batch) for batch in whole]
            assert _same(_list(data, shard=(rank, num_shards)), rows)  # type: ignore[arg-type]
    assert _same(_list(data, shard=(1, 2), start=1), _list(data, shard=(1, 2))[1:])


def test_shards_mix_among_themselves(tmp_path: Path) -> None:
    data = _varied(tmp_path, "grey", mixup=1.0)
    labels = _list(_varied(tmp_path, "grey"), shard=(1, 2), batch_size=16)
    proportions = []
    for (_, targets), (_, own) in zip(_list(data, shard=(1, 2), batch_size=16), labels, strict=True):
        one, other = (torch.nn.functional.one_hot(part, 3).float() for part in (own, own.flip(0)))
        row = int((own != own.flip(0)).nonzero()[0])
        share = targets[row, own[row]]
        torch.testing.assert_close(targets, share * one + (1 - share) * other)
        proportions.append(round(share.item(), 6))
    assert len(set(proportions)) == len(proportions)


@pytest.mark.parametrize("options", [VARIED, MIXED, TIMM], ids=["varied", "mixed", "timm"])
@pytest.mark.parametrize("kind", ["grey", "rgb"])
def test_varied_batches_decoded_as_needed_equal_memory(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    memory, lazy = (_varied(tmp_path, kind, lazy=lazy, crop_from="stored", **options) for lazy in (False, True))
    assert _same(_list(memory), _list(lazy))
    assert _same(_list(memory, start=2, shard=(1, 2), image_size=7), _list(lazy, start=2, shard=(1, 2), image_size=7))


def test_global_generators_neither_decide_nor_change(tmp_path: Path) -> None:
    data = _varied(tmp_path, "rgb", **MIXED | {"auto_augment": "timm:v0"})
    np.random.seed(1)
    random.seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = _global_states()
        first = _list(data)
        assert _global_states() == before
    np.random.seed(2)
    random.seed(2)
    assert _same(_list(data), first)


def test_mixing_gives_shares_of_classes(tmp_path: Path) -> None:
    data = _varied(tmp_path, "grey", cutmix=1.0)
    for images, targets in _list(data):
        assert (images.shape, images.dtype) == ((8, 3, 10, 10), torch.float32)
        assert (targets.shape, targets.dtype) == ((8, 3), torch.float32)
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
    _, labels = next(data.batches("train", batch_size=8))
    assert labels.dtype == torch.int64


def test_no_skipped_image_is_decoded(tmp_path: Path) -> None:
    data = _varied(tmp_path, "rgb", lazy=True)

    class Counting:
        decoded: ClassVar[list[int]] = []

        def __len__(self) -> int:
            return len(data.source.images)

        def __getitem__(self, index: int) -> Image.Image:
            self.decoded.append(index)
            return data.source.images[index]

    counting = replace(data, source=replace(data.source, images=Counting()), num_workers=0)
    assert len(_list(counting, start=2, shard=(0, 2))) == len(data.splits.train) // 8 - 2
    assert len(Counting.decoded) == (len(data.splits.train) // 8 - 2) * 4
    assert set(Counting.decoded) <= set(data.splits.train)


def test_start_and_shards_that_do_not_fit(digits: ImageData) -> None:
    options: dict[str, Any] = {"epoch": 0, "batch_size": 100, "seed": 0}
    for start in (-1, 12):
        with pytest.raises(DataError, match=f"start is {start}, but an epoch has 11 batches of 100"):
            digits.train_batches(**options, start=start)
    for shard in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(DataError, match=re.escape(f"shard is {shard}; give (rank, num_shards)")):
            digits.train_batches(**options, shard=shard)
    with pytest.raises(DataError, match="batch_size is 100, which 3 shards cannot share"):
        digits.train_batches(**options, shard=(0, 3))
    mixed = replace(digits, config=DataConfig(mixup=0.2))
    with pytest.raises(
        DataError, match=r"a batch_size of 100 over 4 shards leaves 25 images in each; .* multiple of 8"
    ):
        mixed.train_batches(**options, shard=(0, 4))
    with pytest.raises(DataError, match="a batch_size of 5 over 1 shard leaves 5 images"):
        mixed.train_batches(epoch=0, batch_size=5, seed=0)


# -- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", ["grey", "rgb"])
def test_all_work_is_on_the_device(kind: str, lazy: bool, tmp_path: Path) -> None:
    """On ``meta`` an operation that brings in the host's tensors, or waits for values, fails."""
    data = _varied(tmp_path, kind, lazy=lazy, **MIXED)
    for images, targets in _list(data, device="meta"):
        assert (images.device.type, images.shape) == ("meta", (8, 3, 10, 10))
        assert (targets.device.type, targets.shape) == ("meta", (8, data.num_classes))


def test_the_training_split_is_moved_once(digits: ImageData) -> None:
    data = replace(digits)
    assert data.pixels is not None
    first, again = (data._train_pixels_on(torch.device("meta")) for _ in range(2))
    assert first is again
    assert data._train_pixels_on(torch.device("cpu")) is data.pixels["train"]


@pytest.mark.gpu
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", ["grey", "rgb"])
def test_cuda_gives_what_the_cpu_gives(kind: str, lazy: bool, tmp_path: Path, cuda: str) -> None:
    plain = _varied(tmp_path, kind, lazy=lazy, horizontal_flip=True)
    for (images, labels), (expected, expected_labels) in zip(_list(plain, device=cuda), _list(plain), strict=True):
        assert images.is_cuda
        torch.testing.assert_close(images.cpu(), expected)
        assert torch.equal(labels.cpu(), expected_labels)
    mixed = _varied(tmp_path, kind, lazy=lazy, **MIXED)
    for (images, targets), (expected, shares) in zip(_list(mixed, device=cuda), _list(mixed), strict=True):
        torch.testing.assert_close(targets.cpu(), shares)
        # Other rounding moves a few pixels by a grey value, or by a neighbour.
        assert (images.cpu() - expected).abs().gt(0.05).float().mean() < 0.02


# -- balance -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("balance", "shares"), [(0.0, (0.8, 0.2)), (0.5, (2 / 3, 1 / 3)), (1.0, (0.5, 0.5))])
def test_rare_classes_are_trained_on_as_often_as_asked(balance: float, shares: tuple[float, float]) -> None:
    labels = np.repeat([0, 1], [160, 40])
    pixels = np.arange(200, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    source = Source(("often", "rarely"), labels, ArrayImages(pixels), grey=True)
    data = load_data(DataConfig(balance=balance, crop_padding=0), image_size=8)
    data = replace(
        data,
        source=source,
        splits=replace(data.splits, train=np.arange(200)),
        pixels={"train": torch.from_numpy(pixels)[:, None]},
        image_size=4,
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
    )
    seen = []
    for epoch in range(10):
        images, found = zip(*data.train_batches(epoch=epoch, batch_size=20, seed=3), strict=True)
        again = torch.cat([images for images, _ in data.train_batches(epoch=epoch, batch_size=20, seed=3, start=4)])
        assert torch.equal(torch.cat(images)[80:], again)
        np.testing.assert_allclose(np.bincount(torch.cat(found)) / 200, shares, atol=0.006)
        seen.append(torch.cat(images)[:, 0, 0, 0].round().int().numpy())
    times = np.bincount(np.concatenate(seen), minlength=200)
    assert times.min() > 0 and times[160:].max() - times[160:].min() <= 10  # no picture is left out for another


# -- preprocessing, by its description alone -------------------------------------------------------------------------


def _follow(description: dict[str, Any], image: Image.Image) -> np.ndarray:
    """What somebody writes who has only ``bundle.json``, Pillow and numpy."""
    image = image.convert(description["color"])
    side = min(image.width, image.height)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    for height, width in description["resize"]:
        image = image.resize((width, height), Image.Resampling[description["interpolation"].upper()])
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
    description = json.loads(json.dumps(dataclasses.asdict(preprocessing(data, resolution))))
    images, _ = next(data.batches("train", batch_size=8, image_size=resolution))
    for index, image in zip(data.splits.train, images.numpy(), strict=False):
        assert (_follow(description, data.source.images[index]) == image).all()


# -- imports ---------------------------------------------------------------------------------------------------------


def test_import_is_light() -> None:
    heavy = ("sklearn", "pyarrow", "timm", "pandas", "torchvision")
    script = f"import sys, ofa.data; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
