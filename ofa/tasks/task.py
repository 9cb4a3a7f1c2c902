"""What a task is: data, loss, distillation and metric, and what a receiver of its networks reads and sees.

Shapes are the task's own: inputs and targets are what its data gives, outputs what its models give.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError
from ofa.data.splits import Splits
from ofa.inputs import InputSpec
from ofa.metrics import Metric, Score
from ofa.progress import Progress
from ofa.tasks.losses import LOSSES, Loss
from ofa.tasks.own_code import OfCode

Array = npt.NDArray[np.generic]
Batches = Iterator[tuple[Any, Any]]
Sizes = Mapping[str, float]
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
        """Take in a batch, as a model gives it or as numpy arrays."""
        ...

    def value(self) -> float:
        """The metric of what was seen so far."""
        ...

    def score(self) -> Score:
        """The metric with its 95 % interval; :class:`UsageError` if nothing was seen."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task(OfCode, ABC):
    """Base of the tasks, which are frozen dataclasses of their settings; ``task:`` of a recipe names one.

    One of ours, or ``path/file.py:Class``.
    """

    losses: ClassVar[tuple[type[Loss], ...]]
    """Bases of the losses that fit its outputs."""
    preprocessing: ClassVar[type[Any]]
    """Dataclass of what a bundle says of its input: ``input_size`` and ``dtype`` at least."""
    sample_suffix: ClassVar[str]
    """Of the files of a bundle's samples."""
    num_samples: ClassVar[int] = 32
    """In a bundle."""
    num_needed: ClassVar[int] = 1
    """Samples that ``predict.py`` needs at least."""
    judged_together: ClassVar[int] = 256
    """Samples in a batch where networks are judged."""
    num_calibration: ClassVar[int] = 1024
    """Samples that batch-norm statistics come from, at most."""
    sample: ClassVar[str] = "picture"
    """What a file of a sample holds, for messages."""
    counted: ClassVar[str] = "image"
    """What is counted, and what latencies are of."""
    is_wrapped: ClassVar[bool] = False
    """Whether what is shipped says something else than what is trained, see :meth:`Feed.wrap`."""
    bundle_files: ClassVar[tuple[str, ...]] = ()
    """Names of further files that a bundle needs, see :meth:`files`."""

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """What subnets are compared by."""

    def check_settings(self, data: DataConfig, *, pretrained: bool) -> None:
        """Whether the settings of a recipe go together, before anything is read.

        Args:
            pretrained: The model begins from weights that others trained.

        Raises:
            ConfigError, DataError: They name what does not.
        """

    def check_loss(self, loss: Loss) -> None:
        """:class:`ConfigError` unless a loss fits the outputs."""
        if not isinstance(loss, self.losses):
            fitting = [name for name, kind in LOSSES.items() if issubclass(kind, self.losses)]
            raise ConfigError(
                f"strategy.loss {loss.name} is not for task {self.name}; choose one of {', '.join(fitting)}"
            )

    def shipped(self) -> Self:
        """Itself as a bundle says it: without paths of this machine."""
        return self

    # -- models ------------------------------------------------------------------------------------------------------

    def inputs(self) -> InputSpec | None:
        """What models are called with, and what of it may vary; ``None``: the square image of their configuration."""
        return None

    def check_outputs(self, output_type: str, shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        """Whether a model gives what is learnt and judged here.

        Args:
            output_type: ``Tensor``, ``dict`` ...
            shapes: Of all tensors in it, for one sample.

        Raises:
            ConfigError: If not; it says what it should give.
        """
        wanted = f"task {self.name!r} takes one tensor, of shape ({num_classes},) for one image"
        if output_type != "Tensor":
            raise ConfigError(f"it gives a {output_type}, but {wanted}; let its function return a module that does")
        if tuple(shapes[0][1:]) != (num_classes,):
            raise ConfigError(
                f"it gives outputs of shape {tuple(shapes[0][1:])}, but {wanted}; let its function take num_classes"
            )

    def check_model(self, model: nn.Module, data: Any) -> None:
        """Whether a model takes all that is in the data; :class:`ConfigError` if not."""

    def outputs(self, given: Any, targets: Any) -> Any:
        """What losses and :meth:`teaching` take, of what a model gives: all of it.

        Args:
            targets: Of the same samples, which may be of another size than the outputs.
        """
        return given

    # -- data --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def load(
        self,
        config: DataConfig,
        *,
        inputs: InputSpec,
        sizes: Sizes,
        progress: Progress | None = None,
    ) -> TaskData:
        """Read and split a data set.

        Args:
            inputs: What the model takes.
            sizes: The largest that will be asked for.

        Raises:
            DataError: If data is missing or broken, or does not fit the model.
        """

    @abstractmethod
    def reload(
        self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Progress | None = None
    ) -> TaskData:
        """The data of a run again, from what :meth:`facts` said of it; :class:`DataError` if it is other data."""

    @abstractmethod
    def facts(self, data: Any) -> dict[str, Any]:
        """What a run folder keeps of its data, plain."""

    @abstractmethod
    def num_classes(self, data: Any) -> int:
        """What models are built with: how many numbers they give (for each pixel, token ...)."""

    def classes(self, data: Any) -> tuple[str, ...]:
        """What these numbers are called, where they have names."""
        return ()

    @abstractmethod
    def batches(
        self, data: Any, split: str, *, batch_size: int, sizes: Sizes, device: torch.device | str | None = None
    ) -> Batches:
        """Every sample of a split once, always in the same order; inputs of these sizes, and targets."""

    @abstractmethod
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

    # -- learning and judging ----------------------------------------------------------------------------------------

    @abstractmethod
    def teaching(self, outputs: Any) -> Any:
        """What others learn from a teacher's outputs, without gradient: a pytree of tensors that can be averaged."""

    @abstractmethod
    def scorer(self, data: Any) -> Scorer:
        """A new judge of what networks give that are trained; where ``data`` is ``None``, that are shipped."""

    def shipped_scorer(self, spec: Any) -> Scorer:
        """A new judge of what a bundle's network gives, of its :attr:`preprocessing`."""
        return self.scorer(None)

    def details(self, scorer: Any, data: Any) -> dict[str, Any]:
        """What else a judge knows of a network that is shipped, plain."""
        return {}

    # -- what is shipped ---------------------------------------------------------------------------------------------

    @abstractmethod
    def feed(self, data: Any, sizes: Sizes, *, from_pixels: bool = False) -> Feed:
        """Samples as an exported network takes them."""

    @abstractmethod
    def read_input(self, file: Path, spec: Any, *, stored: bool = False) -> Array:
        """One input, without the batch, of a file.

        Args:
            spec: A bundle's :attr:`preprocessing`.
            stored: It is a sample of that bundle, and nothing else is read.

        Raises:
            DataError: If the file cannot be read.
        """

    def reader(self, bundle: Path, spec: Any) -> Callable[..., Array]:
        """:meth:`read_input` for a bundle: a function of a file, and of whether it is ``stored`` there.

        Args:
            bundle: Its folder, all of whose files are as they should be.
            spec: Its :attr:`preprocessing`.
        """
        return partial(self.read_input, spec=spec)

    def files(self, data: Any) -> dict[str, bytes]:
        """Contents of :attr:`bundle_files`, by name: what ``predict.py`` needs besides the network."""
        return {}

    def check_labels(self, labels: Sequence[Any], classes: Sequence[str]) -> None:
        """:class:`ConfigError` unless each can be what is right for a bundle's sample."""
        if not all(isinstance(label, int | float) for label in labels):
            raise ConfigError("sample_labels must be numbers")

    def label_files(self, labels: Sequence[Any]) -> tuple[str, ...]:
        """Files of a bundle that its ``sample_labels`` name; none where these say themselves what is right."""
        return ()

    def truth(self, labels: Sequence[Any], spec: Any, folder: Path) -> Array:
        """What is right for some samples, as a judge takes it.

        Args:
            labels: ``sample_labels`` of a bundle, or what :meth:`labelled` gave.
            spec: A bundle's :attr:`preprocessing`.
            folder: That paths in labels are relative to.
        """
        return np.array(labels)

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[Any, Any]]:
        """Samples of a user's own, to judge a bundle by, and what is right for each; :class:`DataError` without any.

        Samples are files, or what else the :meth:`reader` takes.
        """
        raise DataError(f"{folder}: a folder does not tell what is right for its files in {self.name}")

    @property
    @abstractmethod
    def predict_script(self) -> Path:
        """The program that a bundle brings along as ``predict.py``: from a file to what the network says of it.

        What it imports of :mod:`ofa.data.picture` and :mod:`ofa.tasks.predict_loaders` is put into it there.
        """

    @abstractmethod
    def card(self, info: Mapping[str, Any]) -> Card:
        """What a model card says of a network of this task.

        Args:
            info: What ``bundle.json`` says.
        """

    def report_section(self, bundles: Sequence[Exhibit]) -> Section | None:
        """What the page of a run shows of its bundles' samples; ``None``: nothing."""
        return None


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A bundle in the page of a run.

    Args:
        name: The device, and the budget if there was one.
        info: What ``bundle.json`` says; nothing of it has been checked.
    """

    name: str
    folder: Path
    info: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table in the page of a run.

    Args:
        rows: Of cells: text, or :class:`markupsafe.Markup`, which is taken as it is; the first is the row's header.
        note: A sentence below.
    """

    title: str
    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card says that only the task knows.

    Args:
        what: Begins a sentence: ``An image classifier with 10 classes``.
        input: What an input is made of: ``a RGB picture of 32 × 32 pixels``.
        pipeline_tag, metric: As model hubs name them.
        library: What ``predict.py`` needs besides numpy and the runtime.
    """

    what: str
    input: str
    pipeline_tag: str
    metric: str
    metric_title: str
    metric_value: float
    library: str = "Pillow"


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

    @property
    def input(self) -> str:
        """What the file calls its input: ``images``."""
        ...

    @property
    def output(self) -> str:
        """What the network gives: ``logits``."""
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

    def samples(self, num: int) -> Samples:
        """The first test samples."""
        ...


class Samples(NamedTuple):
    """What a bundle shows of its data.

    Args:
        files: Contents.
        labels: What is right for each, as JSON has it.
        label_files: Contents of files that labels name, by name.
    """

    files: list[bytes]
    labels: tuple[Any, ...]
    label_files: Mapping[str, bytes] = {}


def mean_of(teachings: Sequence[Any], weights: Sequence[float] | None = None) -> Any:
    """Several teachers as one: the mean of what each says, or their weighted sum."""
    from torch.utils._pytree import tree_map

    def combine(*tensors: Tensor) -> Tensor:
        if weights is None:
            return sum(tensors[1:], tensors[0]) / len(tensors)
        parts = [weight * tensor for weight, tensor in zip(weights, tensors, strict=True)]
        return sum(parts[1:], parts[0])

    return tree_map(combine, *teachings)
