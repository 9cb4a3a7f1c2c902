"""How a picture becomes pixels: turned, transparent, deep, wide, with one to four channels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from ofa.data import DataConfig, DataError, ImageData, load_data
from ofa.data.picture import open_picture, to_pixels


def quarters() -> Image.Image:
    """Four colours, so that every turn and mirror image is another picture; 40 x 24 pixels."""
    pixels = np.zeros((24, 40, 3), dtype=np.uint8)
    pixels[:12, :20], pixels[:12, 20:], pixels[12:, :20], pixels[12:, 20:] = (
        (250, 0, 0),
        (0, 250, 0),
        (0, 0, 250),
        (250, 250, 0),
    )
    return Image.fromarray(pixels)


# What each orientation asks a viewer to do, as the standard's table has it.
TURNS = {
    1: lambda image: image,
    2: ImageOps.mirror,
    3: lambda image: image.rotate(180, expand=True),
    4: ImageOps.flip,
    5: lambda image: ImageOps.mirror(image).rotate(90, expand=True),
    6: lambda image: image.rotate(-90, expand=True),
    7: lambda image: ImageOps.mirror(image).rotate(-90, expand=True),
    8: lambda image: image.rotate(90, expand=True),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_turned_pictures_are_seen_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    quarters().save(buffer, format="PNG", exif=exif)
    found = to_pixels(open_picture(buffer), [(16, 16)])
    np.testing.assert_array_equal(found, to_pixels(TURNS[orientation](quarters()), [(16, 16)]))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_no_reason_to_refuse_a_picture() -> None:
    buffer = io.BytesIO()
    quarters().save(buffer, format="JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xffdamaged")
    assert to_pixels(open_picture(buffer), [(16, 16)]).shape == (16, 16, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pictures_lie_on_the_ground(mode: str) -> None:
    """Black on transparent: all black, as far as the colours alone tell."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (2, 2, 6, 6))
    found = to_pixels(image.convert(mode), [(8, 8)])
    inside = np.zeros((8, 8), dtype=bool)
    inside[2:6, 2:6] = True
    assert (found[inside] == 0).all() and (found[~inside] == 255).all()
    green = to_pixels(image.convert(mode), [(8, 8)], ground=(0, 128, 0))
    assert (green[~inside] == (0, 128, 0)).all()
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    np.testing.assert_allclose(to_pixels(half, [(8, 8)]), 127, atol=1)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_deep_pictures_are_scaled_not_clipped(dtype: Any) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=dtype)
    image = Image.fromarray(values)
    assert to_pixels(image, [(1, 4)], color="L")[0, :, 0].tolist() == [0, 1, 128, 255]
    camera = Image.fromarray((values // 16).astype(dtype))
    assert to_pixels(camera, [(1, 4)], color="L", white=4095)[0, :, 0].tolist() == [0, 1, 128, 255]
    with pytest.raises(ValueError, match=r"values of 0 to 65535, not within 0 to 4095; set data.white"):
        to_pixels(image, [(1, 4)], white=4095)


def test_pictures_of_floats_need_a_white() -> None:
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert to_pixels(image, [(1, 3)], color="L", white=1.0)[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match=r"mode F; say with data.white which value is white"):
        to_pixels(image, [(1, 3)])
    with pytest.raises(ValueError, match="values of nan"):
        to_pixels(Image.fromarray(np.array([[np.nan]], dtype=np.float32)), [(1, 1)], white=1.0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize(("color", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_every_mode_becomes_every_other(mode: str, color: str, channels: int) -> None:
    found = to_pixels(quarters().convert(mode), [(12, 12), (7, 7)], color=color)
    assert found.shape == (7, 7, channels) and found.dtype == np.uint8


def test_alpha_as_a_channel_does_not_weigh_the_others() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    found = to_pixels(Image.fromarray(pixels), [(10, 15)], color="RGBA")
    for channel in range(4):
        own = Image.fromarray(pixels[..., channel]).resize((15, 10), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(found[..., channel], np.asarray(own))


def striped() -> Image.Image:
    """4 : 1, its ends red and blue, grey between."""
    pixels = np.full((16, 64, 3), 100, dtype=np.uint8)
    pixels[:, :8], pixels[:, -8:] = (250, 0, 0), (0, 0, 250)
    return Image.fromarray(pixels)


def test_what_becomes_of_a_wide_picture() -> None:
    cropped = to_pixels(striped(), [(16, 16)], fit="crop")
    assert (cropped == 100).all()
    squashed = to_pixels(striped(), [(16, 16)], fit="squash")
    np.testing.assert_array_equal(squashed, np.asarray(striped().resize((16, 16), Image.Resampling.BICUBIC)))
    boxed = to_pixels(striped(), [(16, 16)], fit="letterbox", ground=(9, 9, 9))
    assert (boxed[:6] == 9).all() and (boxed[10:] == 9).all()
    np.testing.assert_array_equal(boxed[6:10], np.asarray(striped().resize((16, 4), Image.Resampling.BICUBIC)))
    half = to_pixels(striped(), [(8, 8)], fit="squash", crop_pct=0.5)
    expected = striped().crop((16, 4, 48, 12)).resize((8, 8), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(half, np.asarray(expected))


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
def test_a_picture_that_has_the_size_stays_as_it_is(fit: str) -> None:
    """So that a bundle's samples, which have it, give the same again."""
    share = 1.0 if fit == "letterbox" else 0.8
    once = to_pixels(quarters(), [(20, 30)], fit=fit, crop_pct=share)
    again = to_pixels(Image.fromarray(once), [(20, 30)], fit=fit, crop_pct=share)
    np.testing.assert_array_equal(once, again)


def test_rectangles_keep_their_proportions() -> None:
    """A rectangle of the picture's own proportions is all of it, cropped or boxed."""
    whole = np.asarray(striped().resize((32, 8), Image.Resampling.BICUBIC))
    for fit in ("crop", "squash", "letterbox"):
        np.testing.assert_array_equal(to_pixels(striped(), [(8, 32)], fit=fit), whole)
    found = to_pixels(striped(), [(16, 32)], fit="crop")
    np.testing.assert_array_equal(found, np.asarray(striped().crop((16, 0, 48, 16))))


# -- in data sets ------------------------------------------------------------------------------------------------------


def data_of(root: Path, pictures: dict[str, Image.Image], **settings: Any) -> ImageData:
    keywords = {name: settings.pop(name) for name in ("image_size", "channels", "proportions") if name in settings}
    for label, image in pictures.items():
        (root / label).mkdir(parents=True)
        for index in range(8):
            image.save(root / label / f"{index}.png")
    config = DataConfig(name="folder", root=str(root), crop_padding=0, **settings)
    return load_data(config, **{"image_size": 16, **keywords})


def test_ends_that_tell_the_class_are_seen(tmp_path: Path) -> None:
    pictures = {"red": striped(), "blue": striped().transpose(Image.Transpose.FLIP_LEFT_RIGHT)}
    with pytest.raises(DataError, match="same value"):  # cut off
        data_of(tmp_path / "crop", pictures)
    for settings in ({"fit": "squash"}, {"fit": "letterbox"}, {"proportions": (1, 4)}):
        data = data_of(tmp_path / next(iter(settings)) / str(settings), pictures, **settings)
        images, labels = next(data.batches("test", batch_size=3, image_size=12))
        reddest = images[:, 0, 6].argmax(dim=1) < images.shape[3] // 2
        assert torch_equal(reddest, labels == data.classes.index("red"))
        assert images.shape[2:] == ((12, 48) if "proportions" in settings else (12, 12))
        shifted, _ = next(data.train_batches(epoch=0, batch_size=4, seed=0))
        assert shifted.shape[2:] == ((16, 64) if "proportions" in settings else (16, 16))


def torch_equal(one: Any, other: Any) -> bool:
    return bool((one == other).all())


def test_channels_are_those_of_the_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    deep = [Image.fromarray(rng.integers(0, 65536, (20, 20), dtype=np.uint16)) for _ in range(2)]
    data = data_of(tmp_path / "deep", {"a": deep[0], "b": deep[1]}, channels=1)
    assert next(data.batches("test", batch_size=2))[0].shape == (2, 1, 16, 16) and len(data.mean) == 1
    alpha = [Image.fromarray(rng.integers(0, 256, (20, 20, 4), dtype=np.uint8)) for _ in range(2)]
    data = data_of(tmp_path / "alpha", {"a": alpha[0], "b": alpha[1]}, channels=4, mean=(0.5,))
    assert next(data.train_batches(epoch=0, batch_size=2, seed=0))[0].shape == (2, 4, 16, 16)
    assert data.mean == (0.5,) * 4 and len(set(data.std)) == 4
    with pytest.raises(DataError, match=r"the model takes 5 channels, but pictures have 1 to 4; set model.in_chans"):
        data_of(tmp_path / "five", {"a": alpha[0], "b": alpha[1]}, channels=5)
    with pytest.raises(DataError, match=r"mean is \(0.1, 0.2\), but the model takes 3 channels"):
        data_of(tmp_path / "two", {"a": alpha[0], "b": alpha[1]}, mean=(0.1, 0.2))
    with pytest.raises(DataError, match="auto_augment rand_augment is for grey and RGB pictures; the model takes 4"):
        data_of(tmp_path / "four", {"a": alpha[0], "b": alpha[1]}, channels=4, auto_augment="rand_augment")


def test_a_picture_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    clipped = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    with pytest.raises(DataError, match=r"[ab]/\d.png cannot be used: it has values of 40000 to 40000, not"):
        data_of(tmp_path, {"a": clipped, "b": clipped}, white=255.0)


def test_a_picture_of_200_megapixels_is_not_called_truncated(tmp_path: Path) -> None:
    data = data_of(tmp_path, {"a": quarters(), "b": striped()})
    Image.new("1", (20_000, 10_000)).save(tmp_path / "a" / "0.png")
    with pytest.raises(DataError, match=r"a/0.png is larger than what is read .*200000000 pixels.*; make it smaller"):
        load_data(data.config, image_size=8)
