"""Classification of images: one of several classes for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ofa.config import ConfigError
from ofa.data import DataError, ImageData
from ofa.data.readers.folder import EXTENSIONS
from ofa.errors import UsageError, unknown_name_message
from ofa.metrics import METRICS, TOP1, Metric, Score, wilson_interval
from ofa.tasks import predict_class
from ofa.tasks.image_task import ImageTask
from ofa.tasks.losses import ClassLoss
from ofa.tasks.task import Card, Scorer

NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Classification(ImageTask):
    """Images in, logits ``(N, num_classes)`` out; targets are class indices ``(N,)``.

    Args:
        judge_by: What subnets are compared by: ``top1_percent``; where classes are not equally frequent
            ``balanced_accuracy_percent``, the mean accuracy of the classes, or ``worst_class_accuracy_percent``.
    """

    judge_by: Literal["top1_percent", "balanced_accuracy_percent", "worst_class_accuracy_percent"] = "top1_percent"

    losses = (ClassLoss,)

    @property
    def metric(self) -> Metric:
        return METRICS[self.judge_by]

    # -- data --------------------------------------------------------------------------------------------------------

    def facts(self, data: ImageData) -> dict[str, Any]:
        return {"classes": list(data.classes), **super().facts(data)}

    def num_classes(self, data: ImageData) -> int:
        return data.num_classes

    def classes(self, data: ImageData) -> tuple[str, ...]:
        return data.classes

    # -- learning and judging ----------------------------------------------------------------------------------------

    def teaching(self, outputs: Tensor) -> Tensor:
        """The teacher's probabilities ``(N, num_classes)``."""
        return outputs.detach().float().softmax(dim=1)

    def scorer(self, data: Any) -> Scorer:
        return ClassScorer(self.metric)

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def check_labels(self, labels: Sequence[Any], classes: Sequence[str]) -> None:
        if not all(type(label) is int and 0 <= label < len(classes) for label in labels):
            raise ConfigError(f"sample_labels must be indices of the {len(classes)} classes")

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
        """Pictures, each in a folder that is called as its class."""
        if not folder.is_dir():
            raise DataError(f"no folder {folder}; give one that has a folder of pictures per class")
        places = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
        for place in places:
            if place.name not in classes:
                raise DataError(f"{place}: {unknown_name_message('class', place.name, classes)}")
        found = [
            (file, classes.index(place.name))
            for place in places
            for file in sorted(place.rglob("*"))
            if file.suffix.lower() in EXTENSIONS
        ]
        if not found:
            raise DataError(f"{folder} holds no pictures; they go into a folder per class, such as {classes[0]}/")
        return found

    @property
    def predict_script(self) -> Path:
        return Path(predict_class.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        titles = {TOP1.name: "Top-1"}
        return Card(
            what=f"An image classifier with {len(info['classes'])} classes",
            input=self.picture(info["preprocessing"]),
            pipeline_tag="image-classification",
            metric="accuracy",
            metric_title=titles.get(self.metric.name, self.metric.title),
            metric_value=round(info[self.metric.name]["value"] / 100, 6),
        )


class ClassScorer:
    """Counts what is right, class by class.

    Args:
        metric: One of those that :class:`Classification` names.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self.num_images = 0
        self._num_right = 0
        self._rows: list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]] = []

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in logits or probabilities ``(N, num_classes)`` and class indices ``(N,)``."""
        right = outputs.argmax(axis=1) == targets
        self.num_images += len(targets)
        self._num_right += int(right.sum())
        if self._metric != TOP1:
            self._rows.append((_to_numpy(right), _to_numpy(targets)))

    def value(self) -> float:
        if not self.num_images:
            raise UsageError("accuracy needs at least one image")
        if self._metric == TOP1:
            return 100.0 * self._num_right / self.num_images
        right, labels = self._seen()
        return float(self._of_classes(_accuracies(right, labels)[None])[0])

    def score(self) -> Score:
        value = self.value()
        if self._metric == TOP1:
            low, high = wilson_interval(self._num_right, self.num_images)
        else:
            low, high = self._bootstrap()
        return Score(value=value, low=low, high=high, num_images=self.num_images)

    def _seen(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        right, labels = (np.concatenate(arrays) for arrays in zip(*self._rows, strict=True))
        return right, labels

    def _of_classes(self, accuracies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """From shares of each class ``(R, num_classes)`` to the metric ``(R,)``."""
        combine = np.nanmean if self._metric.quantity == "balanced_accuracy" else np.nanmin
        return 100 * np.asarray(combine(accuracies, axis=1))

    def _bootstrap(self) -> tuple[float, float]:
        """95 % interval: each class's number of right images drawn again, as often as it has images.

        References:
            Efron and Tibshirani, An introduction to the bootstrap, 1993, sec. 13.3 (percentiles), stratified by class.
        """
        right, labels = self._seen()
        num, shares = np.bincount(labels), _accuracies(right, labels)
        seen = num > 0
        rng = np.random.default_rng(0)
        drawn = rng.binomial(num[seen], shares[seen], size=(NUM_RESAMPLES, int(seen.sum()))) / num[seen]
        low, high = np.percentile(self._of_classes(drawn), [2.5, 97.5])
        return float(low), float(high)


def _accuracies(right: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Share of right images of each class; not-a-number for one that has none."""
    num = np.bincount(labels)
    found: npt.NDArray[np.float64] = np.divide(
        np.bincount(labels, right), num, out=np.full(len(num), np.nan), where=num > 0
    )
    return found


def _to_numpy(values: Any) -> npt.NDArray[Any]:
    return values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
