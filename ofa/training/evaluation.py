"""True scores of subnets: extracted, BN-calibrated, judged on a split by the task's metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ofa.inputs import Inputs, channels_last
from ofa.metrics import Metric, Score
from ofa.progress import Progress
from ofa.space import Arch, Value
from ofa.supernet import Supernet
from ofa.tasks import Classification, Scorer, Sizes, Task
from ofa.training.bn_calibration import calibrate_bn

CACHE_BYTES = 1 << 30
NUM_TOGETHER = 8

Batch = tuple[Inputs, Any]


@torch.inference_mode()
def judge(module: nn.Module, batches: Iterable[tuple[Any, Any]], scorer: Scorer) -> Score:
    """What a network is worth on batches of inputs and targets; its mode is left as it is."""
    for inputs, targets in batches:
        scorer.update(Inputs.of(inputs).call(module), targets)
    return scorer.score()


class _Kept(NamedTuple):
    batches: list[Batch]
    num_bytes: int


@dataclass
class SubnetEvaluator:
    """Evaluates many subnets over the same samples, which are prepared once per size and kept, the latest ones up to
    1 GiB.

    Args:
        data: Of the task.
        batch_size: Unless given, what suits the task.
        num_calibration_images: At most this many of the calibration split; whole batches where there is more than one.
            Unless given, what the task says is enough.
    """

    supernet: Supernet
    data: Any
    task: Task = field(default_factory=Classification)
    batch_size: int = 0
    num_calibration_images: int | None = None
    _cache: dict[tuple[Any, ...], _Kept] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.batch_size = self.batch_size or self.task.judged_together
        if self.num_calibration_images is None:
            self.num_calibration_images = self.task.num_calibration

    @property
    def metric(self) -> Metric:
        """What subnets are compared by."""
        return self.task.metric

    def batches(self, split: str, arch: Mapping[str, Value]) -> Iterable[Batch]:
        """Inputs of the sizes that an architecture takes, and targets, on the supernet's device, channels last."""
        sizes = self.supernet.inputs.sizes(arch)
        key = (split, *sizes.values())
        if key in self._cache:
            self._cache[key] = kept = self._cache.pop(key)  # the last that was used
            return kept.batches
        device = next(self.supernet.parameters()).device
        found = self.task.batches(self.data, split, batch_size=self.batch_size, sizes=sizes, device=device)
        fresh = ((channels_last(Inputs.of(inputs)), targets) for inputs, targets in found)
        if not self._fits(split, sizes):
            return fresh
        num_bytes = self._num_bytes(split, sizes)
        while self._cache and sum(kept.num_bytes for kept in self._cache.values()) + num_bytes > CACHE_BYTES:
            del self._cache[next(iter(self._cache))]
        self._cache[key] = _Kept(list(fresh), num_bytes)
        return self._cache[key].batches

    def _fits(self, split: str, sizes: Sizes) -> bool:
        """Whether the inputs of a split are kept in memory."""
        return self._num_bytes(split, sizes) <= CACHE_BYTES // 8

    def _num_bytes(self, split: str, sizes: Sizes) -> int:
        """Of the inputs of a split."""
        num_numbers = sum(map(prod, self.supernet.inputs.shapes(sizes)))
        return len(self.data.splits[split]) * num_numbers * 4

    def calibrated(self, arch: Arch | Mapping[str, Value]) -> nn.Module:
        """The extracted subnet with BN statistics of its own, from the calibration split."""
        return self._calibrated([arch])[0]

    def _calibrated(self, archs: Sequence[Arch | Mapping[str, Value]]) -> list[nn.Module]:
        """Subnets of one size of inputs, in one pass over the calibration samples."""
        modules = [channels_last(self.supernet.extract(arch)) for arch in archs]
        calibrate_bn(modules, self._calibration_inputs(archs[0]))
        return modules

    def _calibration_inputs(self, arch: Mapping[str, Value]) -> Iterable[Inputs]:
        num_images, enough = 0, self.num_calibration_images or 0
        for inputs, _ in self.batches("calibration", arch):
            if num_images and (len(inputs) < self.batch_size or num_images >= enough):
                return  # every batch counts the same in the statistics, so a short last one is left out
            num_images += len(inputs)
            yield inputs

    def values(
        self, archs: Sequence[Arch], *, split: str = "search", progress: Progress | None = None
    ) -> npt.NDArray[np.float64]:
        """The metric of each subnet, shape ``(N,)``."""
        floors = np.full(len(archs), self.metric.worst)
        return self.race(archs, floors, split=split, progress=progress)[:, 0]

    def race(
        self,
        archs: Sequence[Arch],
        floors: npt.NDArray[np.float64],
        *,
        split: str = "search",
        progress: Progress | None = None,
    ) -> npt.NDArray[np.float64]:
        """The metric of each subnet, but given up as soon as it is surely worse than a floor.

        Subnets of one size of inputs share a pass over the samples where these are too many to be kept in memory.

        Args:
            floors: Shape ``(N,)``; see :meth:`ofa.metrics.Metric.is_hopeless`.

        Returns:
            Shape ``(N, len(metric.columns))``: the value, the number of samples that it was measured on, and what else
            the metric keeps.
        """
        found, num_done = np.empty((len(archs), len(self.metric.columns))), 0
        for rows in self._groups(archs, split):
            found[rows] = self._race_together([archs[row] for row in rows], floors[rows], split)
            num_done += len(rows)
            if progress is not None:
                progress(num_done, len(archs), "evaluating subnets")
        return found

    def by_class(self, archs: Sequence[Arch], *, split: str = "search") -> list[Mapping[str, float | None]]:
        """What each class is worth to each subnet, where the task's details say it (``class_accuracy_percent``); empty
        where there are no classes."""
        found: list[Mapping[str, float | None]] = []
        for arch in archs:
            scorer = self.task.scorer(self.data)
            judge(self.calibrated(arch), self.batches(split, arch), scorer)
            details = self.task.details(scorer, self.data)
            found.append(next((value for name, value in details.items() if name.startswith("class_")), {}))
        return found

    @property
    def num_together(self) -> int:
        """How many subnets are best evaluated at once: several where they share a pass over the samples."""
        return 1 if self._fits("search", self.supernet.inputs.largest(self.supernet.space)) else NUM_TOGETHER

    def _groups(self, archs: Sequence[Arch], split: str) -> Iterable[list[int]]:
        by_sizes: dict[tuple[float, ...], list[int]] = {}
        for row, arch in enumerate(archs):
            by_sizes.setdefault(tuple(self.supernet.inputs.sizes(arch).values()), []).append(row)
        for rows in by_sizes.values():
            num = 1 if self._fits(split, self.supernet.inputs.sizes(archs[rows[0]])) else NUM_TOGETHER
            yield from (rows[start : start + num] for start in range(0, len(rows), num))

    @torch.inference_mode()
    def _race_together(
        self, archs: Sequence[Arch], floors: npt.NDArray[np.float64], split: str
    ) -> list[tuple[float, ...]]:
        modules = self._calibrated(archs)
        scorers = [self.task.scorer(self.data) for _ in archs]
        racing = list(range(len(archs)))
        for inputs, targets in self.batches(split, archs[0]):
            for row in racing:
                scorers[row].update(inputs.call(modules[row]), targets)
            if self.metric.interval_by == "share":
                racing = [row for row in racing if not self._is_hopeless(scorers[row], float(floors[row]))]
            if not racing:
                break
        return [self.metric.row(scorer.score()) for scorer in scorers]

    def _is_hopeless(self, scorer: Scorer, floor: float) -> bool:
        return self.metric.is_hopeless(scorer.value(), scorer.num_images, floor)
