"""Semantic segmentation: one of several classes for each pixel."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError, ImageData, Preprocessing
from ofa.data.masks import IGNORED, VOID, framed, indices_of, targets_of, with_void
from ofa.data.picture import open_picture
from ofa.data.readers.masks import Layout, read_masks
from ofa.data.readers.source import DECODING_ERRORS, Source, undecodable
from ofa.errors import UsageError
from ofa.inputs import tensors_in
from ofa.metrics import MIOU, Metric, Score
from ofa.tasks import predict_mask
from ofa.tasks.image_feed import ImageFeed, encoded_png
from ofa.tasks.image_task import NamedClassesTask
from ofa.tasks.losses import ClassLoss
from ofa.tasks.mask_section import section_of_masks
from ofa.tasks.one_output import OneOutput
from ofa.tasks.task import Array, Card, Exhibit, Samples, Section, Sizes

NUM_RESAMPLES = 1000
MASK_NAME = re.compile(r"samples/\d{3}-mask\.png")
IMAGES_ONLY: Mapping[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "auto_augment": "none", "balance": 0.0}
"""What masks cannot move along with, and what is off."""


@dataclass(frozen=True, kw_only=True)
class Segmentation(NamedClassesTask):
    """Images in, logits ``(N, num_classes, h, w)`` out, or some pytree that begins with them.

    Targets are class indices ``(N, H, W)`` at the largest resolution, ``IGNORED`` where a pixel is of no class; logits
    are brought to their size, bilinearly, before they are learnt from or judged, so that subnets of all resolutions are
    compared on the same pixels.

    Args:
        names: Of the classes, in the order of the indices; without any they are called by their indices.
        void: Indices that belong to no class, besides 255.
        images, masks: Names of the folders ``images`` and ``labels``, or of Parquet columns ``image`` and ``mask``.
    """

    names: tuple[str, ...] = ()
    void: tuple[int, ...] = (VOID,)
    images: str = ""
    masks: str = ""

    losses = (ClassLoss,)
    num_samples = 4  # each is as large as a picture, times the classes
    judged_together = 32
    num_calibration = 128  # of thousands of pixels each

    def __post_init__(self) -> None:
        if not all(0 <= index <= VOID for index in self.void):
            raise ConfigError(f"task.void must be indices from 0 to {VOID}, not {list(self.void)}")
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"task.names has one twice: {', '.join(self.names)}")

    @property
    def metric(self) -> Metric:
        return MIOU

    def check_settings(self, data: DataConfig, *, pretrained: bool) -> None:
        for name, off in IMAGES_ONLY.items():
            if getattr(data, name) != off:
                raise DataError(
                    f"data.{name} is not for task {self.name}, whose masks would not fit; leave it at {off}"
                )

    # -- models ------------------------------------------------------------------------------------------------------

    def check_outputs(self, output_type: str, shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        if len(shapes[0]) != 4 or shapes[0][1] != num_classes:
            raise ConfigError(
                f"it gives outputs of shape {tuple(shapes[0][1:])}, but task {self.name!r} takes ({num_classes}, "
                "height, width) for one image, first where there are several; let its function take num_classes"
            )

    def outputs(self, given: Any, targets: Tensor) -> Tensor:
        return _logits(given, targets.shape[-2:])

    # -- data --------------------------------------------------------------------------------------------------------

    def source(self, config: DataConfig) -> Source:
        return read_masks(config, Layout(self.images, self.masks, self.names, self.void))

    def settled(self, config: DataConfig) -> DataConfig:
        """The whole picture is seen, unless told otherwise, so that the whole picture gets a mask."""
        return config if config.fit else dataclasses.replace(config, fit="squash")

    # -- learning and judging ----------------------------------------------------------------------------------------

    def teaching(self, outputs: Tensor) -> Tensor:
        """The teacher's probabilities ``(N, num_classes, H, W)``."""
        return outputs.detach().float().softmax(dim=1)

    def scorer(self, data: Any) -> MaskScorer:
        return MaskScorer()

    def details(self, scorer: Any, data: Any) -> dict[str, Any]:
        """Intersection over union, class by class; ``None`` for one that occurs in neither masks nor outputs."""
        shares = scorer.shares
        return {
            "pixel_accuracy_percent": round(scorer.pixel_accuracy_percent, 4),
            "class_iou_percent": {
                name: None if np.isnan(share) else round(100 * float(share), 4)
                for name, share in zip(data.classes, shares, strict=True)
            },
        }

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: ImageData, sizes: Sizes, *, from_pixels: bool = False) -> MaskFeed:
        return MaskFeed(data, int(sizes["resolution"]), from_pixels, ("logits", "logits"), torch.clone)

    def check_labels(self, labels: Sequence[Any], classes: Sequence[str]) -> None:
        if not all(isinstance(label, str) and MASK_NAME.fullmatch(label) for label in labels):
            raise ConfigError("sample_labels must be files of masks: samples/000-mask.png")

    def label_files(self, labels: Sequence[Any]) -> tuple[str, ...]:
        return tuple(labels)

    def truth(self, labels: Sequence[Any], spec: Preprocessing, folder: Path) -> Array:
        found = [_read_mask(folder / label, self.void) for label in labels]
        frame = {"fit": spec.fit, "crop_pct": spec.crop_pct}
        masks = [framed(mask, (spec.sizes[0][0], spec.sizes[0][1]), **frame) for mask in found]  # type: ignore[arg-type]
        return targets_of(torch.from_numpy(np.stack(masks))).numpy()

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[Path, Path]]:
        """Pictures with their masks, in the folders that the task says."""
        config = DataConfig(name="folder", root=str(folder), test_share=1)
        source = read_masks(config, Layout(self.images, self.masks, tuple(classes), self.void))
        encoded: Any = source.images, source.masks
        pictures, masks = ([file.resolve() for file, _ in each.encoded] for each in encoded)
        return list(zip(pictures, masks, strict=True))

    @property
    def predict_script(self) -> Path:
        return Path(predict_mask.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        return Card(
            what=f"A network for semantic segmentation with {len(info['classes'])} classes",
            input=self.picture(info["preprocessing"]),
            pipeline_tag="image-segmentation",
            metric="mean_iou",
            metric_title="Mean IoU",
            metric_value=round(info[self.metric.name]["value"] / 100, 6),
        )

    def report_section(self, bundles: Sequence[Exhibit]) -> Section | None:
        return section_of_masks(bundles, self.void)


class MaskScorer:
    """Counts pixels, image by image: what two masks share and what each has.

    Mean intersection over union is over the classes that occur in masks or outputs of the whole set, each counted over
    all images together (PASCAL VOC's measure; torchmetrics' ``JaccardIndex`` gives the same).
    """

    def __init__(self) -> None:
        self._counts: list[npt.NDArray[np.int64]] = []  # (classes, 3): both, in the outputs, in the mask

    @property
    def num_images(self) -> int:
        return len(self._counts)

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in logits or probabilities ``(N, num_classes, h, w)`` and class indices ``(N, H, W)``."""
        targets = torch.as_tensor(targets)
        logits = _logits(outputs, targets.shape[-2:])
        num_classes, found = logits.shape[1], logits.argmax(dim=1)
        for own, wanted in zip(found.cpu().numpy(), targets.cpu().numpy(), strict=True):
            known = wanted != IGNORED
            own, wanted = own[known], wanted[known]
            pairs = np.bincount(own * num_classes + wanted, minlength=num_classes**2).reshape(num_classes, num_classes)
            self._counts.append(np.stack([np.diag(pairs), pairs.sum(axis=1), pairs.sum(axis=0)], axis=1))

    def value(self) -> float:
        if not self._counts:
            raise UsageError("intersection over union needs at least one image")
        return 100 * float(np.nanmean(self.shares))

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Of each class; not-a-number for one that occurs nowhere."""
        return _iou(np.sum(self._counts, axis=0)[None])[0]

    @property
    def pixel_accuracy_percent(self) -> float:
        both, _, wanted = np.sum(self._counts, axis=(0, 1))
        return 100 * float(both / wanted)

    def score(self) -> Score:
        """With a 95 % interval by bootstrap over images (Efron and Tibshirani 1993, sec. 13.3)."""
        value, counts = self.value(), np.stack(self._counts)
        weights = np.random.default_rng(0).multinomial(len(counts), [1 / len(counts)] * len(counts), size=NUM_RESAMPLES)
        drawn = np.nanmean(_iou(np.einsum("ri,ick->rck", weights, counts)), axis=1)
        low, high = np.percentile(100 * drawn, [2.5, 97.5])
        return Score(value=value, low=min(float(low), value), high=max(float(high), value), num_images=len(counts))


def _iou(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """From counts ``(R, classes, 3)`` to shares ``(R, classes)``."""
    both, own, wanted = np.moveaxis(counts, -1, 0)
    union = own + wanted - both
    return np.divide(both, union, out=np.full(union.shape, np.nan), where=union > 0)


def _logits(given: Any, size: Sequence[int]) -> Tensor:
    """The first tensor of what a model gives, at height and width."""
    logits = torch.as_tensor(given) if isinstance(given, np.ndarray | Tensor) else tensors_in(given)[0]
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


def _read_mask(file: Path, void: Sequence[int]) -> npt.NDArray[np.uint8]:
    try:
        return with_void(indices_of(open_picture(file), file.name), void)
    except DECODING_ERRORS as error:
        raise DataError(undecodable(str(file), error, "export it again")) from None


@dataclass(frozen=True)
class MaskFeed(ImageFeed):
    """Images with masks."""

    def wrap(self, network: nn.Module) -> nn.Module:
        return super().wrap(OneOutput(network))

    def samples(self, num: int) -> Samples:
        """The first test pictures and their masks, as PNG; both have the first of the preprocessing's sizes."""
        names = tuple(f"samples/{number:03}-mask.png" for number in range(num))
        rows = self.data.splits.test[:num]
        masks = [encoded_png(self.data.mask_of(int(row))) for row in rows]
        return (
            super().samples(num)._replace(labels=names[: len(rows)], label_files=dict(zip(names, masks, strict=False)))
        )
