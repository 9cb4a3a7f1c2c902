"""Random crops of pictures as they are: where they are cut out, and that JPEG's short cuts change nearly nothing."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ofa.data import DataConfig, DataError, ImageData, load_data
from ofa.data.crops import cropped, window_in
from ofa.data.readers.source import EncodedImages

from .helpers import noise, write_folder

LOOK: dict[str, Any] = {
    "color": "RGB",
    "fit": "crop",
    "crop_pct": 0.9,
    "ground": (255, 255, 255),
    "white": None,
    "interpolation": "bilinear",
}
SIZE = (24, 24)


def smooth(width: int, height: int) -> Image.Image:
    """Whose colour tells where one is."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], axis=2).round().astype(np.uint8))


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> EncodedImages:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return EncodedImages([(buffer.getvalue(), f"a.{format.lower()}")])


def crop(images: EncodedImages, numbers: list[float], *, least: float = 0.2, **look: Any) -> np.ndarray:
    return cropped(images, 0, np.array(numbers), size=SIZE, look={**LOOK, **look}, least=least)


@pytest.mark.parametrize("picture", [(100, 100), (640, 80), (30, 500), (1, 1), (2, 900)])
@pytest.mark.parametrize("size", [(24, 24), (16, 48)])
def test_windows_lie_in_the_picture_and_keep_area_and_proportions(
    picture: tuple[int, int], size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    for numbers in rng.random((300, 4)):
        left, top, width, height = window_in(picture, numbers, size, 0.3)
        assert left >= 0 and top >= 0 and width >= 1 and height >= 1
        assert left + width <= picture[0] and top + height <= picture[1]
        if min(picture) < 30:
            continue
        skew = (width / height) / (size[1] / size[0])
        assert 3 / 4 * 0.93 < skew < 4 / 3 * 1.07
        fits_whole = min(picture) / max(picture) > 0.9 and size[0] == size[1]
        assert not fits_whole or width * height >= 0.29 * picture[0] * picture[1]


def test_windows_are_spread_over_the_picture() -> None:
    rng = np.random.default_rng(0)
    windows = np.array([window_in((400, 300), numbers, SIZE, 0.08) for numbers in rng.random((2000, 4))])
    areas = windows[:, 2] * windows[:, 3] / (400 * 300)
    assert areas.min() < 0.1 and areas.max() > 0.95
    middles = windows[:, :2] + windows[:, 2:] / 2
    assert middles.mean(axis=0) == pytest.approx([200, 150], abs=5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(60, 50), (200, 150), (900, 700)], ids=["small", "middle", "large"])
def test_jpeg_is_decoded_in_other_ways_to_about_the_same(size: tuple[int, int], interpolation: Any) -> None:
    """By torchvision, by Pillow at half or a quarter the size, and whole."""
    picture = smooth(*size)
    for numbers in np.random.default_rng(1).random((20, 4)).tolist():
        jpeg = crop(encoded(picture, quality=98), numbers, interpolation=interpolation).astype(int)
        png = crop(encoded(picture, "PNG"), numbers, interpolation=interpolation).astype(int)
        assert jpeg.shape == (3, *SIZE)
        assert np.abs(jpeg - png).max() <= 12 and np.abs(jpeg - png).mean() < 3


def test_a_crop_shows_what_is_in_its_window() -> None:
    numbers = [0.1, 0.5, 0.7, 0.3]
    left, top, width, height = window_in((200, 100), np.array(numbers), SIZE, 0.2)
    found = crop(encoded(smooth(200, 100), quality=98), numbers).astype(float)
    assert found[0].mean() == pytest.approx(255 * (left + width / 2) / 200, abs=2)
    assert found[1].mean() == pytest.approx(255 * (top + height / 2) / 100, abs=2)


@pytest.mark.parametrize(
    ("mode", "format", "color", "channels"),
    [
        ("RGB", "JPEG", "L", 1),
        ("L", "JPEG", "RGB", 3),
        ("CMYK", "JPEG", "RGB", 3),
        ("RGBA", "PNG", "RGB", 3),
        ("RGBA", "PNG", "RGBA", 4),
        ("P", "GIF", "RGB", 3),
        ("L", "PNG", "L", 1),
        ("I;16", "PNG", "L", 1),
    ],
)
def test_pictures_of_every_kind(mode: str, format: str, color: str, channels: int) -> None:
    picture = smooth(80, 60).convert(mode) if mode != "I;16" else Image.fromarray(np.full((60, 80), 4096, np.uint16))
    found = crop(encoded(picture, format), [0.9, 0.5, 0.5, 0.5], color=color)
    assert (found.shape, found.dtype) == ((channels, *SIZE), np.uint8)
    assert found.std() > 5 or mode == "I;16"


def test_a_turned_picture_is_cropped_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = smooth(200, 100).transpose(Image.Transpose.ROTATE_90)
    numbers = [0.4, 0.5, 0.2, 0.8]
    found, plain = crop(encoded(turned, quality=98, exif=exif), numbers), crop(encoded(smooth(200, 100)), numbers)
    assert np.abs(found.astype(int) - plain).mean() < 3


def test_a_filter_that_tensors_lack_is_pillows() -> None:
    found = crop(encoded(smooth(80, 60)), [0.9, 0.5, 0.5, 0.5], interpolation="lanczos")
    assert found.shape == (3, *SIZE)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 nothing", b"text"])
def test_what_is_no_picture_is_named(content: bytes) -> None:
    with pytest.raises(DataError, match=r"cat\.jpg is truncated or not an image"):
        crop(EncodedImages([(content, "cat.jpg")]), [0.5] * 4)


def test_a_truncated_picture_is_named() -> None:
    (whole, name) = encoded(Image.fromarray(noise(np.random.default_rng(0), 60, 80, 3))).encoded[0]
    assert isinstance(whole, bytes)
    with pytest.raises(DataError, match=r"a\.jpeg is truncated or not an image"):
        crop(EncodedImages([(whole[: len(whole) // 2], name)]), [0.5] * 4)


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    write_folder(tmp_path, {"cat": 20, "dog": 30}, extension="jpg")
    return DataConfig(name="folder", root=str(tmp_path), crop_scale=0.3, crop_from="original", horizontal_flip=True)


def epoch(data: ImageData, **options: Any) -> list[torch.Tensor]:
    batches = data.train_batches(**{"epoch": 1, "batch_size": 8, "seed": 3, **options})
    return [images for images, _ in batches]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_images_are_cut_out_of_the_pictures(config: DataConfig) -> None:
    """The same ones whoever decodes them, from any batch on, in any number of parts."""
    memory, lazy = (load_data(config, image_size=8, memory_limit_bytes=limit) for limit in (10**6, 0))
    assert "train" in memory.pixels and not lazy.pixels and memory.crops_originals
    whole = epoch(memory)
    none = load_data(config, image_size=8, num_workers=0)
    for other in (epoch(lazy), epoch(lazy), epoch(none)):
        assert same(whole, other)
    assert not torch.equal(epoch(memory, epoch=2)[0], whole[0])
    assert same(whole[2:], epoch(lazy, start=2))
    parts = [epoch(lazy, shard=(rank, 2)) for rank in range(2)]
    joined = [torch.stack(pair, dim=1).flatten(0, 1) for pair in zip(*parts, strict=True)]
    assert same(whole, joined)
    (plain, _) = next(memory.batches("train", batch_size=4))  # as they are
    assert torch.equal(plain, next(lazy.batches("train", batch_size=4))[0])


def test_an_epoch_that_was_given_up_disturbs_no_other(config: DataConfig) -> None:
    data = load_data(config, image_size=8, memory_limit_bytes=0)
    whole = epoch(data)
    next(data.train_batches(epoch=5, batch_size=8, seed=3))
    assert same(whole, epoch(data))


def test_originals_are_cropped_where_pictures_do_not_stay_in_memory(config: DataConfig) -> None:
    for crop_from, limit, wanted in ((None, 0, True), (None, 10**6, False), ("stored", 0, False)):
        own: Any = replace(config, crop_from=crop_from)
        assert load_data(own, image_size=8, memory_limit_bytes=limit).crops_originals == wanted
    off = replace(config, crop_scale=1.0)
    assert not load_data(off, image_size=8, memory_limit_bytes=0).crops_originals


def test_a_picture_that_cannot_be_used_is_named() -> None:
    picture = Image.fromarray(np.full((30, 30), 0.5, np.float32))
    with pytest.raises(DataError, match=r"a\.tiff cannot be used: .*data\.white"):
        crop(encoded(picture, "TIFF"), [0.5] * 4, color="L")


def test_processes_that_decode_leave_signals_to_the_one_that_trains(config: DataConfig) -> None:
    data = load_data(config, image_size=8, memory_limit_bytes=0, num_workers=1)
    batches = data.train_batches(epoch=0, batch_size=8, seed=0)
    next(batches)
    (child,) = multiprocessing.active_children()
    for signum in (signal.SIGTERM, signal.SIGINT):
        os.kill(child.pid or 0, signum)
    assert len(list(batches)) == len(data.splits.train) // 8 - 1
    batches = data.train_batches(epoch=1, batch_size=8, seed=0)
    os.kill(child.pid or 0, signal.SIGKILL)
    with pytest.raises(DataError, match=r"a process that decodes pictures died.*lower data\.num_workers"):
        list(batches)
