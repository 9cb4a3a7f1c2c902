"""How much a digit is worth: one number for each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ofa.config import ConfigError
from ofa.data import ImageData
from ofa.errors import UsageError
from ofa.metrics import METRICS, Metric, Score
from ofa.tasks.image_feed import ImageFeed
from ofa.tasks.image_task import ImageTask
from ofa.tasks.task import Card, Sizes

from .regression_loss import Distance


@dataclass(frozen=True, kw_only=True)
class Worth(ImageTask):
    """Images in, ``(N, 1)`` out; targets ``(N,)`` are the digits."""

    losses = (Distance,)

    @property
    def metric(self) -> Metric:
        return METRICS["off_by_digits"]

    def num_classes(self, data: Any) -> int:
        return 1

    def teaching(self, outputs: Tensor) -> Tensor:
        return outputs.detach()

    def scorer(self, data: Any) -> Distances:
        return Distances()

    def feed(self, data: ImageData, sizes: Sizes, *, from_pixels: bool = False) -> ImageFeed:
        return ImageFeed(data, sizes["resolution"], from_pixels, ("digits", "digits"), torch.clone)

    def check_labels(self, labels: Sequence[Any], classes: Sequence[str]) -> None:
        if not all(label in range(10) for label in labels):
            raise ConfigError("sample_labels must be digits")

    @property
    def predict_script(self) -> Path:
        return Path(__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        value = info[self.metric.name]["value"]
        return Card(
            what="It reads digits",
            input=self.picture(info["preprocessing"]),
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
