"""Multi-label classification: which of several properties an image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError, ImageData
from ofa.data.answers import with_properties
from ofa.data.readers import read_source
from ofa.data.readers.source import Source
from ofa.errors import UsageError, unknown_name_message
from ofa.metrics import MEAN_AVERAGE_PRECISION, Metric, Score
from ofa.tasks import predict_properties
from ofa.tasks.answer_section import Answer, section_of_answers
from ofa.tasks.answers import check_plain_images, labelled_pictures
from ofa.tasks.image_feed import ImageFeed
from ofa.tasks.image_task import NamedClassesTask
from ofa.tasks.losses.each_class import EachClass
from ofa.tasks.predict_properties import NONE, THRESHOLD
from ofa.tasks.task import Card, Exhibit, Samples, Section, Sizes

NUM_RESAMPLES = 200

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MultilabelClassification(NamedClassesTask):
    """Images in, logits ``(N, num_classes)`` out; targets are 1 for each property that is there, 0 for the others.

    Args:
        separator: Between properties in a label: ``night;rain``.
    """

    separator: str = ";"

    losses = (EachClass,)

    def __post_init__(self) -> None:
        if not self.separator:
            raise ConfigError("task.separator must not be empty; give what stands between properties, such as ';'")

    @property
    def metric(self) -> Metric:
        return MEAN_AVERAGE_PRECISION

    def check_settings(self, data: DataConfig, *, pretrained: bool) -> None:
        check_plain_images(self.name, data)

    # -- data --------------------------------------------------------------------------------------------------------

    def source(self, config: DataConfig) -> Source:
        return with_properties(read_source(config), self.separator)

    # -- learning and judging ----------------------------------------------------------------------------------------

    def teaching(self, outputs: Tensor) -> Tensor:
        """The teacher's probabilities ``(N, num_classes)``."""
        return outputs.detach().float().sigmoid()

    def scorer(self, data: Any) -> PropertyScorer:
        return PropertyScorer()

    def details(self, scorer: Any, data: Any) -> dict[str, Any]:
        """Average precision of each property; ``None`` for one that no picture has."""
        return {
            "class_average_precision_percent": {
                name: None if np.isnan(value) else round(100 * float(value), 4)
                for name, value in zip(data.classes, scorer.each, strict=True)
            }
        }

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: ImageData, sizes: Sizes, *, from_pixels: bool = False) -> PropertyFeed:
        return PropertyFeed(data, int(sizes["resolution"]), from_pixels, activation=torch.sigmoid)

    def check_labels(self, labels: Sequence[Any], classes: Sequence[str]) -> None:
        if not all(isinstance(label, list) and len(label) == len(classes) and set(label) <= {0, 1} for label in labels):
            raise ConfigError(f"sample_labels must be 0 or 1 for each of the {len(classes)} classes")

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[Path, list[int]]]:
        """Pictures that a table names, each with its properties."""
        files, source = labelled_pictures(folder, lambda source: with_properties(source, self.separator))
        assert source.targets is not None
        if strangers := [name for name in source.classes if name not in classes]:
            raise DataError(f"{folder}: {unknown_name_message('class', strangers[0], classes)}")
        places = [classes.index(name) for name in source.classes]
        found = np.zeros((len(files), len(classes)), dtype=np.int64)
        found[:, places] = source.targets
        return list(zip(files, found.tolist(), strict=True))

    @property
    def predict_script(self) -> Path:
        return Path(predict_properties.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        return Card(
            what=f"A network that tells which of {len(info['classes'])} properties a picture has",
            input=self.picture(info["preprocessing"]),
            pipeline_tag="image-classification",
            metric="mean_average_precision",
            metric_title=self.metric.label,
            metric_value=round(info[self.metric.name]["value"] / 100, 6),
        )

    def report_section(self, bundles: Sequence[Exhibit]) -> Section | None:
        def names(has: Sequence[Any], info: Mapping[str, Any]) -> str:
            return ", ".join(str(name) for name, is_there in zip(info["classes"], has, strict=True) if is_there) or NONE

        def answer(outputs: Floats, label: list[int], info: Mapping[str, Any]) -> Answer:
            limit = THRESHOLD if info["model"]["output"] == "probabilities" else np.log(THRESHOLD / (1 - THRESHOLD))
            has = outputs > limit
            return Answer(
                names(has.tolist(), info),
                distance=float(np.sum(has != np.array(label))),
                is_right=has.tolist() == label,
            )

        return section_of_answers(bundles, answer, names)


class PropertyScorer:
    """Mean over the properties of their average precision, of those that some picture has.

    References:
        Everingham et al., The PASCAL visual object classes challenge, 2010, sec. 4.2; not interpolated, as in
        scikit-learn's ``average_precision_score``.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[Floats, Floats]] = []

    @property
    def num_images(self) -> int:
        return sum(len(targets) for _, targets in self._seen)

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in logits or probabilities, and 0 or 1, ``(N, num_classes)`` both."""
        pair = (np.asarray(each.cpu() if isinstance(each, Tensor) else each, float) for each in (outputs, targets))
        self._seen.append(tuple(pair))  # type: ignore[arg-type]

    @property
    def each(self) -> Floats:
        """Of each property ``(num_classes,)``; not-a-number for one that no picture has."""
        outputs, targets = self._all()
        return self._of(outputs, targets, np.ones((1, len(targets))))[0]

    def value(self) -> float:
        with np.errstate(invalid="ignore"):
            return 100 * float(_mean(self.each[None])[0])

    def score(self) -> Score:
        """With a 95 % interval by bootstrap over images (Efron and Tibshirani 1993, sec. 13.3)."""
        outputs, targets = self._all()
        num, value = len(targets), self.value()
        weights = np.random.default_rng(0).multinomial(num, [1 / num] * num, size=NUM_RESAMPLES)
        low, high = np.nanpercentile(100 * _mean(self._of(outputs, targets, weights)), [2.5, 97.5])
        return Score(value=value, low=min(float(low), value), high=max(float(high), value), num_images=num)

    def _all(self) -> tuple[Floats, Floats]:
        if not self._seen:
            raise UsageError("average precision needs at least one image")
        outputs, targets = (np.concatenate(parts) for parts in zip(*self._seen, strict=True))
        return outputs, targets

    def _of(self, outputs: Floats, targets: Floats, weights: npt.NDArray[Any]) -> Floats:
        """``(R, num_classes)`` for weights of the images ``(R, N)``."""
        columns = zip(outputs.T, targets.T, strict=True)
        return np.stack([average_precision(scores, has, weights) for scores, has in columns], axis=1)


def _mean(each: Floats) -> Floats:
    """Over properties that some picture has; 0 where there is none."""
    known = ~np.isnan(each)
    return np.where(known, each, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def average_precision(scores: Floats, has: Floats, weights: npt.NDArray[Any]) -> Floats:
    """Area under the steps of precision over recall, ``(R,)``; not-a-number where nothing has the property.

    Args:
        scores: How sure a network is of each image, ``(N,)``; those as sure as each other come together.
        has: 1 where the image has it, else 0.
        weights: How often each image counts, ``(R, N)``.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    weights = weights[:, order]
    found, named = (np.cumsum(each, axis=1)[:, ends] for each in (weights * has[order], weights))
    precision = found / np.maximum(named, 1e-12)
    area = (np.diff(found, axis=1, prepend=0) * precision).sum(axis=1)
    return np.divide(area, found[:, -1], out=np.full(len(area), np.nan), where=found[:, -1] > 0)


@dataclass(frozen=True)
class PropertyFeed(ImageFeed):
    """Images with properties."""

    def samples(self, num: int) -> Samples:
        assert self.data.source.targets is not None
        return (
            super().samples(num)._replace(labels=tuple(self.data.source.targets[self.data.splits.test[:num]].tolist()))
        )
