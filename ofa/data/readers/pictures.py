"""Pictures of which nothing is said: whatever lies below a folder."""

from __future__ import annotations

import numpy as np

from ofa.data.config import DataConfig, DataError
from ofa.data.picture import EXTENSIONS
from ofa.data.readers.source import EncodedImages, Source, require_root
from ofa.data.readers.split_names import split_named

HOLDS = "a folder of pictures, in any folders; those of a folder test at its top, or else val, are the test set"


def read_pictures(config: DataConfig) -> Source:
    """Pictures below ``root``: they are what is learnt.

    Folders ``train``, ``val`` and ``test`` at its top mean what they do in a tree of classes; all else is ignored.

    Raises:
        DataError: If there is no picture to train on.
    """
    root = require_root(config, HOLDS)
    if not root.is_dir():
        raise DataError(f"{root} is no folder; it should be {HOLDS}")
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in EXTENSIONS and path.is_file() and not any(part.startswith(".") for part in path.parts)
    )
    splits = [split_named(path.relative_to(root).parts[0]) for path in found]
    held_out = "test" if "test" in splits else "val"
    train, test = (
        [path for path, split in zip(found, splits, strict=True) if (split == held_out) == is_test]
        for is_test in (False, True)
    )
    if not train:
        raise DataError(f"found no pictures to train on in {root} ({' '.join(EXTENSIONS)}); it should be {HOLDS}")
    images = EncodedImages([(path, path.relative_to(root).as_posix()) for path in (*train, *test)])
    return Source((), np.zeros(len(images), np.int64), images, num_test=len(test), is_target=True)
