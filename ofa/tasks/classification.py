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
from ofa.data.picture import EXTENSIONS
from ofa.errors import UsageError, unknown_name_message
from ofa.metrics import BALANCED, METRICS, TOP1, WORST_CLASS, Metric, Score, wilson_interval
from ofa.tasks import predict_class
from ofa.tasks.image_task import ImageTask
from ofa.tasks.losses import ClassLoss
from ofa.tasks.task import Card

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

    def scorer(self, data: Any) -> ClassScorer:
        return ClassScorer(self.metric)

    def details(self, scorer: Any, data: Any) -> dict[str, Any]:
        """Accuracy class by class, and the means of it that are not what the metric says already."""
        shares = scorer.shares
        means = [BALANCED, WORST_CLASS] if self.metric == TOP1 else []
        return {
            **{mean.name: round(float(_of_classes(mean, shares[None])[0]), 4) for mean in means},
            "class_accuracy_percent": {
                name: None if np.isnan(share) else round(100 * float(share), 4)
                for name, share in zip(data.classes, shares, strict=True)
            },
        }

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
        self._num = self._num_right = np.zeros(0, dtype=np.int64)  # of each class

    @property
    def num_images(self) -> int:
        return int(self._num.sum())

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in logits or probabilities ``(N, num_classes)`` and class indices ``(N,)``."""
        right, labels = _to_numpy(outputs.argmax(axis=1) == targets), _to_numpy(targets)
        before = np.zeros((2, outputs.shape[1]), dtype=np.int64)
        before[:, : len(self._num)] = self._num, self._num_right
        self._num, self._num_right = before + [
            np.bincount(some, minlength=outputs.shape[1]) for some in (labels, labels[right])
        ]

    def value(self) -> float:
        if not self.num_images:
            raise UsageError("accuracy needs at least one image")
        if self._metric == TOP1:
            return 100.0 * int(self._num_right.sum()) / self.num_images
        return float(_of_classes(self._metric, self.shares[None])[0])

    def score(self) -> Score:
        value = self.value()
        if self._metric == TOP1:
            low, high = wilson_interval(int(self._num_right.sum()), self.num_images)
        else:
            low, high = self._bootstrap()
        return Score(value=value, low=low, high=high, num_images=self.num_images)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Of right images of each class; not-a-number for one that has none."""
        return np.divide(self._num_right, self._num, out=np.full(len(self._num), np.nan), where=self._num > 0)

    def _bootstrap(self) -> tuple[float, float]:
        """95 % interval: each class's number of right images drawn again, as often as it has images.

        References:
            Efron and Tibshirani, An introduction to the bootstrap, 1993, sec. 13.3 (percentiles), stratified by class.
        """
        seen = self._num > 0
        num, shares = self._num[seen], self.shares[seen]
        drawn = np.random.default_rng(0).binomial(num, shares, size=(NUM_RESAMPLES, len(num))) / num
        low, high = np.percentile(_of_classes(self._metric, drawn), [2.5, 97.5])
        return float(low), float(high)


def _of_classes(metric: Metric, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From shares of each class ``(R, num_classes)`` to a metric ``(R,)``."""
    combine = np.nanmean if metric == BALANCED else np.nanmin
    return 100 * np.asarray(combine(shares, axis=1))


def _to_numpy(values: Any) -> npt.NDArray[Any]:
    return values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
