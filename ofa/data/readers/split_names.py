"""What splits are called in data sets that come with some, in folders and file names alike."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from ofa.data.config import DataError
from ofa.data.picture import EXTENSIONS

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def split_named(name: str) -> str | None:
    """``train``, ``val`` or ``test``, if that is what a name means in any case: ``Validation`` is ``val``."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def split_of_file(name: str) -> str | None:
    """The split that the first word of a file's name means: ``valid-00000-of-00003.parquet`` is of ``val``."""
    word = re.match(r"[^\W\d_]*", name)
    return split_named(word.group()) if word is not None else None


def split_of_path(path: Path, *, ignored: str = "") -> str:
    """The split that a folder on the way to a file means; ``train`` if none does.

    Args:
        path: Relative to the data set's root.
        ignored: Name of a folder that means none.
    """
    places = [part for part in path.parts[:-1] if part != ignored]
    return next(filter(None, map(split_named, places)), "train")


def files_by_name(folder: Path, suffixes: Collection[str] = EXTENSIONS) -> dict[str, Path]:
    """Files in a folder and those inside it, by their path in it without what follows the last dot.

    Raises:
        DataError: If two have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{found[name]} and {path} have one name; rename one of them and its partner")
        found[name] = path
    return found


def files_by_split(root: Path, suffix: str, *, holds: str) -> tuple[Path, list[tuple[str, Path]]]:
    """The folder that holds the data set, and its files, each with its split, in order of the numbers in their names.

    They are called after the split, or lie in a folder that is.

    Args:
        suffix: Of the files: ``.parquet``.
        holds: What the folder should hold, for messages.

    Raises:
        DataError: If no file is to train on, one is of no split, or there are several data sets.
    """
    paths = list(root.glob(f"*{suffix}")) or list(root.rglob(f"*{suffix}"))
    files, bases, strangers = [], set(), []
    for path in sorted(paths, key=_numbers_as_such):
        of_folder = split_named(path.parent.name) if path.parent != root else None
        split = split_of_file(path.name) or of_folder
        if split is None:
            strangers.append(path)
            continue
        files.append((split, path))
        bases.add(path.parent if of_folder is None else path.parent.parent)
    if not any(split == "train" for split, _ in files):
        raise DataError(f"found no train*{suffix} in {root}; it should be {holds}")
    if strangers:
        raise DataError(f"{strangers[0]} is of no split by its name; call it train, validation or test, or move it")
    if len(bases) > 1:
        raise DataError(f"{root} holds several data sets: {', '.join(map(str, sorted(bases)))}; give one as root")
    return bases.pop(), files


def _numbers_as_such(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.as_posix())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
