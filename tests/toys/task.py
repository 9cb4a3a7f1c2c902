"""How much a digit is worth: one number for each picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ofa.data import DataConfig, ImageData, load_data
from ofa.errors import UsageError
from ofa.metrics import METRICS, Metric, Score
from ofa.tasks.image_feed import ImageFeed
from ofa.tasks.task import Batches, Card, Sizes, Task

from .regression_loss import Distance


@dataclass(frozen=True, kw_only=True)
class Worth(Task):
    """Images in, ``(N, 1)`` out; targets ``(N,)`` are the digits."""

    losses = (Distance,)

    @property
    def metric(self) -> Metric:
        return METRICS["off_by_digits"]

    def load(self, config: DataConfig, *, sizes: Sizes, splits: Any = None, progress: Any = None) -> ImageData:
        return load_data(config, image_size=sizes["resolution"], splits=splits, progress=progress)

    def reload(self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Any = None) -> ImageData:
        config = dataclasses.replace(config, mean=tuple(stored["mean"]), std=tuple(stored["std"]))
        return self.load(config, sizes=sizes, splits=stored["splits"], progress=progress)

    def facts(self, data: ImageData) -> dict[str, Any]:  # type: ignore[override]
        return {"mean": list(data.mean), "std": list(data.std), "splits": data.splits.to_json()}

    def num_classes(self, data: Any) -> int:
        return 1

    def batches(self, data: ImageData, split: str, *, batch_size: int, sizes: Sizes, device: Any = None) -> Batches:
        return data.batches(split, batch_size=batch_size, image_size=sizes["resolution"], device=device)

    def train_batches(self, data: ImageData, **settings: Any) -> Batches:
        return data.train_batches(**settings)

    def teaching(self, outputs: Tensor) -> Tensor:
        return outputs.detach()

    def scorer(self, data: Any) -> Distances:
        return Distances()

    def feed(self, data: ImageData, sizes: Sizes, *, from_pixels: bool = False) -> ImageFeed:
        return ImageFeed(data, sizes["resolution"], from_pixels)

    @property
    def predict_script(self) -> Path:
        return Path(__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        value = info[self.metric.name]["value"]
        return Card(
            what="It reads digits",
            pipeline_tag="image-to-number",
            metric="mae",
            metric_title=self.metric.title,
            metric_value=value,
        )


class Distances:
    """How far the outputs are from the targets, on average."""

    def __init__(self) -> None:
        self._seen: list[float] = []

    @property
    def num_images(self) -> int:
        return len(self._seen)

    def update(self, outputs: Any, targets: Any) -> None:
        self._seen += abs(outputs[:, 0] - targets).tolist()

    def value(self) -> float:
        if not self._seen:
            raise UsageError("a distance needs at least one image")
        return float(np.mean(self._seen))

    def score(self) -> Score:
        value, reach = self.value(), 1.96 * float(np.std(self._seen)) / self.num_images**0.5
        return Score(value=value, low=value - reach, high=value + reach, num_images=self.num_images)
