"""Several tasks at once: one network with a head for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ofa.config import ConfigError, Record, check_record
from ofa.data import DataConfig, DataError, ImageData
from ofa.data.identity import Identity
from ofa.data.splits import Splits, hash_labels
from ofa.errors import UsageError, unknown_name_message
from ofa.inputs import InputSpec
from ofa.metrics import MEAN_OF_HEADS, Metric, Score
from ofa.progress import Progress
from ofa.tasks import predict_several
from ofa.tasks.image_feed import ImageFeed
from ofa.tasks.image_task import ImageTask
from ofa.tasks.losses import EachHead, Loss
from ofa.tasks.predict_several import names_of
from ofa.tasks.task import Batches, Card, Exhibit, Feed, Samples, Section, Sizes, Task

ALL = "all"


@dataclass(frozen=True, eq=False, kw_only=True)
class SeveralData:
    """The same pictures, split in the same way, with what each head learns of them."""

    heads: dict[str, ImageData]

    @property
    def first(self) -> ImageData:
        return next(iter(self.heads.values()))

    @property
    def splits(self) -> Splits:
        return self.first.splits


@dataclass(frozen=True, kw_only=True)
class Several(ImageTask):
    """Images in; out comes a mapping of what each head's task takes, or, with ``sizes``, one tensor of it all.

    Targets are a mapping likewise. What is compared, deployed and shown is one head, as if there were no other, or all.

    Args:
        tasks: Of the heads, by name; each takes images.
        sizes: How many numbers of the one tensor ``(N, sum of sizes)`` each head takes, in order: any classifier will
            do then.
        columns: In place of ``data.label_column``, by head.
        judge_by: A head; ``all``: the mean of the heads' metrics, which must be shares.

    References:
        Wu et al., FBNetV5, arXiv:2111.10007: one supernet for several tasks, and a search for each.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    judge_by: str = ALL

    losses = (EachHead,)
    is_wrapped = True

    def __post_init__(self) -> None:
        if len(self.tasks) < 2:
            raise ConfigError("task.tasks must name two tasks at least: task.tasks.NAME=classification")
        for head, task in self.tasks.items():
            if not head.isidentifier() or head == ALL:
                raise ConfigError(f"task.tasks: {head!r} must be a name of letters and digits, and not {ALL!r}")
            if not isinstance(task, ImageTask) or isinstance(task, Several):
                raise ConfigError(f"task.tasks.{head}: task {task.name} takes no images, or is several itself")
        for name, given in (("sizes", self.sizes), ("columns", self.columns)):
            for head in given.keys() - self.tasks.keys():
                raise ConfigError(f"task.{name}: {unknown_name_message('head', head, self.tasks)}")
        if self.sizes and list(self.sizes) != list(self.tasks):
            raise ConfigError(f"task.sizes must name all heads in their order: {', '.join(self.tasks)}")
        if self.judge_by not in (ALL, *self.tasks):
            raise ConfigError(f"task.judge_by: {unknown_name_message('head', self.judge_by, (ALL, *self.tasks))}")
        if self.judge_by == ALL:
            self._check_shares()

    def _check_shares(self) -> None:
        for head, task in self.tasks.items():
            if task.metric.symbol != "%" or not task.metric.higher_is_better:
                raise ConfigError(
                    f"the mean over heads is one of shares, but {head} is judged by {task.metric.title}; set "
                    f"task.judge_by to one of {', '.join(self.tasks)}"
                )

    @property
    def _only(self) -> ImageTask | None:
        """The task of the head that is judged; ``None`` for all."""
        return self.tasks.get(self.judge_by)  # type: ignore[return-value]

    @property
    def metric(self) -> Metric:
        return MEAN_OF_HEADS if self._only is None else self._only.metric

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        return min(task.num_samples for task in self.tasks.values())

    @property
    def judged_together(self) -> int:  # type: ignore[override]
        return min(task.judged_together for task in self.tasks.values())

    @property
    def num_calibration(self) -> int:  # type: ignore[override]
        return min(task.num_calibration for task in self.tasks.values())

    def check_settings(self, data: DataConfig, *, pretrained: bool) -> None:
        for task in self.tasks.values():
            task.check_settings(data, pretrained=pretrained)
        for name in ("mixup", "cutmix", "balance"):
            if getattr(data, name):
                raise DataError(f"data.{name} is for one task, not for several at once; leave it at 0")

    def check_loss(self, loss: Loss) -> None:
        super().check_loss(loss)
        assert isinstance(loss, EachHead)
        if list(loss.losses) != list(self.tasks):
            raise ConfigError(
                f"strategy.loss.losses must name a loss for each head, in their order: {', '.join(self.tasks)}"
            )
        for head, task in self.tasks.items():
            try:
                task.check_loss(loss.losses[head])
            except ConfigError as error:
                raise ConfigError(f"head {head}: {error}") from None

    def shipped(self) -> Task:  # type: ignore[override]
        if self._only is not None:
            return self._only.shipped()
        return dataclasses.replace(self, tasks={head: task.shipped() for head, task in self.tasks.items()})

    # -- models ------------------------------------------------------------------------------------------------------

    def num_classes(self, data: SeveralData) -> int:
        found = {head: task.num_classes(data.heads[head]) for head, task in self.tasks.items()}
        for head, size in self.sizes.items():
            if size != found[head]:
                raise ConfigError(f"task.sizes.{head} is {size}, but the data needs {found[head]}; set it to that")
        return sum(found.values())

    def classes(self, data: SeveralData) -> tuple[str, ...]:
        if self._only is not None:
            return self._only.classes(data.heads[self.judge_by])
        named = {head: task.classes(data.heads[head]) for head, task in self.tasks.items()}
        return tuple(f"{head}: {name}" for head, names in named.items() for name in names or ("number",))

    def check_outputs(self, output_type: str, shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        if self.sizes:
            super().check_outputs(output_type, shapes, num_classes)
        elif output_type not in ("dict", "OrderedDict"):
            raise ConfigError(
                f"it gives a {output_type}, but task {self.name!r} takes a dict with {', '.join(self.tasks)}; or, of a "
                "model that gives one tensor, task.sizes"
            )

    def parts(self, given: Any) -> dict[str, Any]:
        """What a model gives, by head."""
        if self.sizes:
            ends = zip(self.sizes.items(), np.cumsum(list(self.sizes.values())).tolist(), strict=True)
            return {head: given[:, end - size : end] for (head, size), end in ends}
        if missing := self.tasks.keys() - given.keys():
            raise ConfigError(
                f"the model gives {', '.join(given)}, but nothing for {', '.join(sorted(missing))}; name its outputs "
                "as the heads"
            )
        return dict(given)

    def outputs(self, given: Any, targets: Mapping[str, Any]) -> dict[str, Any]:
        parts = self.parts(given)
        return {head: task.outputs(parts[head], targets[head]) for head, task in self.tasks.items()}

    # -- data --------------------------------------------------------------------------------------------------------

    def _configs(self, config: DataConfig) -> dict[str, DataConfig]:
        """Of each head; pictures come to their size in the same way for all."""
        for task in self.tasks.values():
            config = task.settled(config)  # type: ignore[attr-defined]
        columns = {head: self.columns.get(head, config.label_column) for head in self.tasks}
        return {head: dataclasses.replace(config, label_column=column) for head, column in columns.items()}

    def load(  # type: ignore[override]
        self, config: DataConfig, *, inputs: InputSpec, sizes: Sizes, progress: Progress | None = None
    ) -> SeveralData:
        heads: dict[str, ImageData] = {}
        for head, own in self._configs(config).items():
            task: Any = self.tasks[head]
            settings: dict[str, Any] = {}
            if heads:
                first, source = next(iter(heads.values())), task.source(own)
                names = [[each.images.name(row) for row in range(len(each.images))] for each in (first.source, source)]
                if names[0] != names[1]:
                    raise DataError(f"heads {next(iter(heads))} and {head} have not the same pictures; give one table")
                stored = {**first.splits.to_json(), "labels_sha256": hash_labels(source.labels)}
                del stored["identity"]
                settings = {"source": source, "splits": stored}
            data = task.load(own, inputs=inputs, sizes=sizes, progress=progress, **settings)
            if heads:
                splits = dataclasses.replace(data.splits, identity=Identity.of(data.source, progress=progress))
                data = dataclasses.replace(data, splits=splits)
            heads[head] = data
        return SeveralData(heads=heads)

    def reload(  # type: ignore[override]
        self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Progress | None = None
    ) -> SeveralData:
        facts = check_record(_Facts, stored, where="data of the run", remedy="train it again")
        heads = {
            head: self.tasks[head].reload(own, facts.heads[head], sizes=sizes, progress=progress)
            for head, own in self._configs(config).items()
        }
        return SeveralData(heads=heads)  # type: ignore[arg-type]

    def facts(self, data: SeveralData) -> dict[str, Any]:  # type: ignore[override]
        each = {head: task.facts(data.heads[head]) for head, task in self.tasks.items()}
        return {**each[next(iter(each))], "heads": each}

    def batches(  # type: ignore[override]
        self, data: SeveralData, split: str, **settings: Any
    ) -> Batches:
        return _together({head: task.batches(data.heads[head], split, **settings) for head, task in self.tasks.items()})

    def train_batches(self, data: SeveralData, **settings: Any) -> Batches:  # type: ignore[override]
        """The same pictures for all heads: what a batch holds depends on seed, epoch and its index alone."""
        return _together({head: task.train_batches(data.heads[head], **settings) for head, task in self.tasks.items()})

    # -- learning and judging ----------------------------------------------------------------------------------------

    def teaching(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        return {head: task.teaching(outputs[head]) for head, task in self.tasks.items()}

    def scorer(self, data: SeveralData | None) -> HeadsScorer:
        judged = {self.judge_by: self._only} if self._only is not None else self.tasks
        return HeadsScorer(
            self,
            {head: task.scorer(None if data is None else data.heads[head]) for head, task in judged.items()},
        )

    def shipped_scorer(self, spec: Any) -> Any:
        return self.scorer(None) if self._only is None else self._only.shipped_scorer(spec)

    def details(self, scorer: Any, data: SeveralData) -> dict[str, Any]:
        if self._only is not None:
            own = scorer.heads[self.judge_by] if isinstance(scorer, HeadsScorer) else scorer
            return self._only.details(own, data.heads[self.judge_by])
        return {
            head: {task.metric.name: round(own.value(), 4), **task.details(own, data.heads[head])}
            for (head, task), own in zip(self.tasks.items(), scorer.heads.values(), strict=True)
        }

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: SeveralData, sizes: Sizes, *, from_pixels: bool = False) -> Feed:  # type: ignore[override]
        if self._only is not None:
            own = self._only.feed(data.heads[self.judge_by], sizes, from_pixels=from_pixels)
            return HeadFeed(own, self, self.judge_by)
        if not self.sizes:
            raise UsageError(
                "a file has one output, but the model gives one for each head; export that of a head: ofa judge --run "
                f"RUN --by {next(iter(self.tasks))} --out OTHER"
            )
        if from_pixels:
            raise UsageError("a network of several heads takes floats, not pixels; leave that out")
        feeds = {head: task.feed(data.heads[head], sizes) for head, task in self.tasks.items()}
        return AllFeed(data.first, int(sizes["resolution"]), False, ("heads", "heads"), task=self, feeds=feeds)

    def check_labels(self, labels: Sequence[Any], classes: Sequence[str]) -> None:
        for label in labels:
            if not isinstance(label, Mapping) or list(label) != list(self.tasks):
                raise ConfigError(f"sample_labels must say what is right for {', '.join(self.tasks)}")
        for head, task in self.tasks.items():
            task.check_labels([label[head] for label in labels], names_of(classes, head))

    def truth(self, labels: Sequence[Any], spec: Any, folder: Path) -> Any:
        return {head: task.truth([label[head] for label in labels], spec, folder) for head, task in self.tasks.items()}

    @property
    def predict_script(self) -> Path:
        return Path(predict_several.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        return Card(
            what=f"A network that says several things of a picture ({', '.join(self.tasks)})",
            input=self.picture(info["preprocessing"]),
            pipeline_tag="image-feature-extraction",
            metric="mean",
            metric_title=self.metric.label,
            metric_value=info[self.metric.name]["value"],
        )

    def report_section(self, bundles: Sequence[Exhibit]) -> Section | None:
        return None if self._only is None else self._only.report_section(bundles)


def _together(batches: Mapping[str, Iterator[tuple[Any, Any]]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The inputs of the first, and the targets of all."""
    for each in zip(*batches.values(), strict=True):
        yield each[0][0], dict(zip(batches, (targets for _, targets in each), strict=True))


@dataclass(frozen=True, kw_only=True)
class _Facts(Record):
    """What a run keeps of its data: for each head what its task does."""

    heads: dict[str, dict[str, Any]]


class HeadsScorer:
    """Judges one head, or all: the mean of what their judges say, and of the ends of their intervals."""

    def __init__(self, task: Several, heads: Mapping[str, Any]) -> None:
        self._task, self.heads = task, heads

    @property
    def num_images(self) -> int:
        return min(scorer.num_images for scorer in self.heads.values())

    def update(self, outputs: Any, targets: Mapping[str, Any]) -> None:
        """Take in what a model gives, or the numbers of all heads ``(N, sum of sizes)`` of a file."""
        parts = self._task.parts(outputs)
        for head, scorer in self.heads.items():
            scorer.update(parts[head], targets[head])

    def value(self) -> float:
        return float(np.mean([scorer.value() for scorer in self.heads.values()]))

    def score(self) -> Score:
        if len(self.heads) == 1:
            return next(iter(self.heads.values())).score()
        scores = [scorer.score() for scorer in self.heads.values()]
        value, low, high = (float(np.mean([getattr(each, end) for each in scores])) for end in ("value", "low", "high"))
        return Score(value=value, low=low, high=high, num_images=self.num_images)


class HeadOf(nn.Module):
    """What one head of a network gives."""

    def __init__(self, module: nn.Module, task: Several, head: str) -> None:
        super().__init__()
        self.module, self.task, self.head = module, task, head
        self.eval()

    def forward(self, images: Tensor) -> Any:
        return self.task.parts(self.module(images))[self.head]


class AllHeads(nn.Module):
    """The numbers of all heads as they are shipped, side by side.

    Args:
        heads: What becomes of each.
    """

    def __init__(self, module: nn.Module, task: Several, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.module, self.task, self.heads = module, task, nn.ModuleDict(heads)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        parts = self.task.parts(self.module(images))
        return torch.cat([module(parts[head]) for head, module in self.heads.items()], dim=1)


@dataclass(frozen=True)
class HeadFeed:
    """The samples of a head's task, for networks of which only this head is shipped."""

    feed: Feed
    task: Several
    head: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.feed, name)

    def wrap(self, network: nn.Module) -> nn.Module:
        return self.feed.wrap(HeadOf(network, self.task, self.head))


@dataclass(frozen=True, kw_only=True)
class AllFeed(ImageFeed):
    """Images, and for each what is right for all heads."""

    task: Several
    feeds: Mapping[str, Feed]

    def wrap(self, network: nn.Module) -> nn.Module:
        return AllHeads(network, self.task, {head: feed.wrap(nn.Identity()) for head, feed in self.feeds.items()})

    def batches(self, split: str) -> Iterator[tuple[Any, Any]]:
        return _together({head: feed.batches(split) for head, feed in self.feeds.items()})

    def samples(self, num: int) -> Samples:
        each = {head: feed.samples(num) for head, feed in self.feeds.items()}
        files = next(iter(each.values())).files
        labels = tuple({head: samples.labels[row] for head, samples in each.items()} for row in range(len(files)))
        return Samples(files, labels)
