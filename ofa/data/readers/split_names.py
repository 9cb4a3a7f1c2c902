"""What splits are called in data sets that come with some, in folders and file names alike."""

from __future__ import annotations

import re

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
