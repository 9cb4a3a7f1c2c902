"""Every reader gives the labels and pixels that were written, and says clearly what is wrong with bad files."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from ofa.data import READERS, DataConfig, DataError
from ofa.data.order import train_order
from ofa.data.readers import Source, read_source
from ofa.data.settle import settle
from ofa.data.shards import write_shards
from ofa.data.splits import make_splits

from ..helpers import encoded, idx_bytes, noise, write_folder, write_idx, write_manifest, write_parquet

THREE_CLASSES = np.arange(30, dtype=np.uint8) % 3


def _pixels(source: Source, index: int) -> np.ndarray:
    return np.asarray(source.images[index])


def _idx(root: Path) -> DataConfig:
    write_idx(root, "train", noise(np.random.default_rng(0), 30, 6, 5), THREE_CLASSES, gz=True)
    return DataConfig(name="idx", root=str(root))


# -- all of them -----------------------------------------------------------------------------------------------------


def _one_of_each(root: Path) -> None:
    _idx(root / "idx")
    write_folder(root / "folder", {"cat": 4, "dog": 5})
    write_parquet(root / "parquet" / "train.parquet", 12, [0, 1])
    write_folder(root / "imagenet", {"n01440764": 4, "n15075141": 5})
    write_manifest(root / "manifest", {"cat": 4, "dog": 5})
    write_shards(read_source(DataConfig(name="folder", root=str(root / "folder"))), root / "shards")


@pytest.mark.parametrize("name", sorted(READERS))
def test_contract(name: str, tmp_path: Path) -> None:
    _one_of_each(tmp_path)
    source = read_source(DataConfig(name=name, root=str(tmp_path / name)))
    assert len(source.images) == len(source.labels) == source.labels.shape[0]
    assert source.labels.dtype == np.int64
    assert name == "imagenet" or sorted(set(source.labels)) == list(range(len(source.classes)))
    assert isinstance(source.images[len(source.labels) - 1], Image.Image)
    elsewhere = pickle.loads(pickle.dumps(source))  # as worker processes get it where they share no memory
    assert elsewhere.images[0].tobytes() == source.images[0].tobytes()


@pytest.mark.parametrize("name", sorted(READERS))
def test_samples_are_the_same_wherever_the_root_is(name: str, tmp_path: Path) -> None:
    found = []
    for root in (tmp_path / "here", tmp_path / "there"):
        _one_of_each(root)
        images = read_source(DataConfig(name=name, root=str(root / name))).images
        found.append([(images.name(i), images.digest(i), images.num_bytes(i)) for i in range(len(images))])
    assert found[0] == found[1]
    names, digests, _ = zip(*found[0], strict=True)
    assert len(set(names)) == len(names)
    assert name == "digits" or len(set(digests)) == len(digests)  # noise is never the same twice
    assert {len(digest) for digest in digests} == {32}


def test_digests_are_of_the_encoded_bytes(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 2, "dog": 2})
    images = read_source(DataConfig(name="folder", root=str(tmp_path))).images
    assert images.name(3) == "dog/001.png"
    content = (tmp_path / "dog" / "001.png").read_bytes()
    assert images.digest(3) == hashlib.sha256(content).digest()
    assert images.num_bytes(3) == len(content)


@pytest.mark.parametrize("name", sorted(set(READERS) - {"digits"}))
def test_missing_and_empty_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"data set '{name}' needs a root"):
        read_source(DataConfig(name=name))
    with pytest.raises(DataError, match=re.escape(f"there is no {tmp_path / 'absent'}")):
        read_source(DataConfig(name=name, root=str(tmp_path / "absent")))
    with pytest.raises(DataError, match=re.escape(str(tmp_path)) + ".*; it should be"):
        read_source(DataConfig(name=name, root=str(tmp_path)))


def test_unknown_name_lists_ours() -> None:
    with pytest.raises(
        DataError, match=r"unknown data set 'digit'; did you mean 'digits'.*folder, idx, imagenet, manifest, parquet"
    ):
        read_source(DataConfig(name="digit"))


# -- digits ----------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    source = read_source(DataConfig())
    assert len(source.labels) == 1797
    assert source.classes == tuple("0123456789")
    assert source.images[0].size == (8, 8)
    assert _pixels(source, 0).max() <= 255
    assert max(_pixels(source, index).max() for index in range(50)) == 255


# -- IDX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gz", [True, False])
def test_idx_with_own_test_set(tmp_path: Path, gz: bool) -> None:
    rng = np.random.default_rng(0)
    train, test = noise(rng, 30, 6, 5), noise(rng, 4, 6, 5)
    write_idx(tmp_path, "train", train, THREE_CLASSES + 7, gz=gz)
    write_idx(tmp_path, "t10k", test, THREE_CLASSES[:4] + 7, gz=gz)
    source = read_source(DataConfig(name="idx", root=str(tmp_path)))
    assert source.classes == ("7", "8", "9")
    assert source.num_test == 4
    assert source.labels.tolist() == [*THREE_CLASSES.tolist(), *THREE_CLASSES[:4].tolist()]
    assert (_pixels(source, 3) == train[3]).all()
    assert (_pixels(source, 31) == test[1]).all()


def test_idx_test_set_by_any_of_its_names(tmp_path: Path) -> None:
    config = _idx(tmp_path)
    write_idx(tmp_path, "test", noise(np.random.default_rng(1), 6, 6, 5), THREE_CLASSES[:6], gz=False)
    assert read_source(config).num_test == 6
    write_idx(tmp_path, "t10k", noise(np.random.default_rng(1), 3, 6, 5), THREE_CLASSES[:3], gz=False)
    with pytest.raises(DataError, match="has images of t10k and of test, which are both the test set; leave one out"):
        read_source(config)


def test_idx_broken_files_are_named(tmp_path: Path) -> None:
    config = _idx(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=re.escape(str(images)) + " is truncated or damaged"):
        read_source(config)
    images.write_bytes(idx_bytes(noise(np.random.default_rng(0), 30, 6, 5))[:-1])
    with pytest.raises(DataError, match=r"header promises 900 bytes of shape \(30, 6, 5\), 899 are there"):
        read_source(config)
    images.write_bytes(b"hello")
    with pytest.raises(DataError, match="not an IDX file of bytes in 3 dims"):
        read_source(config)
    images.write_bytes(idx_bytes(noise(np.random.default_rng(0), 29, 6, 5)))
    with pytest.raises(DataError, match=r"29 images and .* 30 labels"):
        read_source(config)
    images.unlink()
    with pytest.raises(DataError, match=r"found no train-images-idx\*-ubyte"):
        read_source(config)


def test_idx_test_set_of_other_size_or_class(tmp_path: Path) -> None:
    config = _idx(tmp_path)
    write_idx(tmp_path, "t10k", noise(np.random.default_rng(1), 3, 4, 4), THREE_CLASSES[:3], gz=False)
    with pytest.raises(DataError, match=r"\(6, 5\) for training and \(4, 4\) for test"):
        read_source(config)
    write_idx(tmp_path, "t10k", noise(np.random.default_rng(1), 3, 6, 5), THREE_CLASSES[:3] + 1, gz=False)
    with pytest.raises(DataError, match="unknown class in the test set '3'"):
        settle(read_source(config), config, None)


# -- folder ----------------------------------------------------------------------------------------------------------


def test_folder_trees(tmp_path: Path) -> None:
    flat, val, both = tmp_path / "flat", tmp_path / "val", tmp_path / "both"
    write_folder(flat, {"dog": 2, "cat": 3})
    for root in (val, both):
        write_folder(root / "train", {"dog": 2, "cat": 3})
        write_folder(root / "val", {"dog": 1})
    write_folder(both / "test", {"cat": 2})
    (flat / "README.md").write_text("files beside the classes are left alone")
    (flat / "cat" / ".DS_Store").write_bytes(b"hidden files are left alone")
    found = {root: read_source(DataConfig(name="folder", root=str(root))) for root in (flat, val, both)}
    assert all(source.classes == ("cat", "dog") for source in found.values())
    assert [len(source.labels) for source in found.values()] == [5, 6, 8]
    assert [source.num_test for source in found.values()] == [0, 1, 2]
    assert found[both].labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    with Image.open(val / "val" / "dog" / "000.png") as expected:
        assert (_pixels(found[val], 5) == np.asarray(expected)).all()


def test_folder_mistakes(tmp_path: Path) -> None:
    config = DataConfig(name="folder", root=str(tmp_path))
    write_folder(tmp_path, {"cat": 5})
    with pytest.raises(DataError, match="single class, cat;"):
        read_source(config)
    write_folder(tmp_path, {"dog": 5})
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "dog" / "notes.txt")) + " is not an image"):
        read_source(config)


def _folder(root: Path, **options: Any) -> Source:
    return read_source(DataConfig(name="folder", root=str(root), **options))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "", "Testing"),
        ("train", "valid", ""),
        ("TRAIN", "Validation", "test"),
        ("train", "dev", "testing"),
        ("seg_train/seg_train", "", "seg_test/seg_test"),
        ("set-train", "set-val", "set-test"),
        ("train/train", "", "test"),
    ],
)
def test_folder_splits_by_any_of_their_names(tmp_path: Path, train: str, val: str, test: str) -> None:
    for folder, num in ((train, 3), (val, 2), (test, 1)):
        if folder:
            write_folder(tmp_path / folder, {"cat": num, "dog": num})
    source = _folder(tmp_path)
    assert source.classes == ("cat", "dog")
    assert source.num_test == (2 if test else 4)
    assert len(source.labels) == 6 + 4 * bool(val) + 2 * bool(test)
    assert source.images.name(0) == f"{train}/cat/000.png"
    assert source.ignored == ()


def test_folder_says_what_it_does_not_read(tmp_path: Path) -> None:
    for folder in ("seg_train/seg_train", "seg_test/seg_test"):
        write_folder(tmp_path / folder, {"cat": 2, "dog": 2})
    write_folder(tmp_path, {"seg_pred": 3, "__MACOSX": 1, ".cache": 1})
    write_folder(tmp_path / "seg_train", {"seg_train": 2})
    (tmp_path / "seg_train/seg_train/cat/Thumbs.db").write_bytes(b"left by a system")
    source = _folder(tmp_path)
    assert len(source.labels) == 8
    assert source.ignored == (
        "folder seg_pred, which is named as no split",
        "2 images that lie in seg_train/seg_train itself, in no folder of a class",
    )
    write_folder(tmp_path / "flat", {"cat": 2, "dog": 2, ".": 1})
    assert _folder(tmp_path / "flat").ignored == ("1 images that lie in root itself, in no folder of a class",)


def test_folder_test_set_without_labels_is_none(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"cat": 2, "dog": 2})
    write_folder(tmp_path / "val", {"cat": 1, "dog": 1})
    write_folder(tmp_path, {"test": 5})
    source = _folder(tmp_path)
    assert source.num_test == 2  # val is
    assert source.ignored == ("folder test, which has no folders of classes",)


def test_folder_classes_may_be_called_as_splits(tmp_path: Path) -> None:
    write_folder(tmp_path / "flat", {"train": 2, "bus": 2, "bullet_train": 1})
    assert _folder(tmp_path / "flat").classes == ("bullet_train", "bus", "train")
    write_folder(tmp_path / "split/train", {"train": 2, "test": 2})
    assert _folder(tmp_path / "split").classes == ("test", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/cat", "train/dog", "val/cat", "valid/dog"), "val and .*valid are both named as val splits; join them"),
        (("train/cat", "Train/dog"), "Train and .*train are both named as train splits"),
        (("train", "test"), "has test, train, but no folder train with folders of classes in it; it should be"),
        (("test/cat", "val/dog"), "has test, val, but no folder train with"),
        (("all/train/cat", "all/train/dog"), "all should hold the images of a class, but holds the folder 'train'"),
        (("cat/small", "dog"), "cat should hold .* holds the folder 'small'; the root .*or with data.groups_by_folder"),
    ],
)
def test_folder_trees_that_mean_nothing(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for folder in folders:
        write_folder(tmp_path / folder, {".": 2})
    with pytest.raises(DataError, match=message):
        _folder(tmp_path)


def test_folder_class_without_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"cat": 2, "dog": 2, "cow": 0})
    write_folder(tmp_path / "test", {"cat": 2, "dog": 0, "horse": 0})
    with pytest.raises(DataError, match=r"class folder .*train/cow holds no images; add some, or remove it"):
        _folder(tmp_path)
    (tmp_path / "train/cow").rmdir()
    assert _folder(tmp_path).classes == ("cat", "dog")  # what is empty in test is no matter


def test_folder_links_are_followed(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    write_folder(elsewhere, {"cat": 2, "felines": 3})
    write_folder(root / "train", {"dog": 2})
    (root / "train/cat").symlink_to(elsewhere / "felines")
    (root / "train/dog/more.png").symlink_to(elsewhere / "cat/000.png")
    source = _folder(root)
    assert source.classes == ("cat", "dog") and np.bincount(source.labels).tolist() == [3, 3]
    assert source.images.name(0) == "train/cat/000.png"
    (root / "test").symlink_to(elsewhere)
    with pytest.raises(DataError, match=r"train/cat and .*test/felines are the same folder, by a link"):
        _folder(root)


def test_folder_links_that_lead_nowhere_or_round(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 2, "dog": 2})
    link = tmp_path / "cow"
    for target, message in (
        (tmp_path / "gone", "cow is a link that leads nowhere"),
        (link, "cow is a link that leads nowhere, or in a circle"),
        (tmp_path, "cow should hold the images of a class, but holds the folder 'cat'"),
        (tmp_path / "cat", "cat and .*cow are the same folder"),
    ):
        link.symlink_to(target)
        with pytest.raises(DataError, match=message):
            _folder(tmp_path)
        link.unlink()
    (tmp_path / "cat/009.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cat/009\.png is no regular file, or a link that leads nowhere"):
        _folder(tmp_path)


def test_class_names_are_the_same_however_accents_are_encoded(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "\u00e9t\u00e9") for form in ("NFC", "NFD"))
    assert composed != decomposed
    write_folder(tmp_path / "train", {decomposed: 2, "hiver": 2})
    write_folder(tmp_path / "val", {composed: 2})
    write_folder(tmp_path / "test", {composed: 1, "hiver": 1})
    source = _folder(tmp_path)
    assert [unicodedata.normalize("NFC", name) for name in source.classes] == [composed, "hiver"]
    assert source.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 0]
    assert source.images.name(0) == f"train/{composed}/000.png"
    write_folder(tmp_path / "test", {"automne": 1})
    config = DataConfig(name="folder", root=str(tmp_path))
    with pytest.raises(DataError, match="unknown class in the test set 'automne'"):
        settle(read_source(config), config, None)


def test_a_class_keeps_the_spelling_of_its_folder(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "\u00e9t\u00e9")
    write_folder(tmp_path, {decomposed: 2, "zinc": 2})
    assert _folder(tmp_path).classes == (decomposed, "zinc")


def test_folder_groups(tmp_path: Path) -> None:
    for name, groups in {"cat": ("anna", "bert"), "dog": ("bert", "carl")}.items():
        write_folder(tmp_path / name, dict.fromkeys(groups, 2))
    source = _folder(tmp_path, groups_by_folder=True)
    assert source.classes == ("cat", "dog")
    assert source.groups is not None
    assert source.groups.tolist() == ["anna", "anna", "bert", "bert", "bert", "bert", "carl", "carl"]
    assert source.images.name(3) == "cat/bert/001.png"
    write_folder(tmp_path, {"dog": 1})
    with pytest.raises(DataError, match=r"dog/000\.png lies in no group; .* needs CLASS/GROUP/IMAGE"):
        _folder(tmp_path, groups_by_folder=True)


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("kept", [0, 0.05, 0.6])
def test_truncated_image_is_named(tmp_path: Path, extension: str, kept: float) -> None:
    write_folder(tmp_path, {"cat": 2, "dog": 2}, extension=extension)
    path = tmp_path / "cat" / f"001.{extension}"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    source = read_source(DataConfig(name="folder", root=str(tmp_path)))
    with pytest.raises(DataError, match=re.escape(str(path)) + " is truncated or not an image"):
        source.images[1]


# -- parquet ---------------------------------------------------------------------------------------------------------


def test_parquet_files_and_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [encoded(rng) for _ in range(6)]
    names = ["dog", "cat", "dog", "cat", "dog", "dog"]
    as_struct = [{"bytes": image, "path": None} for image in images]
    pq.write_table(pa.table({"picture": as_struct[:3], "kind": names[:3]}), tmp_path / "train-00000-of-00002.parquet")
    pq.write_table(pa.table({"picture": as_struct[3:], "kind": names[3:]}), tmp_path / "train-00001-of-00002.parquet")
    pq.write_table(pa.table({"picture": images[:2], "kind": names[:2]}), tmp_path / "test.parquet")
    config = DataConfig(name="parquet", root=str(tmp_path), image_column="picture", label_column="kind")
    source = read_source(config)
    assert source.classes == ("cat", "dog")
    assert source.num_test == 2
    assert source.labels.tolist() == [1, 0, 1, 0, 1, 1, 1, 0]
    for index, image in enumerate(images + images[:2]):
        assert (_pixels(source, index) == np.asarray(Image.open(io.BytesIO(image)))).all()


def test_parquet_single_file_has_no_test_set(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all.parquet", 12, [5, 3])
    source = read_source(DataConfig(name="parquet", root=str(tmp_path / "all.parquet")))
    assert (source.num_test, source.classes, source.labels[:2].tolist()) == (0, ("3", "5"), [1, 0])


def test_parquet_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    config = DataConfig(name="parquet", root=str(tmp_path))
    write_parquet(path, 12, [0, 1])
    with pytest.raises(DataError, match=r"unknown column 'labels'; did you mean 'label'.*; set data.label_column"):
        read_source(DataConfig(name="parquet", root=str(tmp_path), label_column="labels"))
    with pytest.raises(DataError, match=r"column 'label' of .* holds int64, not encoded images"):
        read_source(DataConfig(name="parquet", root=str(tmp_path), image_column="label"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=re.escape(str(path)) + " is truncated or not a Parquet file"):
        read_source(config)
    picture = encoded(np.random.default_rng(0))
    pq.write_table(pa.table({"image": [picture, None, picture], "label": [0, 1, 1]}), path)
    with pytest.raises(DataError, match=r"row 1 of .* has no 'image'"):
        read_source(config)
    pq.write_table(pa.table({"image": [picture, picture], "label": [0.5, 1.5]}), path)
    with pytest.raises(DataError, match=r"column 'label' of .* holds double"):
        read_source(config)
    pq.write_table(pa.table({"image": [picture, picture[:40]], "label": [0, 1]}), path)
    with pytest.raises(DataError, match=r"row 1 of .*train.parquet is truncated or not an image"):
        read_source(config).images[1]


# -- timm ------------------------------------------------------------------------------------------------------------


def test_timm_data_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw = tmp_path / "FashionMNIST" / "raw"
    train, test = noise(rng, 30, 28, 28), noise(rng, 6, 28, 28)
    write_idx(raw, "train", train, THREE_CLASSES, gz=False)
    write_idx(raw, "t10k", test, THREE_CLASSES[:6], gz=False)
    source = read_source(DataConfig(name="torch/fashion_mnist", root=str(tmp_path)))
    assert source.num_test == 6
    assert source.labels.tolist() == [*THREE_CLASSES.tolist(), *THREE_CLASSES[:6].tolist()]
    assert (_pixels(source, 2) == train[2]).all()
    assert (_pixels(source, 34) == test[4]).all()
    images = source.images
    assert (images.name(2), images.name(34)) == ("image 2 of train", "image 4 of validation")
    assert len({images.digest(index) for index in range(len(images))}) == len(images)
    assert images.num_bytes(34) == 28 * 28


def test_timm_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Unknown torchvision dataset fashoin"):
        read_source(DataConfig(name="torch/fashoin", root=str(tmp_path)))
    with pytest.raises(DataError, match=r"timm cannot open the train split.*download the data first"):
        read_source(DataConfig(name="torch/cifar10", root=str(tmp_path)))
    with pytest.raises(DataError, match="name it 'folder'"):
        read_source(DataConfig(name="torch/image_folder", root=str(tmp_path)))


# -- real data: facts published with it ------------------------------------------------------------------------------


@pytest.mark.data
def test_fashion_mnist(real_data: Path) -> None:
    source = read_source(DataConfig(name="idx", root=str(real_data / "fashion-mnist")))
    assert (len(source.labels), source.num_test, len(source.classes)) == (70_000, 10_000, 10)
    pixels = np.stack([_pixels(source, index) for index in range(60_000)])
    assert pixels.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std() / 255 == pytest.approx(0.3530, abs=5e-5)
    test = np.stack([_pixels(source, index) for index in range(60_000, 62_000)])
    neighbours = KNeighborsClassifier(5, algorithm="brute").fit(
        pixels.reshape(60_000, -1).astype(np.float32), source.labels[:60_000]
    )
    accuracy = neighbours.score(test.reshape(2_000, -1).astype(np.float32), source.labels[60_000:62_000])
    assert accuracy == pytest.approx(0.859, abs=0.001)


@pytest.mark.data
def test_cifar10(real_data: Path) -> None:
    source = read_source(DataConfig(name="parquet", root=str(real_data / "cifar10-jpeg75")))
    assert (len(source.labels), source.num_test, len(source.classes)) == (60_000, 10_000, 10)
    assert np.bincount(source.labels[:50_000]).tolist() == [5_000] * 10
    chosen = np.random.default_rng(0).permutation(50_000)[:10_000]
    pixels = np.stack([_pixels(source, index) for index in chosen])
    assert pixels.mean(axis=(0, 1, 2)) / 255 == pytest.approx([0.4913, 0.4821, 0.4465], abs=0.004)


@pytest.mark.data
def test_clothing(real_data: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(real_data / "clothing-small-224.tar", tmp_path, filter="data")
    source = read_source(DataConfig(name="folder", root=str(tmp_path / "clothing-small-224")))
    assert (len(source.labels), source.num_test, len(source.classes)) == (3_068 + 341 + 372, 372, 10)
    assert min(source.images[0].size) == 224


def test_some_classes_of_imagenet_keep_their_numbers(tmp_path: Path) -> None:
    for synset in ("n15075141", "n01440764"):
        (tmp_path / synset).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / synset / f"{number}.png")
    config = DataConfig(name="imagenet", root=str(tmp_path))
    source = read_source(config)
    assert len(source.classes) == len(set(source.classes)) == 1000
    assert source.classes[0] == "n01440764 tench"
    assert source.labels.tolist() == [0, 0, 0, 999, 999, 999]
    splits = make_splits(source.labels, source.strata, num_test=0, config=config)
    assert set(source.labels[splits.train].tolist()) == {0, 999}
    (tmp_path / "n15075141").rename(tmp_path / "n99999999")
    with pytest.raises(DataError, match=r"unknown class of ImageNet 'n99999999'"):
        read_source(config)


def test_classes_without_pictures_weigh_nothing(tmp_path: Path) -> None:
    for synset, num in (("n15075141", 2), ("n01440764", 8)):
        (tmp_path / synset).mkdir()
        for number in range(num):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / synset / f"{number}.png")
    labels = read_source(DataConfig(name="imagenet", root=str(tmp_path))).labels
    batches, _ = train_order(labels, balance=1, epoch=0, batch_size=10, seed=0, start=0, shard=(0, 1))
    assert np.bincount(labels[batches[0]])[[0, 999]].tolist() == [5, 5]
