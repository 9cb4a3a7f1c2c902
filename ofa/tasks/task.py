"""What a task is: data, loss, distillation and metric, and what a receiver of its networks reads and sees.

Shapes are the task's own: inputs and targets are what its data gives, outputs what its models give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ofa.config import Named
from ofa.data import DataConfig
from ofa.data.splits import Splits
from ofa.metrics import Metric, Score
from ofa.progress import Progress
from ofa.tasks.losses import Loss

Batches = Iterator[tuple[Any, Any]]
Sizes = Mapping[str, int]
"""Of the elastic axes of an input, by name: ``{"resolution": 160}``."""


class TaskData(Protocol):
    """A data set of a task, split."""

    @property
    def splits(self) -> Splits: ...


class Scorer(Protocol):
    """Judges one network in one pass over a split."""

    @property
    def num_images(self) -> int:
        """How many samples it has seen."""
        ...

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in a batch, as torch tensors or numpy arrays."""
        ...

    def value(self) -> float:
        """The metric of what was seen so far."""
        ...

    def score(self) -> Score:
        """The metric with its 95 % interval; :class:`UsageError` if nothing was seen."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task(Named):
    """Base of the tasks, which are frozen dataclasses of their settings; ``task:`` of a recipe names one."""

    losses: ClassVar[tuple[type[Loss], ...]] = ()
    """Bases of the losses that fit its outputs."""

    @property
    def metric(self) -> Metric:
        """What subnets are compared by."""
        raise NotImplementedError

    # -- data --------------------------------------------------------------------------------------------------------

    def load(
        self,
        config: DataConfig,
        *,
        sizes: Sizes,
        splits: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> TaskData:
        """Read and split a data set.

        Args:
            sizes: The largest that will be asked for.
            splits: What :meth:`Splits.to_json` gave, to use the splits of an earlier run.

        Raises:
            DataError: If data is missing or broken, or is not the data that ``splits`` were made for.
        """
        raise NotImplementedError

    def reload(
        self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Progress | None = None
    ) -> TaskData:
        """The data of a run again, from what :meth:`facts` said of it."""
        raise NotImplementedError

    def facts(self, data: TaskData) -> dict[str, Any]:
        """What a run folder keeps of its data, plain."""
        raise NotImplementedError

    def num_classes(self, data: TaskData) -> int:
        """What models are built with: how many numbers they give (for each pixel, token ...)."""
        raise NotImplementedError

    def batches(
        self, data: Any, split: str, *, batch_size: int, sizes: Sizes, device: torch.device | str | None = None
    ) -> Batches:
        """Every sample of a split once, always in the same order; inputs of these sizes, and targets."""
        raise NotImplementedError

    def train_batches(
        self,
        data: Any,
        *,
        epoch: int,
        batch_size: int,
        seed: int,
        device: torch.device | str | None = None,
        start: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Full batches of varied samples of the largest size; see :meth:`ofa.data.ImageData.train_batches`."""
        raise NotImplementedError

    # -- learning and judging ----------------------------------------------------------------------------------------

    def teaching(self, outputs: Any) -> Any:
        """What others learn from a teacher's outputs, without gradient: a pytree of tensors that can be averaged."""
        raise NotImplementedError

    def scorer(self, data: TaskData | None) -> Scorer:
        """A new judge; where there is no data set, a bundle's samples are all there is."""
        raise NotImplementedError

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: Any, sizes: Sizes, *, from_pixels: bool = False) -> Feed:
        """Samples as an exported network takes them."""
        raise NotImplementedError

    @property
    def predict_script(self) -> Path:
        """The program that a bundle brings along as ``predict.py``: from a file to what the network says of it."""
        raise NotImplementedError

    def card(self, info: Mapping[str, Any]) -> Card:
        """What a model card says of a network of this task.

        Args:
            info: What ``bundle.json`` says.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card says that only the task knows.

    Args:
        what: Begins a sentence: ``An image classifier with 10 classes``.
        pipeline_tag, metric: As model hubs name them.
    """

    what: str
    pipeline_tag: str
    metric: str
    metric_title: str
    metric_value: float


class Feed(Protocol):
    """The samples of a run as an exported network takes them, at one size."""

    @property
    def preprocessing(self) -> Any:
        """What a bundle says of its input."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the input."""
        ...

    def wrap(self, network: nn.Module) -> nn.Module:
        """A network that takes such inputs, of one that takes what it was trained on."""
        ...

    def batches(self, split: str) -> Iterator[tuple[Any, Any]]:
        """Inputs and targets of a split, as numpy arrays."""
        ...

    def first(self, split: str, num: int) -> Any:
        """The first inputs of a split, at most so many."""
        ...

    def samples(self, num: int) -> tuple[list[Any], tuple[int, ...]]:
        """The first test samples as people see them, and their targets."""
        ...


def mean_of(teachings: Sequence[Any], weights: Sequence[float] | None = None) -> Any:
    """Several teachers as one: the mean of what each says, or their weighted sum."""
    from torch.utils._pytree import tree_map

    def combine(*tensors: Tensor) -> Tensor:
        if weights is None:
            return sum(tensors[1:], tensors[0]) / len(tensors)
        parts = [weight * tensor for weight, tensor in zip(weights, tensors, strict=True)]
        return sum(parts[1:], parts[0])

    return tree_map(combine, *teachings)
