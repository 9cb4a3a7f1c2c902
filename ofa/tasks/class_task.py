"""What tasks have in common that give one of several classes for each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ofa.config import ConfigError
from ofa.errors import UsageError
from ofa.inputs import tensors_in
from ofa.metrics import BALANCED, METRICS, TOP1, WORST_CLASS, Metric, Score, wilson_interval
from ofa.tasks.losses import ClassLoss
from ofa.tasks.task import Card, Task

NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class ClassTask(Task):
    """Base of the tasks with logits ``(N, num_classes)`` out; targets are class indices ``(N,)``.

    Args:
        judge_by: What subnets are compared by: ``top1_percent``; where classes are not equally frequent
            ``balanced_accuracy_percent``, the mean accuracy of the classes, or ``worst_class_accuracy_percent``.
    """

    judge_by: Literal["top1_percent", "balanced_accuracy_percent", "worst_class_accuracy_percent"] = "top1_percent"

    losses = (ClassLoss,)

    @property
    def metric(self) -> Metric:
        return METRICS[self.judge_by]

    def num_classes(self, data: Any) -> int:
        return len(data.classes)

    def classes(self, data: Any) -> tuple[str, ...]:
        return tuple(data.classes)

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

    def check_labels(self, labels: Sequence[Any], classes: Sequence[str]) -> None:
        if not all(type(label) is int and 0 <= label < len(classes) for label in labels):
            raise ConfigError(f"sample_labels must be indices of the {len(classes)} classes")

    def card_of(self, info: Mapping[str, Any], *, what: str, input: str, pipeline_tag: str) -> Card:
        """A model card's part of a classifier; ``what`` is said before the number of its classes."""
        titles = {TOP1.name: "Top-1"}
        return Card(
            what=f"{what} with {len(info['classes'])} classes",
            input=input,
            pipeline_tag=pipeline_tag,
            metric="accuracy",
            metric_title=titles.get(self.metric.name, self.metric.title),
            metric_value=round(info[self.metric.name]["value"] / 100, 6),
        )


class ClassScorer:
    """Counts what is right, class by class.

    Args:
        metric: One of those that :class:`ClassTask` names.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._num = self._num_right = np.zeros(0, dtype=np.int64)  # of each class

    @property
    def num_images(self) -> int:
        return int(self._num.sum())

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in logits or probabilities ``(N, num_classes)`` and class indices ``(N,)``.

        Of what holds several tensors the first counts.
        """
        outputs = outputs if isinstance(outputs, np.ndarray) else tensors_in(outputs)[0]
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
