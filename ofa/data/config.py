"""What a run says about its data, and the error for what is wrong with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ofa.errors import OfaError

AutoAugment: TypeAlias = Literal["none", "rand_augment", "trivial_augment"]


class DataError(OfaError, ValueError):
    """A data set is missing, broken, or does not fit what is asked of it."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, how it is split, and how training images are varied.

    A *share* below 1 is that part of the images that the split is carved out of; 1 or more is a number of images.

    Args:
        name: ``digits``, ``folder``, ``idx``, ``parquet``, or a data set of timm's with its prefix, ``torch/cifar10``.
        root: Where the files are; ``digits`` needs none.
        calibration_share: Images set apart for BN statistics and INT8 ranges; ``None``: training images serve.
        search_share: Images that candidates are compared on.
        test_share: Images for the last word; unused where the data set has a test set of its own.
        seed: Decides the splits.
        limit: At most this many training images, classes in proportion, for quick runs.
        image_column: Parquet column that holds encoded images.
        label_column: Parquet column that holds integers or strings.
        group_column: Column that tells what an image belongs to, such as a patient: a group is never in two splits.
        groups_by_folder: Files are ``CLASS/GROUP/IMAGE``: folders of one name, in whatever class, are such a group.
        mean: Per channel, of pixels in 0..1 (one value serves all channels); found on the training split if ``None``.
        std: Likewise.
        crop_padding: Random shifts of training images, at most this share of their size.
        horizontal_flip: Whether training images are mirrored at random.
        crop_scale: Random crops of training images, enlarged to their size: at least this share of the area, sides as
            3 to 4 up to 4 to 3; 1 is no crop. Shifts are rarely wanted besides.
        auto_augment: ``rand_augment`` (arXiv:1909.13719) or ``trivial_augment`` (arXiv:2103.10158); see
            :func:`~ofa.data.auto_augment.auto_augment`.
        auto_augment_magnitude: Strength of RandAugment's operations, from 0 to 30; TrivialAugment draws its own.
        auto_augment_num_ops: RandAugment's operations per training image; TrivialAugment has one.
        random_erasing: Probability that a box of a training image is filled with the mean (arXiv:1708.04896).
        mixup: Training images are mixed in proportions from Beta(alpha, alpha) of this alpha (arXiv:1710.09412); 0 is
            off.
        cutmix: Likewise, but a box of one image is put into the other (arXiv:1905.04899); with both on, each batch
            takes one of them at even odds.

    Raises:
        DataError: If a value is out of range.
    """

    name: str = "digits"
    root: str | None = None
    calibration_share: float | None = None
    search_share: float = 0.15
    test_share: float = 0.2
    seed: int = 0
    limit: int | None = None
    image_column: str = "image"
    label_column: str = "label"
    group_column: str | None = None
    groups_by_folder: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_padding: float = 0.125
    horizontal_flip: bool = False
    crop_scale: float = 1.0
    auto_augment: AutoAugment = "none"
    auto_augment_magnitude: int = 9
    auto_augment_num_ops: int = 2
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("calibration_share", "search_share", "test_share"):
            share = getattr(self, name)
            if share is None and name == "calibration_share":
                continue
            holds = share > 0 and (share < 1 or share == int(share))
            self._check(name, holds, "a share between 0 and 1, or a whole number of images")
        holds = self.limit is None or self.limit >= 1
        self._check("limit", holds, "at least one training image, or none for no limit")
        self._check("seed", self.seed >= 0, "a number from 0 up")
        self._check("crop_padding", 0 <= self.crop_padding < 0.5, "a share of the image's size from 0 to below 0.5")
        self._check("crop_scale", 0 < self.crop_scale <= 1, "a share of the image's area above 0, up to 1")
        policies = get_args(AutoAugment)
        self._check("auto_augment", self.auto_augment in policies, f"one of {', '.join(policies)}")
        self._check("auto_augment_magnitude", self.auto_augment_magnitude in range(31), "a whole number from 0 to 30")
        self._check("auto_augment_num_ops", self.auto_augment_num_ops >= 1, "at least 1, or auto_augment none for none")
        self._check("random_erasing", 0 <= self.random_erasing <= 1, "a probability from 0 to 1")
        for name in ("mixup", "cutmix"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "an alpha from 0 (off) up")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) not in (1, 3) or (name == "std" and min(values) <= 0):
                above = " above 0" if name == "std" else ""
                raise DataError(f"{name} is {tuple(values)}; give one or three numbers{above}, or none to compute it")
            object.__setattr__(self, name, tuple(float(value) for value in values) * (3 // len(values)))

    def _check(self, name: str, holds: bool, advice: str) -> None:
        if not holds:
            raise DataError(f"{name} is {getattr(self, name)!r}; give {advice}")

    @property
    def mixes(self) -> bool:
        """Whether training batches give shares of classes instead of labels."""
        return self.mixup > 0 or self.cutmix > 0
