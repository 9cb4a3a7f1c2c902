"""What tasks have in common whose inputs are images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ofa.data import DataConfig, DataError, ImageData, Preprocessing, load_data
from ofa.data.readers.source import DECODING_ERRORS, FORMATS
from ofa.progress import Progress
from ofa.tasks.image_feed import ImageFeed
from ofa.tasks.predict_class import preprocess
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
        sizes: Sizes,
        splits: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> ImageData:
        return load_data(config, image_size=sizes["resolution"], splits=splits, progress=progress)

    def reload(
        self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Progress | None = None
    ) -> ImageData:
        config = dataclasses.replace(config, mean=tuple(stored["mean"]), std=tuple(stored["std"]))
        return self.load(config, sizes=sizes, splits=stored["splits"], progress=progress)

    def facts(self, data: ImageData) -> dict[str, Any]:
        return {
            "num_train": len(data.splits.train),
            "mean": list(data.mean),
            "std": list(data.std),
            "splits": data.splits.to_json(),
        }

    def batches(
        self, data: ImageData, split: str, *, batch_size: int, sizes: Sizes, device: torch.device | str | None = None
    ) -> Batches:
        return data.batches(split, batch_size=batch_size, image_size=sizes["resolution"], device=device)

    def train_batches(self, data: ImageData, **settings: Any) -> Batches:
        return data.train_batches(**settings)

    def feed(self, data: ImageData, sizes: Sizes, *, from_pixels: bool = False) -> ImageFeed:
        return ImageFeed(data, sizes["resolution"], from_pixels)

    def read_input(self, file: Path, spec: Preprocessing, *, stored: bool = False) -> Array:
        size = (spec.resize[0],) * 2
        try:
            if not file.is_file():  # a pipe, say, which would be waited for
                raise ValueError("it is no regular file")
            with Image.open(file, formats=["PNG"] if stored else FORMATS) as image:
                if stored and image.size != size:  # known before anything is decompressed
                    raise ValueError(f"it has {image.size} pixels, not {size}")
                return preprocess(image, dataclasses.asdict(spec))
        except DECODING_ERRORS as error:
            remedy = "export the bundle again" if stored else "take it out"
            raise DataError(f"{file} is no picture that can be read ({error}); {remedy}") from None

    def picture(self, spec: Mapping[str, Any]) -> str:
        """What an input is made of, for a model card."""
        side = spec["input_size"][-1]
        return f"a {spec['color']} picture of {side} × {side} pixels"
