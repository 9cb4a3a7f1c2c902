"""One look at every image: each kind of fault is put into a data set and found, and nothing else is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import ofa.cli
from ofa import workflow
from ofa.data import READERS, DataConfig, DataError
from ofa.data.check import DataCheck, check_data
from ofa.data.readers import guess_reader, read_source
from ofa.data.shards import write_shards
from ofa.errors import UsageError

from .helpers import noise, write_folder, write_idx, write_manifest, write_parquet


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures with a test set of their own, all different."""
    write_folder(tmp_path / "photos" / "train", {"cat": 30, "dog": 10})
    write_folder(tmp_path / "photos" / "test", {"cat": 4, "dog": 6}, seed=1)
    return tmp_path / "photos"


def check(root: Path, **options: Any) -> DataCheck:
    return check_data(DataConfig(name="folder", root=str(root), **options))


def names(rows: pd.DataFrame) -> list[str]:
    return sorted(rows["image"])


def test_nothing_is_wrong(root: Path) -> None:
    found = check(root)
    assert found.ok and all(well for well, _ in found.findings())
    assert found.counts().loc["cat", ["test", "all"]].tolist() == [4, 34]
    assert found.counts()["all"].tolist() == [34, 16]
    assert found.sizes()["width"] == (12, 12, 12) and found.sizes()["width / height"] == (1.2, 1.2, 1.2)
    assert found.kinds() == {"colour": 50}
    assert found.broken.empty and found.duplicates.empty


def test_broken_images_are_all_named(root: Path) -> None:
    broken = [root / "train" / "cat" / "003.png", root / "test" / "dog" / "000.png"]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(broken[1].read_bytes()[:70])
    found = check(root)
    assert not found.ok
    assert names(found.broken) == ["test/dog/000.png", "train/cat/003.png"]
    assert found.broken["reason"].str.contains("is truncated or not an image").all()
    assert (False, "images that cannot be read: 2 of 50") in found.findings()


def test_copies_are_found_within_and_across_splits_and_labels(root: Path) -> None:
    (root / "train" / "cat" / "copy.png").write_bytes((root / "train" / "cat" / "001.png").read_bytes())
    (root / "test" / "dog" / "leak.png").write_bytes((root / "train" / "dog" / "002.png").read_bytes())
    (root / "test" / "cat" / "other.png").write_bytes((root / "test" / "dog" / "003.png").read_bytes())
    Image.open(root / "test" / "cat" / "000.png").save(root / "test" / "cat" / "saved.bmp")  # the same pixels
    found = check(root, calibration_share=1, search_share=1)
    groups = {tuple(names(rows)): rows for _, rows in found.duplicates.groupby("group")}
    assert set(groups) == {
        ("train/cat/001.png", "train/cat/copy.png"),
        ("test/dog/leak.png", "train/dog/002.png"),
        ("test/cat/other.png", "test/dog/003.png"),
        ("test/cat/000.png", "test/cat/saved.bmp"),
    }
    assert {names: set(rows["same"]) for names, rows in groups.items() if "test/cat/saved.bmp" in names} == {
        ("test/cat/000.png", "test/cat/saved.bmp"): {"pixels"}
    }
    number_of = {names: int(rows["group"].iloc[0]) for names, rows in groups.items()}
    assert number_of["test/dog/leak.png", "train/dog/002.png"] in found.groups_across("split")
    assert found.groups_across("class") == [number_of["test/cat/other.png", "test/dog/003.png"]]
    assert number_of["test/cat/000.png", "test/cat/saved.bmp"] not in found.groups_across("split")
    assert not found.ok


def save(path: Path, mode: str, **options: Any) -> None:
    rng = np.random.default_rng(len(path.name))
    Image.fromarray(noise(rng, 20, 40, 3)).convert(mode).save(path, **options)


def test_kinds_and_turned_images(root: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, name in enumerate(("jpg", "png", "webp", "tiff")):  # TIFF is turned upright as it is read
        save(root / "train" / "cat" / f"{'turned' * (number + 1)}.{name}", "RGB", exif=turned)
    save(root / "train" / "cat" / "plain.jpg", "RGB", exif=Image.Exif())
    save(root / "train" / "cat" / "alpha.png", "RGBA")
    save(root / "train" / "cat" / "greys.png", "L")
    save(root / "train" / "cat" / "print.jpg", "CMYK")
    save(root / "train" / "cat" / "palette.png", "P", transparency=0)
    save(root / "train" / "cat" / "damaged.jpg", "RGB", exif=b"Exif\x00\x00nonsense" * 3)
    found = check(root)
    assert found.kinds() == {
        "colour": 56, "colour with alpha": 1, "grey": 1, "CMYK": 1, "palette with alpha": 1, "turned by EXIF": 3
    }  # fmt: skip
    assert found.ok
    assert found.sizes()["width"] == (12, 12, 40) and found.sizes()["width / height"] == pytest.approx((0.5, 1.2, 2.0))


def test_data_that_cannot_be_split_is_looked_at_all_the_same(root: Path) -> None:
    write_folder(root / "train", {"eel": 1})
    found = check(root)
    assert not found.ok
    assert "class 'eel' has 1 images to be split" in found.problem
    assert found.counts().loc["eel"].tolist() == [1, 0, 1]


def test_images_that_a_limit_leaves_out_are_in_no_split(root: Path) -> None:
    counts = check(root, limit=10).counts()
    assert counts["train"].sum() == 10 and counts["unused"].sum() == 40 - 10 - counts["search"].sum()


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_reader_is_looked_through(name: str, tmp_path: Path) -> None:
    write_idx(
        tmp_path / "idx", "train", noise(np.random.default_rng(0), 30, 6, 5), np.arange(30, dtype=np.uint8) % 3, gz=True
    )
    write_folder(tmp_path / "folder", {"cat": 9, "dog": 9})
    write_folder(tmp_path / "imagenet", {"n01440764": 9, "n15075141": 9})
    write_parquet(tmp_path / "parquet" / "train.parquet", 12, [0, 1])
    write_manifest(tmp_path / "manifest", {"cat": 9, "dog": 9})
    write_shards(read_source(DataConfig(name="folder", root=str(tmp_path / "folder"))), tmp_path / "shards")
    found = check_data(DataConfig(name=name, root=str(tmp_path / name)))
    assert found.ok and len(found.images) == found.counts()["all"].sum() >= 12
    assert set(found.images.loc[list(found.thumbnails), "class"]) == set(found.counts().index)
    assert name == "imagenet" or [*found.counts().index] == [*found.classes]
    for picture in found.thumbnails.values():
        assert max(Image.open(io.BytesIO(picture)).size) <= 216


def test_files_tell_the_same(root: Path, tmp_path: Path) -> None:
    (root / "test" / "dog" / 'leak, "1".png').write_bytes((root / "train" / "dog" / "002.png").read_bytes())
    (root / "test" / "dog" / "000.png").write_bytes(b"no picture")
    found = workflow.data_check([str(root)], out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "data.html", "data.json", "broken.csv", "duplicates.csv"
    }  # fmt: skip
    data = json.loads((tmp_path / "out" / "data.json").read_text())
    assert data == json.loads(json.dumps(found.to_json()))
    assert (data["ok"], data["num_images"], data["in_two_splits"]) == (False, 51, [1])
    assert [row["image"] for row in data["broken"]] == pd.read_csv(tmp_path / "out" / "broken.csv")["image"].tolist()
    rows = pd.read_csv(tmp_path / "out" / "duplicates.csv")
    assert names(rows) == ['test/dog/leak, "1".png', "train/dog/002.png"]


# -- what is given ---------------------------------------------------------------------------------------------------


def test_the_kind_of_data_is_guessed(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", {"cat": 9, "dog": 9})
    write_idx(
        tmp_path / "idx",
        "train",
        noise(np.random.default_rng(0), 30, 6, 5),
        np.arange(30, dtype=np.uint8) % 3,
        gz=False,
    )
    write_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", 12, [0, 1])
    write_manifest(tmp_path / "list.csv", {"cat": 9, "dog": 9})
    paths = [f"folder/{name}/{index:03}.png" for name in ("cat", "dog") for index in range(9)]
    pq.write_table(pa.table({"path": paths, "label": [path[7:10] for path in paths]}), tmp_path / "list.parquet")
    expected = {
        "folder": "folder",
        "idx": "idx",
        "hub": "parquet",
        "hub/data/train-00000-of-00001.parquet": "parquet",
        "list.csv": "manifest",
        "list.parquet": "manifest",
    }
    for name, reader in expected.items():
        found = workflow.data_check([str(tmp_path / name)])
        assert (found.config.name, found.ok) == (reader, True)


def test_settings_as_in_a_recipe(root: Path, tmp_path: Path) -> None:
    found = workflow.data_check(["data.name=folder", f"data.root={root}", "data.limit=20"])
    assert found.counts()["train"].sum() == 20
    write_manifest(tmp_path / "list.csv", {"cat": 9, "dog": 9}, header="file,label")
    found = workflow.data_check([str(tmp_path / "list.csv"), "data.path_column=file"])
    assert found.ok
    for words, message in (
        ([str(root), str(root)], "give one folder or file"),
        ([str(root), "train.epochs=3"], "give one folder or file, and settings such as data"),
    ):
        with pytest.raises(UsageError, match=message):
            workflow.data_check(words)
    with pytest.raises(DataError, match="there is no"):
        workflow.data_check([str(tmp_path / "nowhere")])


def test_the_command_has_a_status_and_json(root: Path) -> None:
    runner, words = CliRunner(), ["data", "check", str(root), "--json", "data.calibration_share=3"]
    good = runner.invoke(ofa.cli.app, words)
    assert (good.exit_code, json.loads(good.stdout)["ok"]) == (0, True)
    (root / "test" / "dog" / "000.png").write_bytes(b"no picture")
    bad = runner.invoke(ofa.cli.app, words)
    assert bad.exit_code == 1
    assert [row["image"] for row in json.loads(bad.stdout)["broken"]] == ["test/dog/000.png"]
    assert "images that cannot be read: 1 of 50" in bad.stderr


def test_nothing_to_look_at_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"there is no .*nowhere; give a folder of pictures, a .csv, .parquet or .tar file"
    ):
        guess_reader(tmp_path / "nowhere")
