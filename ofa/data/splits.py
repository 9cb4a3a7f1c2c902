"""Four disjoint splits: train, calibration, search, test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ofa.data.config import DataConfig, DataError
from ofa.errors import unknown_name_message
from ofa.files import FORMAT

Indices: TypeAlias = npt.NDArray[np.int64]

SPLITS = ("train", "calibration", "search", "test")


@dataclass(frozen=True, eq=False)
class Splits:
    """Image indices of each split, shape ``(n,)``; any run of consecutive ones holds the classes in proportion."""

    train: Indices
    calibration: Indices
    search: Indices
    test: Indices
    labels_sha256: str

    def __getitem__(self, split: str) -> Indices:
        if split not in SPLITS:
            raise DataError(unknown_name_message("split", split, SPLITS))
        indices: Indices = getattr(self, split)
        return indices

    def to_json(self) -> dict[str, Any]:
        """The splits as JSON data, with a hash of the labels that they were made for."""
        indices = {split: self[split].tolist() for split in SPLITS}
        return {"format": FORMAT, "labels_sha256": self.labels_sha256, **indices}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], labels: Indices) -> Splits:
        """The inverse of :meth:`to_json`.

        Raises:
            DataError: If a key is missing, indices overlap or are out of range, or ``labels`` are not those that the
                splits were made for.
        """
        keys = {"format", "labels_sha256", *SPLITS}
        if set(data) != keys or data["format"] != FORMAT:
            raise DataError(f"stored splits must have format {FORMAT} and the keys {sorted(keys)}, not {sorted(data)}")
        found = hash_labels(labels)
        if data["labels_sha256"] != found:
            raise DataError(
                f"the stored splits belong to other data: their labels have sha256 {data['labels_sha256'][:12]}, "
                f"these {len(labels)} images have {found[:12]}; give the run its own data, or start a new run"
            )
        parts = {split: np.asarray(data[split], dtype=np.int64) for split in SPLITS}
        everything = np.concatenate(list(parts.values()))
        if len(np.unique(everything)) != len(everything) or everything.min() < 0 or everything.max() >= len(labels):
            raise DataError(f"the stored splits overlap or leave 0..{len(labels) - 1}; start a new run")
        return cls(**parts, labels_sha256=found)


def hash_labels(labels: Indices) -> str:
    """The sha256 of the labels as 64-bit integers, in hexadecimal digits."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def make_splits(labels: Indices, classes: Sequence[str], *, num_test: int, config: DataConfig) -> Splits:
    """Split by class, at random.

    Args:
        labels: Class of each image, shape ``(N,)``.
        classes: Names, for messages.
        num_test: The last so many images are the data set's own test set; with 0 it is carved out of the others.

    Raises:
        DataError: If a class has too few images, or the shares leave none for training.
    """
    rng = np.random.default_rng(config.seed)
    num_pool = len(labels) - num_test
    shares = {"calibration": config.calibration_share, "search": config.search_share, "test": config.test_share}
    if num_test:
        del shares["test"]
    counts = np.bincount(labels[:num_pool], minlength=len(classes))
    needed = len(shares) + 1
    if counts.min() < needed:
        rarest = int(counts.argmin())
        raise DataError(
            f"class {classes[rarest]!r} has {counts[rarest]} images to be split into train, {', '.join(shares)}; "
            f"it needs at least {needed}: add images or leave the class out"
        )
    order = _stratified_order(labels[:num_pool], rng)
    parts = {}
    for split, share in shares.items():
        num = int(share) if share >= 1 else max(1, round(share * num_pool))
        parts[split], order = order[:num], order[num:]
    if num_test:
        parts["test"] = num_pool + _stratified_order(labels[num_pool:], rng)
    train = order[: config.limit]
    present = np.bincount(labels[train], minlength=len(classes)) > 0
    if not present.all():
        absent = classes[int(present.argmin())]
        asked = ", ".join(f"{split}_share {share}" for split, share in shares.items())
        raise DataError(
            f"{len(train)} of {num_pool} images are left for training and none of class {absent!r} "
            f"({asked}, limit {config.limit}); lower the shares or raise the limit"
        )
    return Splits(train=train, **parts, labels_sha256=hash_labels(labels))


def _stratified_order(labels: Indices, rng: np.random.Generator) -> Indices:
    """A random order in which every run of consecutive images holds the classes in proportion.

    The images of a class of ``n``, shuffled, stand at positions ``(0 + u) / n, (1 + u) / n, ...`` of the unit interval,
    with one random ``u`` per class (systematic sampling).
    """
    positions = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        positions[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(positions, kind="stable").astype(np.int64)
