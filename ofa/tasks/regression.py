"""Regression: one number for each image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ofa.config import Record, check_record
from ofa.data import DataConfig, ImageData
from ofa.data.answers import with_numbers
from ofa.data.readers import read_source
from ofa.data.readers.source import Source
from ofa.errors import UsageError
from ofa.inputs import InputSpec
from ofa.metrics import MEAN_ABSOLUTE_ERROR, Metric, Score
from ofa.progress import Progress, notice
from ofa.tasks.answer_section import Answer, section_of_answers
from ofa.tasks.answers import check_plain_images, labelled_pictures, mean_score
from ofa.tasks.image_feed import ImageFeed, Images
from ofa.tasks.image_task import ImageTask
from ofa.tasks.losses.distance import Distance
from ofa.tasks.task import Card, Exhibit, Samples, Section, Sizes

SCALE = "scale"


@dataclass(frozen=True, kw_only=True)
class Regression(ImageTask):
    """Images in, one number ``(N, 1)`` out; targets are the numbers that labels are, ``(N,)``.

    Networks learn numbers less their mean in the training split, divided by their standard deviation there; what is
    shipped gives them as they are in the data.

    Args:
        unit: What the numbers count, for people: ``years``.
    """

    unit: str = ""

    losses = (Distance,)
    is_wrapped = True

    @property
    def metric(self) -> Metric:
        return dataclasses.replace(MEAN_ABSOLUTE_ERROR, symbol=self.unit)

    def check_settings(self, data: DataConfig, *, pretrained: bool) -> None:
        check_plain_images(self.name, data)

    # -- models ------------------------------------------------------------------------------------------------------

    def num_classes(self, data: ImageData) -> int:
        return 1

    def outputs(self, given: Tensor, targets: Tensor) -> Tensor:
        return given[:, 0]

    # -- data --------------------------------------------------------------------------------------------------------

    def source(self, config: DataConfig) -> Source:
        return with_numbers(read_source(config))

    def load(
        self, config: DataConfig, *, inputs: InputSpec, sizes: Sizes, progress: Progress | None = None, **settings: Any
    ) -> ImageData:
        data = super().load(config, inputs=inputs, sizes=sizes, progress=progress, **settings)
        assert data.source.targets is not None
        numbers = data.source.targets[data.splits.train]
        spread = f"{numbers.min():g} to {numbers.max():g}, {numbers.mean():.4g} on average"
        notice(progress, f"numbers to learn are {spread} {self.unit}".rstrip())
        return dataclasses.replace(data, scale=(float(numbers.mean()), float(numbers.std()) or 1.0))

    def reload(
        self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Progress | None = None
    ) -> ImageData:
        own, rest = ({key: stored[key] for key in stored if (key == SCALE) is here} for here in (True, False))
        facts = check_record(_Facts, own, where="data of the run", remedy="train it again")
        data = super().reload(config, rest, sizes=sizes, progress=progress)
        return dataclasses.replace(data, scale=facts.scale)

    def facts(self, data: ImageData) -> dict[str, Any]:
        return {**super().facts(data), SCALE: list(data.scale)}

    # -- learning and judging ----------------------------------------------------------------------------------------

    def teaching(self, outputs: Tensor) -> Tensor:
        """The teacher's numbers ``(N,)``."""
        return outputs.detach().float()

    def scorer(self, data: Any) -> DistanceScorer:
        return DistanceScorer(1.0 if data is None else data.scale[1])

    def details(self, scorer: Any, data: Any) -> dict[str, Any]:
        return {"root_mean_square_error": round(scorer.root_mean_square, 6)}

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: ImageData, sizes: Sizes, *, from_pixels: bool = False) -> NumberFeed:
        return NumberFeed(data, int(sizes["resolution"]), from_pixels, ("number", "number"), nn.Identity())

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[Path, float]]:
        """Pictures that a table names, each with its number."""
        files, source = labelled_pictures(folder, with_numbers)
        assert source.targets is not None
        return list(zip(files, source.targets.tolist(), strict=True))

    def card(self, info: Mapping[str, Any]) -> Card:
        return Card(
            what="A network that says a number" + f" ({self.unit})" * bool(self.unit),
            input=self.picture(info["preprocessing"]),
            pipeline_tag="image-feature-extraction",
            metric="mae",
            metric_title=self.metric.label,
            metric_value=info[self.metric.name]["value"],
        )

    def report_section(self, bundles: Sequence[Exhibit]) -> Section | None:
        def answer(outputs: npt.NDArray[np.float64], label: float, info: Mapping[str, Any]) -> Answer:
            number = float(outputs.ravel()[0])
            return Answer(f"{number:.4g} {self.unit}".strip(), distance=abs(number - label))

        return section_of_answers(bundles, answer, lambda label, info: f"{label:.6g} {self.unit}".strip())


@dataclass(frozen=True, kw_only=True)
class _Facts(Record):
    """What a run keeps of its numbers."""

    scale: tuple[float, float]


class DistanceScorer:
    """Mean absolute error.

    Args:
        scale: What distances are multiplied by, to be in the units of the data.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self._scale, self._errors = scale, np.zeros(0)

    @property
    def num_images(self) -> int:
        return len(self._errors)

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in numbers ``(N, 1)`` and what is right ``(N,)``."""
        found, right = (
            np.asarray(each.cpu() if isinstance(each, Tensor) else each, float) for each in (outputs, targets)
        )
        self._errors = np.concatenate([self._errors, self._scale * (found.reshape(len(right)) - right)])

    def value(self) -> float:
        if not self.num_images:
            raise UsageError("a mean error needs at least one image")
        return float(np.abs(self._errors).mean())

    @property
    def root_mean_square(self) -> float:
        return float(np.sqrt(np.mean(self._errors**2)))

    def score(self) -> Score:
        return mean_score(np.abs(self._errors))


@dataclass(frozen=True)
class NumberFeed(ImageFeed):
    """Images with numbers as they are in the data."""

    def wrap(self, network: nn.Module) -> nn.Module:
        return super().wrap(Scaled(network, *self.data.scale))

    def batches(self, split: str) -> Iterator[tuple[Images, npt.NDArray[Any]]]:
        numbers, start = self._numbers(split), 0
        for images, _ in super().batches(split):
            yield images, numbers[start : (start := start + len(images))]

    def samples(self, num: int) -> Samples:
        return super().samples(num)._replace(labels=tuple(self._numbers("test")[:num].tolist()))

    def _numbers(self, split: str) -> npt.NDArray[np.float64]:
        assert self.data.source.targets is not None
        return np.asarray(self.data.source.targets[self.data.splits[split]], np.float64)


class Scaled(nn.Module):
    """Numbers as they are in the data, of a network that gives them less their middle, divided by their spread."""

    def __init__(self, module: nn.Module, middle: float, spread: float) -> None:
        super().__init__()
        self.module, self.middle, self.spread = module, middle, spread
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images) * self.spread + self.middle
