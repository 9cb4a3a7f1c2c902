"""A tree of image files, one folder per class."""

from __future__ import annotations

from pathlib import Path

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import EncodedImages, Source, encode_labels, require_root

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
HOLDS = "a folder with CLASS/IMAGE files, or with train/CLASS/IMAGE and, optionally, val/ and test/ like it"


def read_folder(config: DataConfig) -> Source:
    """Read ``root/CLASS/IMAGE`` or ``root/train/CLASS/IMAGE``.

    ``test/`` is the test set. ``val/`` is the test set where there is no ``test/``; otherwise its images join the
    training images, out of which calibration and search images are carved.

    Raises:
        DataError: If there are no classes, or files that are not images (hidden ones aside).
    """
    root = require_root(config, HOLDS)
    train = root / "train" if (root / "train").is_dir() else root
    others = [root / name for name in ("val", "test") if train != root and (root / name).is_dir()]
    train_folders, test_folders = [train, *others[:-1]], others[-1:]
    train_paths, train_names = _labelled_files(train_folders)
    test_paths, test_names = _labelled_files(test_folders)
    if not train_paths:
        raise DataError(f"found no class folders with images in {train}; it should be {HOLDS}")
    classes, labels = encode_labels(train_names, test_names)
    images = EncodedImages([(path, path.relative_to(root).as_posix()) for path in train_paths + test_paths])
    return Source(classes, labels, images, num_test=len(test_paths))


def _labelled_files(folders: list[Path]) -> tuple[list[Path], list[str]]:
    paths, names = [], []
    for folder in folders:
        for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
            for path in sorted(class_folder.rglob("*")):
                if path.is_dir() or any(part.startswith(".") for part in path.relative_to(folder).parts):
                    continue
                if not path.is_file():  # a pipe, say, which would be waited for
                    raise DataError(f"{path} is no regular file; remove it")
                if path.suffix.lower() not in EXTENSIONS:
                    raise DataError(f"{path} is not an image (known: {', '.join(EXTENSIONS)}); remove or convert it")
                paths.append(path)
                names.append(class_folder.name)
    return paths, names
