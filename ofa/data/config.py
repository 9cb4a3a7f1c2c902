"""What a run says about its data, and the error for what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from ofa.errors import OfaError, unknown_name_message

Fit: TypeAlias = Literal["crop", "letterbox", "squash"]
CropFrom: TypeAlias = Literal["original", "stored"]
Interpolation: TypeAlias = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
MAX_CHANNELS = 4
AUTO_AUGMENTS = ("none", "rand_augment", "trivial_augment")
TIMM = "timm:"  # before the name of what is timm's own

_OF_TIMM: Mapping[str, Any] = {"crop_scale": 0.08, "crop_padding": 0.0, "horizontal_flip": True, "cutmix": 1.0}
AUGMENTATIONS: Mapping[str, Mapping[str, Any]] = {
    "timm:a1": {**_OF_TIMM, "mixup": 0.2, "auto_augment": "timm:rand-m7-mstd0.5-inc1"},
    "timm:a2": {**_OF_TIMM, "mixup": 0.2, "auto_augment": "timm:rand-m7-mstd0.5-inc1"},
    "timm:a3": {**_OF_TIMM, "mixup": 0.1, "auto_augment": "timm:rand-m6-mstd0.5-inc1"},
}
"""Of Wightman et al., ResNet strikes back, arXiv:2110.00476, table 2."""


class DataError(OfaError, ValueError):
    """A data set is missing, broken, or does not fit what is asked of it."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, how it is split, and how training images are varied.

    A *share* below 1 is that part of the images that the split is carved out of, but not more than 4,096 for
    calibration, 10,000 to search and 50,000 to test; 1 or more is a number of images.

    Args:
        name: ``digits``, ``folder``, ``idx``, ``imagenet``, ``manifest``, ``parquet``, ``shards``, or a data set of
            timm's with its prefix, ``torch/cifar10``; ``texts`` for tasks of texts, ``sounds`` for those of recordings.
        root: Where the files are; ``digits`` needs none.
        calibration_share: Images set apart for BN statistics and INT8 ranges; ``None``: training images serve.
        search_share: Images that candidates are compared on.
        test_share: Images for the last word; unused where the data set has a test set of its own.
        seed: Decides the splits.
        balance: How often rare classes are trained on: 0 as often as they occur, 1 as often as any other class, between
            them in proportion to their number to the power of ``1 - balance``. An epoch has as many images as before.
        limit: At most this many training images, classes in proportion, for quick runs.
        skip_broken: Leave images that cannot be read out of their splits; otherwise they are an error.
        image_column: Parquet column that holds encoded images.
        path_column: Column of a manifest that holds the paths of image files.
        text_column: Column that holds texts.
        label_column: Column that holds integers or strings. Of a file of texts whose first line names no columns, both
            are numbers, counted from 0.
        split_column: Column of a manifest that says ``train``, ``val`` or ``test``, if it is there.
        group_column: Column that tells what an image belongs to, such as a patient: a group is never in two splits.
        groups_by_folder: Files are ``CLASS/GROUP/IMAGE``: folders of one name, in whatever class, are such a group.
        mean: Per channel, of pixels in 0..1 (one value serves all channels). ``None``: as the model's pretrained
            weights were trained, or else found on the training split.
        std: Likewise.
        fit: How a picture comes to the model's proportions: ``crop`` their largest centred rectangle, ``squash`` it, or
            ``letterbox`` it, the rest filled with ``ground``. ``None``: as the pretrained weights were trained, or else
            ``crop``; ``crop_pct`` and ``interpolation`` alike, or else 1 and ``bicubic``.
        crop_pct: Share of the sides of that rectangle, or of the picture, that is kept, as timm calls it.
        interpolation: Pillow's, for every change of size.
        ground: Grey value, or red, green and blue, from 0 to 255: what transparent pictures are laid onto, and what
            fills a letterbox.
        white: Value that is white in pictures of more than 8 bits a channel, as 4095 of a 12-bit camera; ``None`` is
            65,535 for whole numbers.
        crop_padding: Random shifts of training images, at most this share of their size.
        horizontal_flip: Whether training images are mirrored at random.
        crop_scale: Random crops of training images, enlarged to their size: at least this share of the area, sides as
            3 to 4 up to 4 to 3; 1 is no crop. Shifts are rarely wanted besides.
        crop_from: What these are taken out of: the ``original`` picture, so that they are enlarged only where they are
            smaller than the input, decoded anew in each epoch; or the picture as ``stored``, shrunk to the largest
            input. ``None``: the original where training images do not fit into memory.
        num_workers: Processes that decode what does not fit into memory, in each process that trains; ``None``: one a
            core, at most 16.
        augmentation: That of a published recipe, ``timm:a1``, ``timm:a2`` or ``timm:a3``: it sets several of the keys
            here (:data:`AUGMENTATIONS`), which then must not be given other values besides.
        auto_augment: ``rand_augment`` (arXiv:1909.13719) or ``trivial_augment`` (arXiv:2103.10158), see
            :func:`~ofa.data.auto_augment.auto_augment`; or a policy of timm's, ``timm:rand-m9-mstd0.5-inc1``, see
            :mod:`ofa.data.timm_policy`.
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
    balance: float = 0.0
    limit: int | None = None
    skip_broken: bool = False
    image_column: str = "image"
    path_column: str = "path"
    text_column: int | str = "text"
    label_column: int | str = "label"
    split_column: str = "split"
    group_column: str | None = None
    groups_by_folder: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: Fit | None = None
    crop_pct: float | None = None
    interpolation: Interpolation | None = None
    ground: tuple[int, ...] = (255, 255, 255)
    white: float | None = None
    crop_padding: float = 0.125
    horizontal_flip: bool = False
    crop_scale: float = 1.0
    crop_from: CropFrom | None = None
    num_workers: int | None = None
    augmentation: str | None = None
    auto_augment: str = "none"
    auto_augment_magnitude: int = 9
    auto_augment_num_ops: int = 2
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        self._take_augmentation()
        for name in ("calibration_share", "search_share", "test_share"):
            share = getattr(self, name)
            if share is None and name == "calibration_share":
                continue
            holds = share > 0 and (share < 1 or share == int(share))
            self._check(name, holds, "a share between 0 and 1, or a whole number of images")
        holds = self.limit is None or self.limit >= 1
        self._check("limit", holds, "at least one training image, or none for no limit")
        self._check("balance", 0 <= self.balance <= 1, "0 for classes as they occur, up to 1 for all as often")
        self._check("seed", self.seed >= 0, "a number from 0 up")
        self._check("crop_padding", 0 <= self.crop_padding < 0.5, "a share of the image's size from 0 to below 0.5")
        self._check("crop_scale", 0 < self.crop_scale <= 1, "a share of the image's area above 0, up to 1")
        self._check("crop_from", self.crop_from in (None, *get_args(CropFrom)), "original, stored, or none")
        holds = self.num_workers is None or self.num_workers >= 0
        self._check("num_workers", holds, "0 for none but the process that trains, or more; none for one a core")
        holds = self.auto_augment in AUTO_AUGMENTS or self.timm_policy is not None
        advice = f"one of {', '.join(AUTO_AUGMENTS)}, or a policy of timm's as {TIMM}rand-m9-mstd0.5-inc1"
        self._check("auto_augment", holds, advice)
        self._check("auto_augment_magnitude", self.auto_augment_magnitude in range(31), "a whole number from 0 to 30")
        self._check("auto_augment_num_ops", self.auto_augment_num_ops >= 1, "at least 1, or auto_augment none for none")
        holds = self.crop_pct is None or 0 < self.crop_pct <= 1
        self._check("crop_pct", holds, "a share of the sides above 0, up to 1")
        holds = self.fit != "letterbox" or self.crop_pct in (None, 1)
        self._check("crop_pct", holds, "none with fit letterbox, which shows the whole picture")
        holds = len(self.ground) in (1, 3) and all(0 <= value <= 255 for value in self.ground)
        self._check("ground", holds, "a grey value, or red, green and blue, from 0 to 255")
        object.__setattr__(self, "ground", self.ground * (3 // len(self.ground)))
        self._check("white", self.white is None or self.white > 0, "the value that is white, above 0")
        self._check("random_erasing", 0 <= self.random_erasing <= 1, "a probability from 0 to 1")
        for name in ("mixup", "cutmix"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "an alpha from 0 (off) up")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            if not 1 <= len(values) <= MAX_CHANNELS or (name == "std" and min(values) <= 0):
                above = " above 0" if name == "std" else ""
                raise DataError(
                    f"{name} is {tuple(values)}; give one number{above} or one per channel, or none to compute it"
                )
            object.__setattr__(self, name, tuple(float(value) for value in values) * (3 if len(values) == 1 else 1))

    def _take_augmentation(self) -> None:
        """Set what a published augmentation sets."""
        known = self.augmentation is None or self.augmentation in AUGMENTATIONS
        self._check("augmentation", known, f"one of {', '.join(AUGMENTATIONS)}, or none")
        defaults = {field.name: field.default for field in fields(self)}
        for name, value in AUGMENTATIONS.get(self.augmentation or "", {}).items():
            given = getattr(self, name)
            if given not in (defaults[name], value):
                raise DataError(
                    f"{name} is {given!r}, but augmentation {self.augmentation} sets it to {value!r}; leave one of "
                    "them out"
                )
            object.__setattr__(self, name, value)

    @property
    def timm_policy(self) -> str | None:
        """A policy of timm's, in its words."""
        return self.auto_augment.removeprefix(TIMM) if self.auto_augment.startswith(TIMM) else None

    def _check(self, name: str, holds: bool, advice: str) -> None:
        if not holds:
            raise DataError(f"{name} is {getattr(self, name)!r}; give {advice}")

    def check_kind(self, what: str, readers: Collection[str], keys: Collection[str]) -> None:
        """:class:`DataError` if the data is none of these, or if something is asked of pictures.

        Args:
            what: Its samples are.
            keys: That say something of them.
        """
        if self.name not in readers:
            known = unknown_name_message(f"data set of {what}", self.name, readers)
            raise DataError(f"{known}; set data.name={next(iter(readers))} and data.root")
        for field in fields(self):
            if field.name not in keys and getattr(self, field.name) != field.default:
                raise DataError(f"data.{field.name} is for pictures, but the data is {what}; leave it out")

    @property
    def mixes(self) -> bool:
        """Whether training batches give shares of classes instead of labels."""
        return self.mixup > 0 or self.cutmix > 0
