"""Four splits: train, calibration, search, test; disjoint, but for a calibration split that is a part of train."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ofa.data.config import DataConfig, DataError
from ofa.data.identity import REMEDY, Identity
from ofa.errors import shown, unknown_name_message
from ofa.files import FORMAT

Indices: TypeAlias = npt.NDArray[np.int64]

SPLITS = ("train", "calibration", "search", "test")


NUM_CALIBRATION_IMAGES = 1024
"""Training images that calibrate where no share of all images is set apart for it."""
MOST = {"calibration": 4_096, "search": 10_000, "test": 50_000}
"""That a share comes to, of however many images: more tell nothing more."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Image indices of each split, shape ``(n,)``; any run of consecutive ones holds the classes in proportion.

    Args:
        calibration: The first images of ``train``, or images of its own.
        identity: Of all samples; runs of old lack it.
    """

    train: Indices
    calibration: Indices
    search: Indices
    test: Indices
    labels_sha256: str
    identity: Identity | None = None

    @property
    def distinct(self) -> tuple[str, ...]:
        """The splits that share no image: without ``calibration`` where it is the beginning of ``train``."""
        num = len(self.calibration)
        is_part = np.array_equal(self.calibration, self.train[:num])
        return tuple(split for split in SPLITS if split != "calibration" or not is_part)

    def __getitem__(self, split: str) -> Indices:
        if split not in SPLITS:
            raise DataError(unknown_name_message("split", split, SPLITS))
        indices: Indices = getattr(self, split)
        return indices

    def to_json(self) -> dict[str, Any]:
        """The splits as JSON data, with what tells the samples that they were made for."""
        indices = {split: self[split].tolist() for split in SPLITS}
        identity = {} if self.identity is None else {"identity": self.identity.to_json()}
        return {"format": FORMAT, "labels_sha256": self.labels_sha256, **indices, **identity}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], labels: Indices) -> Splits:
        """The inverse of :meth:`to_json`.

        Raises:
            DataError: If a key is missing, indices overlap or are out of range, or ``labels`` are not those that the
                splits were made for.
        """
        keys = {"format", "labels_sha256", *SPLITS}
        if not isinstance(data, Mapping) or set(data) - {"identity"} != keys or data["format"] != FORMAT:
            raise DataError(f"stored splits must have format {FORMAT} and the keys {sorted(keys)}, not {shown(data)}")
        found = hash_labels(labels)
        if data["labels_sha256"] != found:
            raise DataError(
                f"the stored splits belong to other data: their labels have sha256 {shown(data['labels_sha256'])}, "
                f"these {len(labels)} images have {found!r}; {REMEDY}"
            )
        identity = Identity.from_json(data["identity"]) if "identity" in data else None
        for split in SPLITS:
            if not isinstance(data[split], list) or not all(type(index) is int for index in data[split]):
                raise DataError(f"the stored splits must list whole numbers, not {shown(data[split])}; start a new run")
        parts = {split: np.array(data[split], dtype=np.int64) for split in SPLITS}
        splits = cls(**parts, labels_sha256=found, identity=identity)
        everything = np.concatenate([splits[split] for split in splits.distinct])
        if len(np.unique(everything)) != len(everything) or everything.min() < 0 or everything.max() >= len(labels):
            raise DataError(f"the stored splits overlap or leave 0..{len(labels) - 1}; start a new run")
        return splits


def hash_labels(labels: Indices) -> str:
    """The sha256 of the labels as 64-bit integers, in hexadecimal digits."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def make_splits(
    labels: Indices,
    classes: Sequence[str],
    *,
    num_test: int,
    config: DataConfig,
    groups: npt.NDArray[np.generic] | None = None,
    what: str = "images",
    is_open: bool = False,
) -> Splits:
    """Split by class, at random.

    Args:
        labels: Class of each image, shape ``(N,)``.
        classes, what: Names of classes and of what has them, for messages.
        num_test: The last so many images are the data set's own test set; with 0 it is carved out of the others.
        groups: What each image belongs to, shape ``(N,)``; images of one group stay together.
        is_open: The data set's own test set may have classes that are nowhere else, and that come last.

    Raises:
        DataError: If a class has too few images or groups, or is in the data set's own test set only, the shares leave
            none for training, or a group is in the data set's own test set and outside.
    """
    rng = np.random.default_rng(config.seed)
    num_pool = len(labels) - num_test
    if is_open:
        classes = classes[: int(labels[:num_pool].max()) + 1]
    elif len(strangers := np.setdiff1d(labels[num_pool:], labels[:num_pool])):
        known = [classes[label] for label in np.unique(labels[:num_pool])]
        raise DataError(unknown_name_message("class in the test set", classes[strangers[0]], known))
    pool, shares = labels[:num_pool], _shares(config, num_test)
    sizes = {
        split: int(share) if share >= 1 else min(MOST[split], max(1, round(share * num_pool)))
        for split, share in shares.items()
    }
    if groups is None:
        _check_enough(np.bincount(pool, minlength=len(classes)), what, classes, shares)
        order = _stratified_order(pool, rng)
        *parts, order = np.split(order, np.cumsum([*sizes.values()]))
        found = dict(zip(sizes, parts, strict=True))
    else:
        _check_own_test(groups[:num_pool], groups[num_pool:], what)
        found = _split_groups(pool, groups[:num_pool], classes, sizes, rng)
        order = found.pop("train")
    if num_test:
        found["test"] = num_pool + _stratified_order(labels[num_pool:], rng)
    train = order[: config.limit]
    if len(missing := np.setdiff1d(pool, labels[train])):
        absent = classes[int(missing[0])]
        asked = ", ".join(f"{split}_share {share}" for split, share in shares.items())
        raise DataError(
            f"{len(train)} of {num_pool} {what} are left for training and none of class {absent!r} "
            f"({asked}, limit {config.limit}); lower the shares or raise the limit"
        )
    found.setdefault("calibration", train[:NUM_CALIBRATION_IMAGES])
    kept: dict[str, Any] = {"train": train, **found}
    return Splits(**kept, labels_sha256=hash_labels(labels))


def _shares(config: DataConfig, num_test: int) -> dict[str, float]:
    """What is carved out of the images that are not the data set's own test set."""
    shares = {"calibration": config.calibration_share, "search": config.search_share}
    if not num_test:
        shares["test"] = config.test_share
    return {split: share for split, share in shares.items() if share is not None}


def _check_enough(counts: Indices, what: str, classes: Sequence[str], shares: Mapping[str, float]) -> None:
    needed, present = len(shares) + 1, np.flatnonzero(counts)  # a list of classes may be longer than what is there
    rarest = int(present[counts[present].argmin()])
    if counts[rarest] < needed:
        raise DataError(
            f"class {classes[rarest]!r} has {counts[rarest]} {what} to be split into train, {', '.join(shares)}; "
            f"it needs at least {needed}: add {what} or leave the class out"
        )


def _check_own_test(outside: npt.NDArray[np.generic], test: npt.NDArray[np.generic], what: str) -> None:
    both = np.intersect1d(outside, test)
    if len(both):
        more = f" (and {len(both) - 1} more groups)" if len(both) > 1 else ""
        raise DataError(
            f"group {shown(both[0].item())}{more} has {(test == both[0]).sum()} {what} in the data set's own test set "
            f"and {(outside == both[0]).sum()} outside; move all of a group to one side"
        )


def _split_groups(
    labels: Indices,
    groups: npt.NDArray[np.generic],
    classes: Sequence[str],
    sizes: Mapping[str, int],
    rng: np.random.Generator,
) -> dict[str, Indices]:
    """Give each group to the split that lacks its images most; ``train`` is what ``sizes`` leave.

    The largest groups come first. Each goes where the sum over classes of ``(images - wanted)^2 / wanted`` grows least;
    but as soon as a class has no more groups left than splits lack it, these get them.
    """
    ids, group_of, counts = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(counts)[:-1])
    held = [np.unique(labels[each], return_counts=True) for each in members]
    left = np.bincount(np.concatenate([own for own, _ in held]), minlength=len(classes))  # groups that hold a class
    _check_enough(left, "groups", classes, sizes)
    splits = [*sizes, "train"]
    shares = np.array([*sizes.values(), len(labels) - sum(sizes.values())]) / len(labels)
    wanted = np.outer(shares, np.bincount(labels, minlength=len(classes)))
    have, chosen = np.zeros_like(wanted), np.empty(len(ids), dtype=np.int64)
    order = rng.permutation(len(ids))
    for group in order[np.argsort(-counts[order], kind="stable")]:
        own, num = held[group]
        lacking = have[:, own] == 0
        must = (lacking & (left[own] <= lacking.sum(axis=0))).any(axis=1)
        growth = (num * (2 * (have - wanted)[:, own] + num) / np.maximum(wanted[:, own], 1)).sum(axis=1)
        chosen[group] = np.where(must | ~must.any(), growth, np.inf).argmin()
        have[chosen[group], own] += num
        left[own] -= 1
    found = {split: np.flatnonzero(chosen[group_of] == index) for index, split in enumerate(splits)}
    return {split: indices[_stratified_order(labels[indices], rng)] for split, indices in found.items()}


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
