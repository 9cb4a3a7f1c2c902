"""What tasks have in common whose inputs are images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ofa.config import ConfigError, Record, check_record
from ofa.data import DataConfig, DataError, ImageData, Preprocessing, load_data
from ofa.data.config import Fit, Interpolation
from ofa.data.picture import FORMATS, open_picture, to_input
from ofa.data.readers import read_source
from ofa.data.readers.source import DECODING_ERRORS, Source, undecodable
from ofa.inputs import InputSpec
from ofa.progress import Progress
from ofa.tasks import predict_outputs
from ofa.tasks.image_feed import ImageFeed
from ofa.tasks.task import Array, Batches, Sizes, Task


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """Base of the tasks with one image in, ``(N, C, H, W)``; the only size is ``resolution``."""

    preprocessing = Preprocessing
    sample_suffix = ".png"

    def load(
        self,
        config: DataConfig,
        *,
        inputs: InputSpec,
        sizes: Sizes,
        progress: Progress | None = None,
        **settings: Any,
    ) -> ImageData:
        """See :meth:`Task.load`; ``settings`` are those of :func:`ofa.data.load_data`."""
        channels, *proportions = inputs.example.tensors[0].shape[1:]
        return self._load(config, sizes, (channels, *proportions), progress=progress, **settings)

    def source(self, config: DataConfig) -> Source:
        """The data set before it is split."""
        return read_source(config)

    def settled(self, config: DataConfig) -> DataConfig:
        """With what is left open and not the same for all tasks."""
        return config

    def _load(self, config: DataConfig, sizes: Sizes, shape: Sequence[int], **settings: Any) -> ImageData:
        channels, height, width = shape
        source = settings.pop("source", None) or self.source(config)
        return load_data(
            self.settled(config),
            image_size=int(sizes["resolution"]),
            source=source,
            channels=channels,
            proportions=(height, width),
            **settings,
        )

    def reload(
        self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Progress | None = None
    ) -> ImageData:
        facts = check_record(_Facts, stored, where="data of the run", remedy="train it again")
        settled = {name: getattr(facts, name) for name in ("mean", "std", "fit", "crop_pct", "interpolation")}
        config = dataclasses.replace(config, **settled)
        return self._load(config, sizes, facts.input_shape, splits=stored["splits"], progress=progress)

    def facts(self, data: ImageData) -> dict[str, Any]:
        return {
            "num_train": len(data.splits.train),
            "mean": list(data.mean),
            "std": list(data.std),
            "fit": data.look["fit"],
            "crop_pct": data.look["crop_pct"],
            "interpolation": data.look["interpolation"],
            "input_shape": [data.channels, *data.proportions],
            "splits": data.splits.to_json(),
        }

    def batches(
        self, data: ImageData, split: str, *, batch_size: int, sizes: Sizes, device: torch.device | str | None = None
    ) -> Batches:
        return data.batches(split, batch_size=batch_size, image_size=int(sizes["resolution"]), device=device)

    def train_batches(self, data: ImageData, **settings: Any) -> Batches:
        return data.train_batches(**settings)

    def feed(self, data: ImageData, sizes: Sizes, *, from_pixels: bool = False) -> ImageFeed:
        return ImageFeed(data, int(sizes["resolution"]), from_pixels)

    def read_input(self, file: Path, spec: Preprocessing, *, stored: bool = False) -> Array:
        size = spec.sizes[0] if stored else None
        try:
            if not file.is_file():  # a pipe, say, which would be waited for
                raise ValueError("it is no regular file")
            picture = open_picture(file, ["PNG"] if stored else FORMATS, size=size)
            return to_input(picture, dataclasses.asdict(spec))
        except DECODING_ERRORS as error:
            raise DataError(undecodable(str(file), error, "export it again" if stored else "take it out")) from None

    @property
    def predict_script(self) -> Path:
        return Path(predict_outputs.__file__)

    def picture(self, spec: Mapping[str, Any]) -> str:
        """What an input is made of, for a model card."""
        height, width = spec["resize"][-1]
        return f"a {spec['color']} picture of {width} × {height} pixels"


@dataclass(frozen=True, kw_only=True)
class NamedClassesTask(ImageTask):
    """Base of the tasks of images whose outputs are of classes with names, which a run keeps."""

    def facts(self, data: ImageData) -> dict[str, Any]:
        return {"classes": list(data.classes), **super().facts(data)}

    def num_classes(self, data: ImageData) -> int:
        return data.num_classes

    def classes(self, data: ImageData) -> tuple[str, ...]:
        return data.classes


@dataclass(frozen=True, kw_only=True)
class _Facts(Record):
    """What a run keeps of its pictures; runs of old do not say the last four.

    Args:
        input_shape: Channels, and proportions of height and width.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: dict[str, Any]
    fit: Fit = "crop"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"
    input_shape: tuple[int, ...] = (3, 1, 1)

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ConfigError(f"input_shape must be channels, height and width, not {list(self.input_shape)}")
