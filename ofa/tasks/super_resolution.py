"""Super-resolution: a larger picture of each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError, ImageData, Preprocessing
from ofa.data.picture import open_picture
from ofa.data.readers import read_source
from ofa.data.readers.pictures import read_pictures
from ofa.data.readers.source import DECODING_ERRORS, Source, undecodable
from ofa.inputs import InputSpec
from ofa.metrics import PSNR, Metric, Score
from ofa.progress import Progress
from ofa.tasks import predict_enlarged
from ofa.tasks.answers import check_plain_images, mean_score
from ofa.tasks.image_feed import ImageFeed, Images, encoded_png
from ofa.tasks.image_task import ImageTask
from ofa.tasks.large_section import section_of_enlarged
from ofa.tasks.losses.distance import Distance
from ofa.tasks.task import Array, Batches, Card, Exhibit, Samples, Section, Sizes

LARGE_NAME = re.compile(r"samples/\d{3}-large\.png")
IMAGES_ONLY: Mapping[str, Any] = {"random_erasing": 0.0, "auto_augment": "none"}
"""What would have to be guessed, and what is off."""


@dataclass(frozen=True, kw_only=True)
class SuperResolution(ImageTask):
    """Images from 0 to 1 in, ``factor`` times as large ones ``(N, C, factor * H, factor * W)`` out; targets likewise.

    Pictures are brought to ``factor`` times the resolution of the model; what it is given is made of them by Pillow.

    Args:
        factor: How many times as high and wide pictures become.
    """

    factor: int = 2

    losses = (Distance,)
    num_samples = 8
    judged_together = 16

    def __post_init__(self) -> None:
        if not 2 <= self.factor <= 8:
            raise ConfigError(f"task.factor must be from 2 to 8, not {self.factor}")

    @property
    def metric(self) -> Metric:
        return PSNR

    def check_settings(self, data: DataConfig, *, pretrained: bool) -> None:
        check_plain_images(self.name, data)
        for name, off in IMAGES_ONLY.items():
            if getattr(data, name) != off:
                raise DataError(f"data.{name} leaves task {self.name} to guess what was there; leave it at {off}")

    # -- models ------------------------------------------------------------------------------------------------------

    def check_outputs(self, output_type: str, shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        if output_type != "Tensor" or len(shapes[0]) != 4 or shapes[0][1] != num_classes:
            raise ConfigError(
                f"it gives a {output_type} of shape {tuple(shapes[0][1:])}, but task {self.name!r} takes one tensor of "
                f"pictures of {num_classes} channels, {self.factor} times as high and wide as the input"
            )

    def outputs(self, given: Tensor, targets: Tensor) -> Tensor:
        if given.shape[-2:] != targets.shape[-2:]:
            raise ConfigError(
                f"the model makes pictures of {given.shape[-1]} × {given.shape[-2]} pixels, but task.factor "
                f"{self.factor} needs {targets.shape[-1]} × {targets.shape[-2]}; set it, or one model.resolution"
            )
        return given

    # -- data --------------------------------------------------------------------------------------------------------

    def source(self, config: DataConfig) -> Source:
        if config.name == "folder":
            return read_pictures(config)
        source = read_source(config)
        return dataclasses.replace(source, classes=(), labels=np.zeros_like(source.labels), is_target=True)

    def settled(self, config: DataConfig) -> DataConfig:
        """Pictures are taken from 0 to 1, unless told otherwise."""
        return dataclasses.replace(config, mean=config.mean or (0.0,), std=config.std or (1.0,))

    def load(
        self, config: DataConfig, *, inputs: InputSpec, sizes: Sizes, progress: Progress | None = None, **settings: Any
    ) -> ImageData:
        return super().load(config, inputs=inputs, sizes=self._large(sizes), progress=progress, **settings)

    def reload(
        self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Progress | None = None
    ) -> ImageData:
        return super().reload(config, stored, sizes=self._large(sizes), progress=progress)

    def _large(self, sizes: Sizes) -> dict[str, float]:
        return {"resolution": self.factor * sizes["resolution"]}

    def num_classes(self, data: ImageData) -> int:
        return data.channels

    def train_batches(self, data: ImageData, **settings: Any) -> Batches:
        return data.train_batches(image_size=data.image_size // self.factor, **settings)

    # -- learning and judging ----------------------------------------------------------------------------------------

    def teaching(self, outputs: Tensor) -> Tensor:
        """The teacher's pictures."""
        return outputs.detach().float()

    def scorer(self, data: Any) -> PictureScorer:
        return PictureScorer(is_thorough=data is None)

    def details(self, scorer: Any, data: Any) -> dict[str, Any]:
        return {"structural_similarity": round(float(np.mean(scorer.similarities)), 6)}

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: ImageData, sizes: Sizes, *, from_pixels: bool = False) -> LargeFeed:
        return LargeFeed(data, int(sizes["resolution"]), from_pixels, ("pixels", "pixels"), torch.clone)

    def check_labels(self, labels: Sequence[Any], classes: Sequence[str]) -> None:
        if not all(isinstance(label, str) and LARGE_NAME.fullmatch(label) for label in labels):
            raise ConfigError("sample_labels must be files of pictures: samples/000-large.png")

    def label_files(self, labels: Sequence[Any]) -> tuple[str, ...]:
        return tuple(labels)

    def truth(self, labels: Sequence[Any], spec: Preprocessing, folder: Path) -> Array:
        height, width = spec.sizes[-1]
        found = [_read(folder / label, spec.color, (self.factor * height, self.factor * width)) for label in labels]
        return np.stack([np.broadcast_to(each, (spec.channels, *each.shape[1:])) for each in found])

    @property
    def predict_script(self) -> Path:
        return Path(predict_enlarged.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        return Card(
            what=f"A network that makes pictures {self.factor} times as high and wide",
            input=self.picture(info["preprocessing"]),
            pipeline_tag="image-to-image",
            metric="psnr",
            metric_title=self.metric.label,
            metric_value=info[self.metric.name]["value"],
        )

    def report_section(self, bundles: Sequence[Exhibit]) -> Section | None:
        return section_of_enlarged(bundles)


class PictureScorer:
    """Mean over pictures of the peak signal-to-noise ratio, over all channels, values cut to 0 to 1.

    Args:
        is_thorough: Find the structural similarity too, which takes longer.
    """

    def __init__(self, *, is_thorough: bool = False) -> None:
        self._ratios_db: list[float] = []
        self.similarities: list[float] = []
        self._is_thorough = is_thorough

    @property
    def num_images(self) -> int:
        return len(self._ratios_db)

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in pictures from 0 to 1 ``(N, C, H, W)``, found and right."""
        found, right = (
            np.asarray(each.cpu() if isinstance(each, Tensor) else each, np.float64) for each in (outputs, targets)
        )
        found = found.clip(0, 1)
        self._ratios_db += [psnr_db(*pair) for pair in zip(found, right, strict=True)]
        if self._is_thorough:
            self.similarities += [structural_similarity(*pair) for pair in zip(found, right, strict=True)]

    def value(self) -> float:
        return float(np.mean(self._ratios_db))

    def score(self) -> Score:
        return mean_score(np.array(self._ratios_db))


def psnr_db(found: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Peak signal-to-noise ratio of values from 0 to 1; of equal pictures that of an error of 1e-6."""
    return float(-10 * np.log10(max(float(np.mean((found - right) ** 2)), 1e-12)))


def structural_similarity(found: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Of pictures ``(C, H, W)`` from 0 to 1, the mean over channels and pixels; beyond an edge they are mirrored.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity, 2004, eq. 13 to 16:
        Gaussian windows of 11 pixels with a standard deviation of 1.5, constants 0.01 and 0.03.
    """
    from scipy.ndimage import gaussian_filter

    def blurred(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(gaussian_filter(values, (0, 1.5, 1.5), radius=5, mode="mirror"))

    means = blurred(found), blurred(right)
    spread = blurred(found**2) - means[0] ** 2, blurred(right**2) - means[1] ** 2
    together = blurred(found * right) - means[0] * means[1]
    likeness = (2 * means[0] * means[1] + 0.01**2) * (2 * together + 0.03**2)
    likeness /= (means[0] ** 2 + means[1] ** 2 + 0.01**2) * (spread[0] + spread[1] + 0.03**2)
    return float(likeness.mean())


@dataclass(frozen=True)
class LargeFeed(ImageFeed):
    """Images as they are made smaller, and those that they are made of."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Of pictures that are as small as the network takes them: nothing is made smaller on the way."""
        spec = super().preprocessing
        return dataclasses.replace(spec, resize=spec.resize[-1:])

    def batches(self, split: str) -> Iterator[tuple[Images, Images]]:
        for images, large in self.data.batches(split, batch_size=32, image_size=self.resolution):
            yield self._inputs(images), large.numpy()

    def samples(self, num: int) -> Samples:
        """The first test pictures, small, and large as labels, as PNG."""
        steps, names = self.data.resize_steps(self.resolution), list[str]()
        small, large = list[bytes](), list[bytes]()
        for number, row in enumerate(self.data.splits.test[:num]):
            names.append(f"samples/{number:03}-large.png")
            for sizes, encoded in ((steps, small), (steps[:1], large)):
                pixels = self.data.pixels_of(int(row), sizes)
                encoded.append(encoded_png(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
        return Samples(small, tuple(names), dict(zip(names, large, strict=True)))


def _read(file: Path, mode: str, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A picture of a height and width, from 0 to 1 ``(C, H, W)``."""
    try:
        picture = open_picture(file, ["PNG"], size=size).convert(mode)
    except DECODING_ERRORS as error:
        raise DataError(undecodable(str(file), error, "export it again")) from None
    return np.asarray(picture, np.float32).reshape(*size, -1).transpose(2, 0, 1) / np.float32(255)
