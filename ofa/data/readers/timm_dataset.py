"""Whatever data set timm's ``create_dataset`` opens and that can be indexed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import DECODING_ERRORS, Source, digest_of_pixels, encode_labels, undecodable


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """Pictures from two data sets that give ``(image, label)``, one after the other."""

    train: Any
    test: Any

    def __len__(self) -> int:
        return len(self.train) + len(self.test)

    def __getitem__(self, index: int) -> Image.Image:
        dataset, _, local = self._find(index)
        try:
            image: Image.Image = dataset[local][0]
            image.load()
        except DECODING_ERRORS as error:
            raise DataError(undecodable(self.name(index), error, "remove it")) from error
        return image

    def name(self, index: int) -> str:
        _, split, local = self._find(index)
        return f"image {local} of {split}"

    def digest(self, index: int) -> bytes:
        return digest_of_pixels(np.asarray(self[index]))

    def num_bytes(self, index: int) -> int | None:
        dataset, _, _ = self._find(index)
        num: int | None = getattr(getattr(dataset, "data", None), "nbytes", None)  # an array of all pixels
        return None if num is None else num // len(dataset)

    def _find(self, index: int) -> tuple[Any, str, int]:
        num = len(self.train)
        return (self.train, "train", index) if index < num else (self.test, "validation", index - num)


def read_timm(config: DataConfig) -> Source:
    """Open timm's ``train`` and ``validation`` splits; the latter is the test set.

    Raises:
        DataError: If timm does not know the name, finds no files, or gives a stream that cannot be indexed.
    """
    train, test = (_open(config, split) for split in ("train", "validation"))
    train_labels, test_labels = _labels(train), _labels(test)
    classes, labels = encode_labels(train_labels, test_labels)
    names = getattr(train, "classes", None)
    if names is not None and len(names) == len(classes):
        classes = tuple(str(name) for name in names)
    return Source(classes, labels, DatasetImages(train, test), num_test=len(test_labels))


def _open(config: DataConfig, split: str) -> Any:
    from timm.data import create_dataset

    if config.name in ("torch/image_folder", "torch/folder"):
        raise DataError(f"data set {config.name!r} has a reader here; name it 'folder'")
    try:
        dataset = create_dataset(config.name, root=config.root, split=split)
    except (AssertionError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"timm cannot open the {split} split of {config.name!r} in {config.root} "
            f"({type(error).__name__}: {error}); check name and root, and download the data first"
        ) from error
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(f"data set {config.name!r} is a stream, which cannot be split; use one that can be indexed")
    return dataset


def _labels(dataset: Any) -> list[Any]:
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [dataset[index][1] for index in range(len(dataset))]
    return list(np.asarray(targets).tolist())
