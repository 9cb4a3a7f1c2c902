from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tasks.masked import NAMES, VOID, write_folder, write_parquet

from ofa.data import DataConfig, DataError
from ofa.data.masks import EncodedMasks
from ofa.data.readers.masks import Layout, read_masks

LAYOUT = Layout(classes=NAMES, void=(VOID,))


def read(root: Path, layout: Layout = LAYOUT, name: str = "folder"):
    return read_masks(DataConfig(name=name, root=str(root)), layout)


def test_folders_without_splits(tmp_path: Path) -> None:
    source = read(write_folder(tmp_path, 5))
    assert source.classes == NAMES and source.num_test == 0 and source.strata == ("pictures",)
    assert [source.images.name(index) for index in range(5)] == [f"images/{index:03}.png" for index in range(5)]
    assert source.masks is not None and source.masks.name(3) == "labels/003.png"
    mask = source.masks.mask(3)
    assert set(np.unique(mask)) == {0, 1, 2, 255} and (mask[:, -1] == 255).all()


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("Training", "dev", "testing")])
def test_folders_of_splits(tmp_path: Path, splits: tuple[str, ...]) -> None:
    source = read(write_folder(tmp_path, 3, splits=splits))
    assert source.num_test == 3 and len(source.images) == 9
    assert [source.images.name(index).split("/")[0] for index in (0, 3, 6)] == list(splits)


def test_val_is_the_test_set_where_there_is_no_other(tmp_path: Path) -> None:
    source = read(write_folder(tmp_path, 2, splits=("train", "val")))
    assert source.num_test == 2 and source.images.name(2) == "val/images/000.png"


def test_splits_inside_the_folders_of_pictures_and_masks(tmp_path: Path) -> None:
    write_folder(tmp_path / "all", 4)
    for kind in ("images", "labels"):
        for number, split in enumerate(("train", "train", "train", "test")):
            place = tmp_path / "data" / kind / split / f"{number:03}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "all" / kind / place.name).rename(place)
    source = read(tmp_path / "data")
    assert source.num_test == 1 and source.images.name(3) == "images/test/003.png"


def test_classes_without_names_are_counted(tmp_path: Path) -> None:
    assert read(write_folder(tmp_path, 3), Layout(void=(VOID,))).classes == ("0", "1", "2")


def test_parquet(tmp_path: Path) -> None:
    source = read(write_parquet(tmp_path / "data.parquet"), name="parquet")
    assert len(source.images) == 12 and source.masks is not None
    assert source.masks.mask(2).shape == (24, 32) and source.images[2].size == (32, 24)


def test_a_sample_is_its_mask_too(tmp_path: Path) -> None:
    source = read(write_folder(tmp_path, 2))
    before, num_bytes = source.samples.digest(0), source.samples.num_bytes(0)
    mask = np.asarray(Image.open(tmp_path / "labels" / "000.png")).copy()
    mask[0, 0] = 1 - min(mask[0, 0], 1)
    Image.fromarray(mask).save(tmp_path / "labels" / "000.png")
    assert read(tmp_path).samples.digest(0) != before and num_bytes > (tmp_path / "images" / "000.png").stat().st_size


def test_palettes_hold_indices(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    path = tmp_path / "labels" / "000.png"
    plain = read(tmp_path).masks.mask(0)
    with Image.open(path) as image:
        coloured = Image.fromarray(np.asarray(image), mode="P")
    coloured.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, *[0] * 21])
    coloured.save(path)
    np.testing.assert_array_equal(read(tmp_path).masks.mask(0), plain)


def spoilt(root: Path, what: str) -> Path:
    label = root / "labels" / "001.png"
    match what:
        case "no mask":
            label.unlink()
        case "no picture":
            (root / "images" / "001.png").unlink()
        case "no folder":
            label.parent.rename(root / "masks")
        case "no pictures":
            (root / "images").rename(root / "photos")
        case "colours":
            Image.new("RGB", (32, 24)).save(label)
        case "a stranger":
            Image.fromarray(np.full((24, 32), 7, dtype=np.uint8)).save(label)
        case "16 bits":
            Image.fromarray(np.full((24, 32), 700, dtype=np.uint16)).save(label)
        case "two of a name":
            Image.new("L", (32, 24)).save(root / "labels" / "001.bmp")
    return root


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no mask", r"images/001\.png has no file 001\.\* in .*labels; add it, or remove this one"),
        ("no picture", r"labels/001\.png has no file 001\.\* in .*images"),
        ("no folder", r"found no folder labels of masks in .*task\.masks"),
        ("no pictures", r"labels has no folder images of pictures beside it; set task\.images"),
        ("colours", r"labels/001\.png has pixels of mode RGB, not an index of a class each"),
        ("a stranger", r"labels/001\.png has index 7, but the 3 classes are counted from 0; name it in task\.void"),
        ("16 bits", r"labels/001\.png has indices of 700 to 700; they must be from 0 to 255"),
        ("two of a name", r"001\.bmp and .*001\.png have one name"),
    ],
)
def test_what_is_refused(tmp_path: Path, what: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        source = read(spoilt(write_folder(tmp_path, 3), what))
        assert isinstance(source.masks, EncodedMasks)
        source.masks.mask(1)


def test_names_of_folders_and_readers(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    (tmp_path / "labels").rename(tmp_path / "masks")
    assert len(read(tmp_path, LAYOUT._replace(masks="masks")).images) == 2
    with pytest.raises(DataError, match="unknown data set with masks 'idx'; known: folder, parquet"):
        read(tmp_path, name="idx")
    with pytest.raises(DataError, match=r"unknown column 'picture'.*set task\.images"):
        read(write_parquet(tmp_path / "x.parquet"), LAYOUT._replace(images="picture"), "parquet")
