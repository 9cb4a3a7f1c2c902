"""Tar shards: ours, those of others, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import ofa.data.shards
from ofa.data import DataConfig, DataError, load_data
from ofa.data.identity import Identity
from ofa.data.readers import guess_reader, read_source
from ofa.data.readers.shards import ShardImages
from ofa.data.readers.source import EncodedImages, Source
from ofa.data.shards import write_shards

from ..helpers import encoded, noise, write_folder, write_idx

CLASSES = {"cat": 21, "dog": 30}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ofa" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> DataConfig:
    write_folder(tmp_path / "data" / "train", CLASSES, extension="jpg")
    write_folder(tmp_path / "data" / "test", {"cat": 5, "dog": 4}, seed=1)
    return DataConfig(name="folder", root=str(tmp_path / "data"))


def sharded(config: DataConfig, out: Path, **options: Any) -> DataConfig:
    write_shards(read_source(config), out, **options)
    return dataclasses.replace(config, name="shards", root=str(out))


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def pictures(num: int, seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [encoded(rng) for _ in range(num)]


# -- ours --------------------------------------------------------------------------------------------------------------


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of some kilobytes."""
    parts = ofa.data.shards._parts
    monkeypatch.setattr(
        ofa.data.shards, "_parts", lambda source, *, shard_mb, seed: parts(source, shard_mb=shard_mb / 100, seed=seed)
    )


def test_shards_hold_what_the_folder_held(folder: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    config, plain = sharded(folder, tmp_path / "shards", shard_mb=1), read_source(folder)
    names = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert names[:2] == ["dataset.json", "index.parquet"]
    assert names[2] == "test-000000.tar" and len([name for name in names if name.startswith("train-")]) > 2
    found = read_source(config)
    assert isinstance(found.images, ShardImages)
    assert found.classes == plain.classes and found.num_test == plain.num_test == 9
    rows = {plain.images.name(row): row for row in range(len(plain.labels))}
    order = [rows[found.images.name(row)] for row in range(len(found.labels))]
    assert sorted(order) == list(range(len(rows))) != order
    assert set(order[-9:]) == set(range(len(rows) - 9, len(rows)))
    for row, other in enumerate(order):
        assert found.labels[row] == plain.labels[other]
        assert found.images.digest(row) == plain.images.digest(other)
        assert found.images.num_bytes(row) == plain.images.num_bytes(other)
        assert np.array_equal(np.asarray(found.images[row]), np.asarray(plain.images[other]))
    copied = pickle.loads(pickle.dumps(found.images))
    assert copied.name(3) == found.images.name(3) and copied.read(3) == found.images.read(3)
    assert guess_reader(tmp_path / "shards") == "shards"


def test_the_same_data_gives_the_same_bytes(folder: DataConfig, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        write_shards(read_source(folder), tmp_path / name, seed=seed)
    one, two, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "other")
    )
    assert one == two != other


def test_anyone_can_read_them(folder: DataConfig, tmp_path: Path) -> None:
    write_shards(read_source(folder), tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "train-000000.tar") as tar:
        names = tar.getnames()
        keys = [name.partition(".")[0] for name in names]
        assert keys == sorted(keys, key=keys.index) and len(names) == 3 * 51
        (picture, label, facts) = (tar.extractfile(name) for name in names[:3])
        assert picture and label and facts
        said = json.load(facts)
        assert Image.open(picture).size == (12, 10)
        assert said["name"].startswith(f"train/{said['label']}/")
        assert ["cat", "dog"][int(label.read())] == said["label"]
    said = json.loads((tmp_path / "shards" / "dataset.json").read_text())
    assert said["classes"] == ["cat", "dog"]
    assert [(each["split"], each["samples"]) for each in said["shards"]] == [("train", 51), ("test", 9)]


def test_training_is_that_of_any_other_data(folder: DataConfig, tmp_path: Path) -> None:
    """In memory or not, from any batch on, in any number of parts, by worker processes."""
    config = dataclasses.replace(sharded(folder, tmp_path / "shards"), crop_scale=0.5, crop_from="original")
    memory, lazy = (load_data(config, image_size=8, memory_limit_bytes=limit) for limit in (10**6, 0))

    def epoch(data: Any, **options: Any) -> list[torch.Tensor]:
        return [images for images, _ in data.train_batches(epoch=2, batch_size=8, seed=1, **options)]

    whole = epoch(memory)
    for found in (epoch(lazy), [*epoch(lazy)[:2], *epoch(lazy, start=2)]):
        assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    again = load_data(config, image_size=8, splits=memory.splits.to_json())
    assert again.splits.to_json() == memory.splits.to_json()


def test_pictures_that_are_no_files_become_png(tmp_path: Path) -> None:
    pixels, labels = noise(np.random.default_rng(0), 30, 10, 12), np.arange(30, dtype=np.uint8) % 3
    write_idx(tmp_path / "idx", "train", pixels, labels, gz=False)
    found = read_source(sharded(DataConfig(name="idx", root=str(tmp_path / "idx")), tmp_path / "shards"))
    rows = {found.images.name(row): row for row in range(30)}
    for index in range(30):
        row = rows[f"row {index}"]
        assert np.array_equal(np.asarray(found.images[row]), pixels[index]) and found.labels[row] == labels[index]


def test_groups_stay_together(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for group in range(6):
            write_folder(tmp_path / "data" / name, {f"g{group}": 5}, seed=group)
    config = DataConfig(name="folder", root=str(tmp_path / "data"), groups_by_folder=True)
    write_shards(read_source(config), tmp_path / "shards")
    found = read_source(DataConfig(name="shards", root=str(tmp_path / "shards"), group_column="group"))
    assert found.groups is not None
    for row in range(60):
        assert found.images.name(row).split("/")[1] == found.groups[row]


def test_an_interrupted_one_goes_on(folder: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    source, out = read_source(folder), tmp_path / "shards"
    whole = write_shards(source, tmp_path / "whole", shard_mb=1)
    written: list[Path] = []
    write = ofa.data.shards._write_shard

    def stopped(path: Path, *args: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *args)

    monkeypatch.setattr(ofa.data.shards, "_write_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_shards(source, out, shard_mb=1)
    with pytest.raises(DataError, match="is not finished; the command that began it goes on"):
        read_source(DataConfig(name="shards", root=str(out)))
    with pytest.raises(DataError, match="holds something else, or shards of other data"):
        write_shards(source, out, shard_mb=1, seed=3)
    written.clear()
    monkeypatch.setattr(ofa.data.shards, "_write_shard", lambda path, *args: (written.append(path), write(path, *args)))
    assert write_shards(source, out, shard_mb=1).shards == whole.shards
    assert len(written) == len(whole.shards) - 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.path.iterdir()
    }


def test_other_things_are_left_alone(folder: DataConfig, tmp_path: Path) -> None:
    source, out = read_source(folder), tmp_path / "shards"
    write_shards(source, out)
    with pytest.raises(DataError, match="holds a finished data set; give another --out"):
        write_shards(source, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        write_shards(source, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_other_targets_stay_in_their_files(folder: DataConfig, tmp_path: Path) -> None:
    source = dataclasses.replace(read_source(folder), targets=np.zeros(60, np.float32))
    with pytest.raises(DataError, match="shards are of pictures with a class each"):
        write_shards(source, tmp_path / "shards")


def test_a_shard_that_is_not_whole_is_told(folder: DataConfig, tmp_path: Path) -> None:
    config = sharded(folder, tmp_path / "shards")
    shard = tmp_path / "shards" / "train-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-512])
    with pytest.raises(DataError, match=r"train-000000.tar has [\d,]+ of [\d,]+ bytes; copy it again"):
        read_source(config)
    shard.write_bytes(content)
    source = read_source(config)
    shard.write_bytes(content[: len(content) // 4])  # while it is read
    with pytest.raises(DataError, match=r"in .*train-000000.tar is cut off after \d+ of \d+ bytes"):
        [source.images[row] for row in range(51)]
    shard.unlink()
    with pytest.raises(DataError, match=r"train-000000.tar is truncated or not an image \(\[Errno 2\]"):
        source.images[0]
    with pytest.raises(DataError, match=r"train-000000.tar has 0 of"):
        read_source(config)


@pytest.mark.parametrize("name", ["dataset.json", "index.parquet"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 1}', b'{"format": 1, "classes": 3, "shards": 5}'])
def test_damaged_descriptions_are_told(name: str, content: bytes, folder: DataConfig, tmp_path: Path) -> None:
    config = sharded(folder, tmp_path / "shards")
    (tmp_path / "shards" / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}|again"):
        read_source(config)


# -- those of others ---------------------------------------------------------------------------------------------------


def test_shards_of_others(tmp_path: Path, own_cache: Path) -> None:
    """As timm's copy of ImageNet has them; they are gone through once."""
    root, images = tmp_path / "wds", pictures(12)
    for number, rows in enumerate((range(5), range(5, 9))):
        files: dict[str, bytes] = {}
        for row in rows:
            files[f"n{row % 2}/n_{row}.jpg"] = images[row]
            files[f"n{row % 2}/n_{row}.cls"] = str(row % 2).encode()
            files[f"n{row % 2}/n_{row}.json"] = b"{}"
        tar_of(root / f"imagenet1k-train-000{number}.tar", files)
    tar_of(
        root / "imagenet1k-validation-00.tar",
        {f"v{row}.{end}": data for row in range(9, 12) for end, data in (("png", images[row]), ("cls", b"1"))},
    )
    (root / "classes.txt").write_text("tench\ngoldfish\n")
    config = DataConfig(name=guess_reader(root), root=str(root))
    source = read_source(config)
    assert source.classes == ("tench", "goldfish") and source.num_test == 3
    assert source.labels.tolist() == [row % 2 for row in range(9)] + [1, 1, 1]
    assert [source.images.read(row) for row in range(12)] == images  # type: ignore[attr-defined]
    assert source.images.name(0) == "imagenet1k-train-0000.tar/n0/n_0.jpg"
    (kept,) = own_cache.glob("shards-*.parquet")
    before = kept.stat().st_mtime_ns
    assert Identity.of(read_source(config)).sha256 == Identity.of(source).sha256
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"damaged")
    assert Identity.of(read_source(config)).sha256 == Identity.of(source).sha256


def test_labels_from_json_or_folders(tmp_path: Path) -> None:
    images = pictures(4)
    tar_of(
        tmp_path / "a" / "train.tar",
        {
            "x.0.png": images[0],
            "x.0.json": b'{"breed": "pug", "dog": 7}',
            "y.png": images[1],
            "y.json": b'{"breed": "lab", "dog": 8}',
        },
    )
    config = DataConfig(name="shards", root=str(tmp_path / "a"), label_column="breed", group_column="dog")
    source = read_source(config)
    assert source.classes == ("lab", "pug") and source.labels.tolist() == [1, 0]
    assert source.groups is not None and source.groups.tolist() == ["7", "8"]
    tar_of(tmp_path / "b" / "train.tar", {f"data/{name}/1.png": images[row] for row, name in enumerate(("cat", "dog"))})
    source = read_source(DataConfig(name="shards", root=str(tmp_path / "b" / "train.tar")))
    assert source.classes == ("cat", "dog")


def test_what_is_no_data_is_told(tmp_path: Path) -> None:
    image = pictures(1)[0]
    wrong = {
        "is of no split by its name": {"stuff.tar": {"a.png": image, "a.cls": b"0"}},
        r"found no train\*.tar": {"val.tar": {"a.png": image, "a.cls": b"0"}},
        "has no label": {"train.tar": {"a.png": image}},
        "has several pictures": {"train.tar": {"a.png": image, "a.jpg": image, "a.cls": b"0"}},
        r"has 'a\.png' and 'a\.mask\.png'; keep one": {
            "train.tar": {"a.png": image, "a.mask.png": image, "a.cls": b"0"}
        },
        "of 'a' cannot be read": {"train.tar": {"a.png": image, "a.json": b"[" * 100_000}},
        "has 2,000,000 bytes; labels are shorter": {"train.tar": {"a.png": image, "a.cls": b"0" * 2_000_000}},
    }
    for number, (message, files) in enumerate(wrong.items()):
        root = tmp_path / str(number)
        for name, content in files.items():
            tar_of(root / name, content)
        with pytest.raises(DataError, match=message):
            read_source(DataConfig(name="shards", root=str(root)))
    (tmp_path / "no").mkdir()
    for content in (b"text", b"\x1f\x8b gzip", b"x" * 4096):
        (tmp_path / "no" / "train.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"truncated or not a plain tar file|single class|no images"):
            read_source(DataConfig(name="shards", root=str(tmp_path / "no")))
    path = tar_of(tmp_path / "cut" / "train.tar", {"a.png": image, "a.cls": b"0", "b.cls": b"1", "b.png": image})
    path.write_bytes(path.read_bytes()[:2600])
    with pytest.raises(DataError, match="truncated"):
        read_source(DataConfig(name="shards", root=str(path.parent)))


def test_members_that_are_no_files_are_passed_over(tmp_path: Path) -> None:
    """Links out of the archive, folders, and names that would lead elsewhere if they were unpacked."""
    images, path = pictures(2), tmp_path / "train.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("a", tarfile.DIRTYPE), ("b.png", tarfile.SYMTYPE), ("c.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for row, name in enumerate(("../../x/1", "/etc/y/1")):
            member = tarfile.TarInfo(f"{name}.png")
            member.size = len(images[row])
            tar.addfile(member, io.BytesIO(images[row]))
    source = read_source(DataConfig(name="shards", root=str(path)))
    assert source.classes == ("x", "y") and len(source.labels) == 2


def test_an_index_that_lies_ends_in_a_message(folder: DataConfig, tmp_path: Path) -> None:
    config = sharded(folder, tmp_path / "shards")
    index = tmp_path / "shards" / "index.parquet"
    table = pd.read_parquet(index)
    table.assign(offset=table["offset"] + 7).to_parquet(index)
    with pytest.raises(DataError, match="is truncated or not an image"):
        read_source(config).images[0]
    table.assign(offset=10**12).to_parquet(index)
    with pytest.raises(DataError, match=r"damaged \('.*' lies outside its file\); make the shards again"):
        read_source(config)
    table.assign(offset=-1).to_parquet(index)
    with pytest.raises(DataError, match=r"damaged|truncated or not an image"):
        read_source(config).images[0]


@pytest.mark.parametrize("how", ["cut in a header", "cut at a header", "another checksum"])
def test_pictures_behind_damage_are_not_lost_without_a_word(how: str, tmp_path: Path) -> None:
    images = pictures(6)
    path = tar_of(tmp_path / "train.tar", {f"c{row % 2}/{row}.png": images[row] for row in range(6)})
    with tarfile.open(path) as tar:
        at = tar.getmembers()[3].offset
    content = bytearray(path.read_bytes())
    if how == "another checksum":
        content[at + 150] ^= 1
    else:
        del content[at + (100 if how == "cut in a header" else 0) :]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.tar is truncated or not a plain tar file .*behind 'c0/2'"):
        read_source(DataConfig(name="shards", root=str(path)))


def test_hidden_files_and_odd_names_and_labels(tmp_path: Path) -> None:
    images = pictures(4)
    files = {"001/1.png": images[0], "001/._1.png": b"resource fork", "1/\udce9.png": images[1], "2/3.png": images[2]}
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    source = read_source(DataConfig(name="shards", root=str(path)))
    assert source.classes == ("001", "1", "2") and len(source.labels) == 3
    tar_of(path, {"a.png": images[0], "a.cls": b"9" * 20, "b.png": images[1], "b.cls": b"1"})
    assert read_source(DataConfig(name="shards", root=str(path))).classes == ("1", "9" * 20)
    tar_of(path, {"a.png": images[0], "a.cls": b"0", "b.png": images[1], "b.cls": b"1"})
    (tmp_path / "classes.txt").write_bytes("Käse\nBrot".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.txt is not text in UTF-8"):
        read_source(DataConfig(name="shards", root=str(path)))
    (tmp_path / "classes.txt").write_text("\ufeffbread\ncheese\n", encoding="utf-8")
    assert read_source(DataConfig(name="shards", root=str(path))).classes == ("bread", "cheese")


@pytest.mark.parametrize(
    "change",
    [
        {"classes": None},
        {"classes": 3},
        {"shards": []},
        {"shards": [{"file": "train-000000.tar", "bytes": 1, "split": "foo"}]},
    ],
)
def test_descriptions_that_make_no_sense(change: dict[str, Any], folder: DataConfig, tmp_path: Path) -> None:
    config = sharded(folder, tmp_path / "shards")
    path = tmp_path / "shards" / "dataset.json"
    said = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))
    with pytest.raises(DataError, match=r"dataset\.json is damaged"):
        read_source(config)


def test_a_folder_with_a_tar_file_beside_its_classes_is_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "train-backup.tar").write_bytes(b"")
    (tmp_path / "dataset.json").write_text("{}")
    assert guess_reader(tmp_path) == "folder"


def test_pictures_of_other_kinds_become_shards(tmp_path: Path) -> None:
    """Two pictures in a JPEG, as telephones write them, without a name; and pictures in memory, turned and CMYK."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(noise(rng, 20, 24, 3)) for _ in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="MPO", save_all=True, append_images=frames[1:])
    source = Source(
        ("a", "b"), np.array([0, 1]), EncodedImages([(buffer.getvalue(), "row 0"), (pictures(1)[0], "row 1")])
    )
    write_shards(source, tmp_path / "files")
    found = read_source(DataConfig(name="shards", root=str(tmp_path / "files")))
    assert sorted(Path(name).suffix for name in tar_names(tmp_path / "files")) == [".cls"] * 2 + [".jpg"] + [
        ".json"
    ] * 2 + [".png"]
    assert {found.images[row].size for row in range(2)} == {(24, 20), (12, 10)}

    class InMemory:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Image.Image:
            picture = frames[0].copy() if index else frames[0].convert("CMYK")
            picture.getexif()[0x0112] = 6
            return picture

        def name(self, index: int) -> str:
            return f"{index}"

        def digest(self, index: int) -> bytes:
            return b""

        def num_bytes(self, index: int) -> int | None:
            return None

    write_shards(Source(("a", "b"), np.array([0, 1]), InMemory()), tmp_path / "memory")
    found = read_source(DataConfig(name="shards", root=str(tmp_path / "memory")))
    assert {found.images[row].size for row in range(2)} == {(20, 24)}


def tar_names(folder: Path) -> list[str]:
    with tarfile.open(folder / "train-000000.tar") as tar:
        return tar.getnames()
