"""Pictures with a mask each: folders of both, or columns of Parquet files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ofa.data.config import DataConfig, DataError
from ofa.data.masks import VOID, EncodedMasks
from ofa.data.readers.parquet import encoded_column
from ofa.data.readers.source import EncodedImages, Source, require_root
from ofa.data.readers.split_names import SPLIT_NAMES, files_by_name, files_by_split, split_of_path
from ofa.data.readers.table import open_columns
from ofa.errors import unknown_name_message

Encoded = tuple[Path | bytes, str]
HOLDS = (
    "a folder with images/NAME.jpg and labels/NAME.png, or with train/images/, train/labels/ and, optionally, val/ and "
    "test/ like it (task.images and task.masks say what they are called), or Parquet files with both as columns"
)
MAX_DEPTH = 3  # of a folder of masks below the root


class Layout(NamedTuple):
    """What is where, and what the indices mean.

    Args:
        images, masks: Names of folders, or of columns; nothing for what they are usually called.
        classes: Names; without any, classes are called by their indices.
        void: Indices that belong to no class.
    """

    images: str = ""
    masks: str = ""
    classes: tuple[str, ...] = ()
    void: tuple[int, ...] = (VOID,)


class _Pair(NamedTuple):
    split: str
    image: Encoded
    mask: Encoded


def read_masks(config: DataConfig, layout: Layout) -> Source:
    """Read pictures with masks, PNG files whose pixels are indices of classes.

    ``test`` is the test set; ``val`` is where there is no ``test``, otherwise its pictures join the training pictures,
    out of which the other splits are carved.

    Raises:
        DataError: If a picture lacks its mask or the other way round, or there is nothing to train on.
    """
    if config.name not in READERS:
        raise DataError(unknown_name_message("data set with masks", config.name, READERS))
    root = require_root(config, HOLDS)
    reader, *usual = READERS[config.name]
    layout = layout._replace(images=layout.images or usual[0], masks=layout.masks or usual[1])
    pairs = list(reader(root, layout))
    splits = {pair.split for pair in pairs}
    test = next((split for split in ("test", "val") if split in splits), None)
    order = list(SPLIT_NAMES)
    pairs.sort(key=lambda pair: (pair.split == test, order.index(pair.split)))
    num_test = sum(pair.split == test for pair in pairs)
    if num_test == len(pairs):
        raise DataError(f"found no pictures with masks to train on in {root}; it should be {HOLDS}")
    images = EncodedImages([pair.image for pair in pairs])
    masks = EncodedMasks([pair.mask for pair in pairs], void=layout.void, num_classes=len(layout.classes))
    classes = layout.classes or tuple(map(str, range(masks.highest + 1)))
    if len(classes) < 2:
        raise DataError(f"the masks in {root} have {len(classes)} classes; there must be two at least")
    return Source(classes, np.zeros(len(pairs), dtype=np.int64), images, num_test=num_test, masks=masks)


def _in_folders(root: Path, layout: Layout) -> Iterator[_Pair]:
    folders = sorted(
        folder for depth in range(MAX_DEPTH) for folder in root.glob("*/" * depth + layout.masks) if folder.is_dir()
    )
    if not folders:
        raise DataError(f"found no folder {layout.masks} of masks in {root}; it should be {HOLDS}")
    for folder in folders:
        beside = folder.with_name(layout.images)
        if not beside.is_dir():
            raise DataError(f"{folder} has no folder {layout.images} of pictures beside it; set task.images")
        pictures, masks = files_by_name(beside), files_by_name(folder)
        for name in sorted(pictures.keys() ^ masks.keys()):
            lonely, where = (pictures[name], folder) if name in pictures else (masks[name], beside)
            raise DataError(f"{lonely} has no file {name}.* in {where}; add it, or remove this one")
        for name, picture in sorted(pictures.items()):
            split = split_of_path(picture.relative_to(root), ignored=layout.images)
            names = (each.relative_to(root).as_posix() for each in (picture, masks[name]))
            yield _Pair(split, *zip((picture, masks[name]), names, strict=True))


def _in_parquet(root: Path, layout: Layout) -> Iterator[_Pair]:
    base, files = (root.parent, [("train", root)]) if root.is_file() else files_by_split(root, ".parquet", holds=HOLDS)
    for split, path in files:
        table = open_columns(path, layout, lambda _: ["images", "masks"], section="task")
        images, masks = (encoded_column(table, column, path) for column in (layout.images, layout.masks))
        name = path.relative_to(base).as_posix()
        for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
            yield _Pair(split, (image, f"row {row} of {name}"), (mask, f"mask in row {row} of {name}"))


READERS: Mapping[str, tuple[Callable[[Path, Layout], Iterator[_Pair]], str, str]] = {
    "folder": (_in_folders, "images", "labels"),
    "parquet": (_in_parquet, "image", "mask"),
}
"""By ``data.name``: what reads it, and what pictures and masks are called there."""
