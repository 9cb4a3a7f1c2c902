"""Hugging Face's Parquet files as they are exported, and manifests: what they mean, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ofa.data import DataConfig, DataError, load_data
from ofa.data.order import train_order
from ofa.data.readers import Source, read_source
from ofa.data.readers.parquet import RowImages
from ofa.data.readers.source import EncodedImages
from ofa.data.shards import write_shards

from ..helpers import encoded, write_folder, write_manifest

PICTURES = [encoded(np.random.default_rng(seed)) for seed in range(12)]


def read(root: Path, name: str = "parquet", **options: Any) -> Source:
    return read_source(DataConfig(name=name, root=str(root), **options))


def export(path: Path, labels: list[Any], *, first: int = 0, names: list[str] | None = None, **columns: Any) -> None:
    """A shard as Hugging Face's ``datasets`` writes it: structs, and features in the metadata of the schema."""
    images = [{"bytes": PICTURES[first + row], "path": None} for row in range(len(labels))]
    table = pa.table({"image": images, "label": labels, **columns})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def pictures_of(source: Source) -> list[int]:
    """Which of ``PICTURES`` stands at each place."""
    return [PICTURES.index(source.images.encoded[index][0]) for index in range(len(source.labels))]  # type: ignore[attr-defined]


# -- Hugging Face ----------------------------------------------------------------------------------------------------


def test_classes_are_called_as_class_label_says(tmp_path: Path) -> None:
    names = ["tench", "goldfish", "cock"]
    export(tmp_path / "train-00000-of-00001.parquet", [2, 0, 2, 1], names=names)
    export(tmp_path / "test-00000-of-00001.parquet", [1, 0], first=4, names=names)
    source = read(tmp_path)
    assert source.classes == ("tench", "goldfish", "cock")
    assert source.labels.tolist() == [2, 0, 2, 1, 1, 0]
    assert source.num_test == 2


def test_classes_that_do_not_occur_are_left_out(tmp_path: Path) -> None:
    export(tmp_path / "all.parquet", [3, 1, 3], names=["a", "b", "c", "d"])
    source = read(tmp_path / "all.parquet")
    assert source.classes == ("b", "d")
    assert source.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),  # a repository
        ("default/train/0000.parquet", "default/test/0000.parquet"),  # as the hub converts data sets
        ("train/0000.parquet", "validation/0000.parquet"),
        ("Training.parquet", "VALID-00000-of-00001.parquet"),
        ("train_0.parquet", "dev_0.parquet"),
    ],
)
def test_files_are_found_with_their_splits(tmp_path: Path, train: str, test: str) -> None:
    export(tmp_path / train, [0, 1, 1])
    export(tmp_path / test, [1], first=3)
    (tmp_path / "README.md").write_text("the card")
    source = read(tmp_path)
    assert pictures_of(source) == [0, 1, 2, 3]
    assert source.num_test == 1
    assert len({source.images.name(index) for index in range(4)}) == 4


def test_names_do_not_tell_how_deep_the_root_is(tmp_path: Path) -> None:
    export(tmp_path / "data" / "train-00000-of-00001.parquet", [0, 1])
    names = [[read(root).images.name(row) for row in range(2)] for root in (tmp_path, tmp_path / "data")]
    assert names[0] == names[1] == ["row 0 of train-00000-of-00001.parquet", "row 1 of train-00000-of-00001.parquet"]


def test_shards_are_in_the_order_of_their_numbers_and_validation_joins_training(tmp_path: Path) -> None:
    for place, name in enumerate(("train-2", "train-10", "train-1", "validation-0", "test-0")):
        export(tmp_path / f"{name}.parquet", [0, 1], first=2 * place)
    source = read(tmp_path)
    assert pictures_of(source) == [4, 5, 0, 1, 2, 3, 6, 7, 8, 9]
    assert source.num_test == 2


def test_mistakes_of_exports(tmp_path: Path) -> None:
    def write(images: Any, labels: Any) -> None:
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "train.parquet")

    picture = {"bytes": PICTURES[0], "path": "a.png"}
    write([picture, {"bytes": None, "path": "b.png"}], [0, 1])
    with pytest.raises(DataError, match=r"row 1 of .*train.parquet has only the path of its image, 'b.png'.*manifest"):
        read(tmp_path)
    write([picture, {"bytes": None, "path": None}], [0, 1])
    with pytest.raises(DataError, match=r"row 1 of .*train.parquet has no 'image'"):
        read(tmp_path)
    write([picture, picture], [0, None])
    with pytest.raises(DataError, match=r"row 1 of .*train.parquet has no 'label'"):
        read(tmp_path)
    write([picture, picture], [[0, 1], [1]])
    with pytest.raises(
        DataError, match=r"'label' of .* holds list<.*>: several labels per image, which classification"
    ):
        read(tmp_path)
    write([picture, picture], [0, 1])
    export(tmp_path / "test.parquet", [-1], names=["cat", "dog"])
    with pytest.raises(DataError, match=r"row 0 of .*test.parquet has label -1, but its 2 classes are numbered from 0"):
        read(tmp_path)
    export(tmp_path / "test.parquet", [1], names=["cat", "dog"])
    with pytest.raises(DataError, match="disagree on the names of classes"):
        read(tmp_path)
    export(tmp_path / "test.parquet", ["cat"])
    with pytest.raises(DataError, match="numbers in one part and text in another"):
        read(tmp_path)
    export(tmp_path / "test.parquet", [1])
    export(tmp_path / "unsupervised.parquet", [1])
    with pytest.raises(DataError, match=r"unsupervised.parquet is of no split by its name"):
        read(tmp_path)


def test_several_data_sets_are_not_mixed(tmp_path: Path) -> None:
    for name in ("cropped", "full"):
        export(tmp_path / name / "train-00000-of-00001.parquet", [0, 1])
    with pytest.raises(DataError, match=r"holds several data sets: .*cropped, .*full; give one as root"):
        read(tmp_path)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), tmp_path / "train.parquet"
    )
    with pytest.raises(DataError, match="found no images to train on"):
        read(tmp_path)


def test_groups_and_categories_of_a_table(tmp_path: Path) -> None:
    kinds = pa.array(["cat", "dog", "cat"]).dictionary_encode()
    export(tmp_path / "train.parquet", [0, 1, 0], kind=kinds, patient=["p", "q", "p"])
    source = read(tmp_path, label_column="kind", group_column="patient")
    assert source.classes == ("cat", "dog")
    assert source.groups is not None and source.groups.tolist() == ["p", "q", "p"]


# -- manifests -------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_folder(tmp_path / "images", {"a": 10})
    return tmp_path


def manifest(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def names_of(source: Source) -> list[str]:
    return [source.images.name(index)[-7:-4] for index in range(len(source.labels))]


def test_splits_of_a_manifest(files: Path) -> None:
    rows = ["000,cat,Test", "001,dog,train", "002,cat,VALID", "003,cat,training", "004,dog,testing"]
    lines = [f"images/a/{row[:3]}.png{row[3:]}" for row in rows]
    source = read(manifest(files, "path,label,split", *lines), "manifest")
    assert names_of(source) == ["001", "003", "002", "000", "004"]
    assert source.num_test == 2
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [1, 0, 0, 0, 1]
    with Image.open(files / "images" / "a" / "003.png") as expected:
        assert source.images[1].tobytes() == expected.tobytes()
    without_test = read(manifest(files, "path,label,split", *lines[1:4]), "manifest")
    assert names_of(without_test) == ["001", "003", "002"]
    assert without_test.num_test == 1


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_delimiters_columns_and_groups(files: Path, delimiter: str, encoding: str) -> None:
    rows = ["patient,kind,file", 'p1,"a, ""b""",images/a/000.png', f"p2,10,{files}/images/a/001.png"]
    lines = [rows[0].replace(",", delimiter)]
    lines += [delimiter.join(["p1", '"x, y; z"', "images/a/000.png"])]
    lines += [delimiter.join(["p2", "été", f"{files}/images/a/001.png"])]
    config = {"path_column": "file", "label_column": "kind", "group_column": "patient"}
    source = read(manifest(files, *lines, encoding=encoding), "manifest", **config)
    assert source.classes == ("x, y; z", "été")
    assert source.groups is not None and source.groups.tolist() == ["p1", "p2"]
    assert names_of(source) == ["000", "001"]


def test_numbers_are_ordered_as_such_unless_some_are_not(files: Path) -> None:
    lines = [f"images/a/00{row}.png,{label}" for row, label in enumerate((10, 9, 2))]
    assert read(manifest(files, "path,label", *lines), "manifest").classes == ("2", "9", "10")
    lines.append("images/a/003.png,007")
    assert read(manifest(files, "path,label", *lines), "manifest").classes == ("007", "10", "2", "9")


def test_labels_that_look_like_nothing_are_labels(files: Path) -> None:
    lines = ["images/a/000.png,NA", "images/a/001.png,null", "images/a/002.png,nan"]
    assert read(manifest(files, "path,label", *lines), "manifest").classes == ("NA", "nan", "null")


def test_all_missing_files_are_told_at_once(files: Path) -> None:
    lines = [f"images/a/{row:03}.png,{row % 2}" for row in range(18)]
    (files / "images" / "a" / "003.png").unlink()
    (files / "images" / "a" / "003.png").mkdir()
    with pytest.raises(DataError) as caught:
        read(manifest(files, "path,label", *lines), "manifest")
    assert "9 of 18 files that" in str(caught.value)
    assert "'images/a/003.png', 'images/a/010.png'" in str(caught.value)
    assert f"'images/a/013.png' and 4 more; paths are relative to {files}" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["images/a/000.png,cat", "images/a/001.png,dog"], r"unknown column 'path'; known: .*; set data.path_column"),
        (
            ["path,labels", "images/a/000.png,cat"],
            r"unknown column 'label'; did you mean 'labels'\?.*set data.label_column",
        ),
        (["path,label", "images/a/000.png,"], "line 2 of .*list.csv has no 'label'"),
        (["path,label", "images/a/000.png,cat,dog"], "line 2 of .*list.csv has 3 fields, the first line names 2"),
        (["path,label,label", "images/a/000.png,cat,dog"], "has 2 columns 'label'"),
        (["path,label", 'images/a/000.png,"[0, 1]"'], r"line 2 of .* has the labels '\[0, 1\]': several per image"),
        (["path,label", "images/a/000.png,1", "images/a/000.png,2"], "names 'images/a/000.png' twice"),
        (["path,label,split", "images/a/000.png,cat,trian"], "unknown split 'trian'; did you mean 'train'"),
        (["path,label,split", "images/a/000.png,cat,test"], "found no images to train on"),
        (["path,label"], "has no rows"),
        ([], "list.csv is empty; it should be a .csv file"),
        (["path,label", 'images/a/000.png,"cat'], "is not a CSV file in UTF-8"),
    ],
)
def test_mistakes_in_manifests(files: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(manifest(files, *lines), "manifest")


def test_columns_that_are_asked_for_must_be_there(files: Path) -> None:
    path = manifest(files, "path,label", "images/a/000.png,cat", "images/a/001.png,dog")
    for option in ("split_column", "group_column"):
        with pytest.raises(DataError, match=rf"unknown column 'fold'.*; set data.{option}"):
            read(path, "manifest", **{option: "fold"})


def test_other_encodings_are_refused(files: Path) -> None:
    with pytest.raises(DataError, match="is not a CSV file in UTF-8"):
        read(manifest(files, "path,label", "images/a/000.png,été", encoding="latin-1"), "manifest")


def test_manifests_in_parquet_say_the_same(files: Path) -> None:
    write_manifest(files / "list.csv", {"cat": 3, "dog": 2})
    as_csv = read(files / "list.csv", "manifest")
    table = {"path": [as_csv.images.name(index) for index in range(5)], "label": [1, 1, 1, 0, 0]}
    features = {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), files / "list.parquet")
    source = read(files / "list.parquet", "manifest")
    assert source.classes == ("dog", "cat")
    assert [source.classes[label] for label in source.labels] == [as_csv.classes[label] for label in as_csv.labels]
    assert source.images[4].tobytes() == as_csv.images[4].tobytes()
    pq.write_table(pa.table({**table, "label": [[0], [1], [0], [1], [1]]}), files / "list.parquet")
    with pytest.raises(DataError, match=re.escape("several labels per image")):
        read(files / "list.parquet", "manifest")


# -- files that do not fit into memory ---------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """60 pictures in row groups of 3, in two files, taken for too large to be read at once."""
    monkeypatch.setattr("ofa.data.readers.parquet.LIMIT_BYTES", 0)
    for split, num in (("train", 45), ("validation", 15)):
        images = [{"bytes": encoded(np.random.default_rng([num, row])), "path": None} for row in range(num)]
        table = pa.table({"image": images, "label": [row % 2 for row in range(num)]})
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet", row_group_size=3)
    return DataConfig(name="parquet", root=str(tmp_path), crop_scale=0.5)


def test_large_files_are_read_by_row_groups(large: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = read_source(large)
    monkeypatch.setattr("ofa.data.readers.parquet.LIMIT_BYTES", 10**9)
    whole = read_source(large)
    assert isinstance(lazy.images, RowImages) and isinstance(whole.images, EncodedImages)
    assert lazy.labels.tolist() == whole.labels.tolist() and lazy.classes == whole.classes
    assert lazy.num_test == whole.num_test == 15
    for row in range(60):
        assert lazy.images.read(row) == whole.images.read(row) and lazy.images.name(row) == whole.images.name(row)
    copied = pickle.loads(pickle.dumps(lazy.images))
    assert copied.read(31) == whole.images.read(31)
    assert lazy.images.near.tolist() == [row // 3 for row in range(60)]


def test_training_goes_through_some_row_groups_at_a_time(large: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofa.data.order.NUM_NEAR", 4)
    data = load_data(large, image_size=8, memory_limit_bytes=0)
    assert isinstance(data.source.images, RowImages)
    orders = []
    for epoch in (0, 1):
        order, _ = train_order(
            data.source.labels[data.splits.train],
            balance=0,
            epoch=epoch,
            batch_size=4,
            seed=0,
            start=0,
            shard=(0, 1),
            near=data._near,
        )
        orders.append(torch.cat(list(order)).numpy())
        assert len(set(orders[-1].tolist())) == len(orders[-1])
        groups = data.source.images.near[data.splits.train][orders[-1]]
        seen = [set(groups[at : at + 4].tolist()) for at in range(0, len(groups), 4)]
        firsts = {
            group: next(batch for batch, own in enumerate(seen) if group in own) for group in set(groups.tolist())
        }
        lasts = {group: max(batch for batch, own in enumerate(seen) if group in own) for group in firsts}
        assert max(lasts[group] - firsts[group] for group in firsts) <= 4  # 4 groups of 3 are 3 batches
    assert orders[0].tolist() != orders[1].tolist()
    reads: list[int] = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, group, **kw: (reads.append(group), read(self, group, **kw))[1]
    )
    plain = dataclasses.replace(data, num_workers=0)
    assert len(list(plain.train_batches(epoch=0, batch_size=4, seed=0))) == len(data.splits.train) // 4
    assert len(reads) == len(set(reads))  # each once


def test_large_files_become_shards(large: DataConfig, tmp_path: Path) -> None:
    source = read_source(large)
    write_shards(source, tmp_path / "shards")
    found = read_source(DataConfig(name="shards", root=str(tmp_path / "shards")))
    rows = {source.images.name(row): row for row in range(60)}
    for row in range(60):
        other = rows[found.images.name(row)]
        assert found.images.read(row) == source.images.read(other)  # type: ignore[attr-defined]
        assert found.labels[row] == source.labels[other]


def test_large_files_that_are_wrong_are_told(large: DataConfig) -> None:
    with pytest.raises(DataError, match=r"unknown column 'img'.*set data\.image_column"):
        read_source(dataclasses.replace(large, image_column="img"))
    with pytest.raises(DataError, match="holds int64, not encoded images"):
        read_source(dataclasses.replace(large, image_column="label")).images[0]
    source, path = read_source(large), Path(str(large.root)) / "train-00000-of-00001.parquet"
    source.images[0]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet is truncated or not a Parquet file"):
        source.images[20]


def test_row_groups_are_kept_up_to_a_limit(large: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_source(large).images
    assert isinstance(images, RowImages)
    size = len(images.read(0))
    monkeypatch.setattr("ofa.data.readers.parquet.KEPT_BYTES", 7 * size)  # two groups of three
    for row in range(0, 45, 3):
        images.read(row)
    assert len(images._kept._groups) == 2


def test_a_missing_picture_is_one_picture(large: DataConfig) -> None:
    path = Path(str(large.root)) / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[7]["bytes"] = None
    pq.write_table(
        table.set_column(0, "image", pa.array(images, table.schema.field("image").type)), path, row_group_size=3
    )
    source = read_source(large)
    assert source.images[6].size == source.images[8].size
    with pytest.raises(DataError, match=r"^row 7 of train-00000-of-00001\.parquet has no 'image'; fill or remove it$"):
        source.images[7]
