"""A tree of image files, one folder per class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa.data.config import DataConfig, DataError
from ofa.data.picture import EXTENSIONS
from ofa.data.readers.source import EncodedImages, Source, encode_labels, require_root
from ofa.data.readers.split_names import split_named
from ofa.errors import shown

HOLDS = "a folder with CLASS/IMAGE files, or with train/CLASS/IMAGE and, optionally, val/ and test/ like it"
NOT_DATA = ("thumbs.db", "desktop.ini", "__macosx")
"""What systems leave in folders besides hidden files."""


@dataclass(frozen=True)
class _File:
    path: Path
    label: str
    group: str = ""


def read_folder(config: DataConfig) -> Source:
    """Read ``root/CLASS/IMAGE`` or ``root/train/CLASS/IMAGE``; with ``groups_by_folder`` ``CLASS/GROUP/IMAGE``.

    ``test/`` is the test set. ``val/`` is the test set where there is no ``test/``; otherwise its images join the
    training images, out of which the other splits are carved. Links to folders are followed.

    Raises:
        DataError: If folders are not as they should be, or hold files that are not images (hidden ones aside).
    """
    root = require_root(config, HOLDS)
    splits, ignored = _split_folders(root)
    others = [splits[split] for split in ("val", "test") if split in splits]
    seen: dict[Path, Path] = {}
    train, test = (
        [file for folder in folders for file in _files(folder, seen, grouped=config.groups_by_folder)]
        for folders in ([splits["train"], *others[:-1]], others[-1:])
    )
    if not train:
        raise DataError(f"found no class folders with images in {splits['train']}; it should be {HOLDS}")
    known = {file.label for file in train}
    for folder in _folders(splits["train"]):
        if folder.name not in known:
            raise DataError(f"class folder {folder} holds no images; add some, or remove it")
    classes, labels = encode_labels([file.label for file in train], [file.label for file in test])
    files = train + test
    images = EncodedImages([(file.path, _nfc(file.path.relative_to(root).as_posix())) for file in files])
    groups = np.array([file.group for file in files]) if config.groups_by_folder else None
    return Source(classes, labels, images, num_test=len(test), groups=groups, ignored=ignored)


def _split_folders(root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The folder of each split; ``root`` itself is ``train`` where no folder is a split's. What else is there."""
    found: dict[str, Path] = {}
    folders = _folders(root)
    names = _split_names(folders)
    for path, split in names.items():
        if split in found:
            raise DataError(f"{found[split]} and {path} are both named as {split} splits; join them, or rename one")
        found[split] = path
    if found and len(names) < len(folders) and not any(map(_folders, names)):
        found = {}  # they hold pictures of classes that are called so, such as trains
    if not found:
        return {"train": root}, _loose(root, root)
    if "train" not in found or not _folders(found["train"]):
        raise DataError(
            f"{root} has {', '.join(path.name for path in names)}, but no folder train with folders of classes in it; "
            f"it should be {HOLDS}"
        )
    ignored = [f"folder {path.name}, which is named as no split" for path in folders if path not in names]
    for split, path in list(found.items()):
        inside = _folders(path)
        if not inside:
            ignored.append(f"folder {path.name}, which has no folders of classes")
            del found[split]
        elif len(inside) == 1 and inside[0].name.lower() == path.name.lower():  # as some archives unpack
            found[split] = inside[0]
    return found, (*ignored, *(note for path in (root, *found.values()) for note in _loose(path, root)))


def _split_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Which folders are named as splits: ``Training`` and ``Test``, or alike after one beginning, ``seg_train``."""
    plain = {path: split for path in folders if (split := split_named(path.name))}
    if plain:
        return plain
    begun: dict[str, dict[Path, str]] = {}
    for path in folders:
        word = re.split("[-_. ]", path.name)[-1]
        if split := split_named(word):
            begun.setdefault(path.name.lower().removesuffix(word.lower()), {})[path] = split
    # One alone may well be a class: bullet_train.
    return next((paths for paths in begun.values() if {"train"} < set(paths.values())), {})


def _files(folder: Path, seen: dict[Path, Path], *, grouped: bool) -> list[_File]:
    """Pictures of all classes of a split; ``seen`` are folders that were read, by what they really are."""
    files: list[_File] = []
    for class_folder in _folders(folder):
        places = [("", class_folder)]
        if grouped:
            if loose := _pictures(class_folder):
                raise DataError(f"{loose[0]} lies in no group; data.groups_by_folder needs CLASS/GROUP/IMAGE")
            places = [(_nfc(path.name), path) for path in _folders(class_folder)]
        for group, place in places:
            _check_new(place, seen)
            files += [_File(path, class_folder.name, group) for path in _images(place)]
    return files


def _images(folder: Path) -> list[Path]:
    paths = _visible(folder)
    for path in paths:
        if path.is_dir():
            raise DataError(
                f"{folder} should hold the images of a class, but holds the folder {shown(path.name)}; the root should "
                f"be {HOLDS}, or with data.groups_by_folder=true CLASS/GROUP/IMAGE: a group is never in two splits"
            )
        if not path.is_file():  # a pipe, say, which would be waited for, or a link
            raise DataError(f"{path} is no regular file, or a link that leads nowhere; remove it")
        if path.suffix.lower() not in EXTENSIONS:
            raise DataError(f"{path} is not an image (known: {', '.join(EXTENSIONS)}); remove or convert it")
    return paths


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, in order, but for hidden files."""
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in NOT_DATA
    )


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, links to folders too."""
    paths = _visible(folder)
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path} is a link that leads nowhere, or in a circle; mend or remove it")
    return [path for path in paths if path.is_dir()]


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.suffix.lower() in EXTENSIONS and path.is_file()]


def _loose(folder: Path, root: Path) -> tuple[str, ...]:
    """A word on pictures beside class folders."""
    num = len(_pictures(folder))
    where = "root" if folder == root else folder.relative_to(root).as_posix()
    return (f"{num} images that lie in {where} itself, in no folder of a class",) if num else ()


def _check_new(folder: Path, seen: dict[Path, Path]) -> None:
    real = folder.resolve()
    if real in seen:
        raise DataError(f"{seen[real]} and {folder} are the same folder, by a link; leave one of them out")
    seen[real] = folder


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
