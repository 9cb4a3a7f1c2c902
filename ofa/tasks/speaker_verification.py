"""Speaker verification: whether two recordings are of one voice, of speakers that training never heard."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError
from ofa.data.readers.sounds import SoundSource, read_sounds
from ofa.data.sound_data import SoundData
from ofa.errors import UsageError
from ofa.inputs import tensors_in
from ofa.metrics import EQUAL_ERROR_RATE, Score
from ofa.tasks import predict_voice
from ofa.tasks.speech import SoundFeed, Speech
from ofa.tasks.task import Card, Exhibit, Samples, Section, Sizes

NUM_RESAMPLES = 100
MAX_RECORDINGS = 1000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SpeakerVerification(Speech):
    """Bands ``(N, num_bands, frames)`` in; logits of the speakers of the training split ``(N, num_classes)`` out, and
    the features that they are made of, ``(N, num_features)``, which are compared, and shipped.

    Labels of recordings are speakers. Those of the test split may be others than those of the training split.
    """

    judge_by: Literal["equal_error_rate_percent"] = "equal_error_rate_percent"  # type: ignore[assignment]

    is_open = True
    num_needed = 2

    # -- models ------------------------------------------------------------------------------------------------------

    def check_outputs(self, output_type: str, shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        super().check_outputs(output_type, shapes, num_classes)
        if len(shapes) < 2 or len(shapes[1]) != 2:
            raise ConfigError(
                f"it gives {len(shapes)} tensors, but task {self.name!r} takes two: logits ({num_classes},) and the "
                "features that they are made of"
            )

    # -- data --------------------------------------------------------------------------------------------------------

    def source(self, config: DataConfig) -> SoundSource:
        """Speakers of the test set that are nowhere else come last, so that classes are those that can be learnt."""
        source = super().source(config)
        learnt = sorted(set(source.labels[: len(source.labels) - source.num_test].tolist()))
        order = [*learnt, *(label for label in range(len(source.classes)) if label not in learnt)]
        labels = np.argsort(order)[source.labels].astype(np.int64)
        return dataclasses.replace(source, classes=tuple(source.classes[label] for label in order), labels=labels)

    def _load(self, config: DataConfig, sizes: Sizes, **settings: Any) -> SoundData:
        data = super()._load(config, sizes, **settings)
        for split in ("search", "test"):
            if not has_pairs(data.source.labels[data.splits[split]]):
                raise DataError(
                    f"the {split} split has {len(data.splits[split])} recordings, but no two of one voice, or all of "
                    "one: nothing can be compared there; raise data.search_share, or give more recordings a speaker"
                )
        return data

    def num_classes(self, data: SoundData) -> int:
        return 1 + int(data.source.labels[data.splits.train].max())

    # -- judging -----------------------------------------------------------------------------------------------------

    def scorer(self, data: Any) -> VoiceScorer:  # type: ignore[override]
        return VoiceScorer()

    def details(self, scorer: Any, data: Any) -> dict[str, Any]:
        """The likeness above which two recordings are said to be of one voice, at the equal error rate."""
        return {"threshold": round(scorer.threshold, 6)}

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: SoundData, sizes: Sizes, *, from_pixels: bool = False) -> VoiceFeed:
        feed = super().feed(data, sizes, from_pixels=from_pixels)
        return VoiceFeed(feed.data, feed.num_frames, feed.in_graph)

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
        """Recordings of a table, or each in a folder that is called as its speaker, whoever these are."""
        source = read_sounds(DataConfig(name="sounds", root=str(folder)))
        files = [file for file, _ in source.samples.files]
        return list(zip(files, source.labels.tolist(), strict=True))

    @property
    def predict_script(self) -> Path:
        return Path(predict_voice.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        return dataclasses.replace(
            super().card(info),
            what="A network that tells whether two recordings are of one voice",
            metric="equal_error_rate",
            metric_title=self.metric.label,
        )

    def report_section(self, bundles: Sequence[Exhibit]) -> Section | None:
        """How alike the features of the samples are, of one voice and of two."""
        rows = [row for bundle in bundles if (row := _row(bundle))]
        if not rows:
            return None
        return Section(
            title="How alike voices are",
            head=("Bundle", "Pairs of one voice", "Pairs of two", "Taken for one voice from"),
            rows=rows,
            note="Cosines between features of the bundle's samples: the 10th percentile, the median and the 90th.",
        )


def _row(bundle: Exhibit) -> list[str]:
    """Nothing where a bundle is not as it should be."""
    try:
        features = np.load(bundle.folder / "samples" / "outputs.npy", allow_pickle=False).astype(np.float64)
        labels = np.array(bundle.info["sample_labels"])
        likeness, is_same = pairs(features, labels)
        threshold = float(bundle.info[EQUAL_ERROR_RATE.name]["details"]["threshold"])
    except (OSError, ValueError, LookupError, TypeError, EOFError):
        return []

    def text(values: Floats) -> str:
        return ", ".join(f"{value:.2f}" for value in np.percentile(values, [10, 50, 90])) if len(values) else "–"

    return [bundle.name, text(likeness[is_same]), text(likeness[~is_same]), f"{threshold:.2f}"]


def has_pairs(labels: npt.NDArray[Any]) -> bool:
    """Whether some two recordings are of one voice, and some two are not."""
    _, counts = np.unique(labels, return_counts=True)
    return len(counts) > 1 and int(counts.max()) > 1


def pairs(features: Floats, labels: npt.NDArray[Any]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Cosine of each pair of recordings, and whether they are of one voice, ``(P,)`` both."""
    rows, columns = np.triu_indices(len(labels), k=1)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return (unit @ unit.T)[rows, columns], labels[rows] == labels[columns]


def equal_error(likeness: Floats, is_same: npt.NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats]:
    """Error rate, in percent, and threshold where as great a share of pairs of one voice is refused as of two is taken.

    Args:
        likeness: ``(P,)``; of those that are equal, all are taken or none.
        weights: How often each pair counts, ``(R, P)``.

    Returns:
        Both ``(R,)``; the mean of the two shares where they come nearest.
    """
    order = np.argsort(-likeness, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(likeness[order])), len(order) - 1)
    weights = weights[:, order]
    taken = np.cumsum(weights * is_same[order], axis=1)[:, ends], np.cumsum(weights * ~is_same[order], axis=1)[:, ends]
    right, wrong = (each / np.maximum(each[:, -1:], 1e-12) for each in taken)
    refused = 1 - right
    nearest = np.abs(refused - wrong).argmin(axis=1)
    rows = np.arange(len(weights))
    return 50 * (refused[rows, nearest] + wrong[rows, nearest]), likeness[order][ends][nearest]


class VoiceScorer:
    """Equal error rate of all pairs of recordings; of more than 1,000, of those of as many, evenly spread."""

    def __init__(self) -> None:
        self._seen: list[tuple[Floats, npt.NDArray[np.int64]]] = []
        self._known: tuple[int, tuple[npt.NDArray[Any], ...]] | None = None  # pairs, of so many recordings

    @property
    def num_images(self) -> int:
        return sum(len(labels) for _, labels in self._seen)

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in what a model gives, or features ``(N, num_features)`` of a file, and speakers ``(N,)``."""
        features = outputs if isinstance(outputs, np.ndarray) else tensors_in(outputs)[1].float().cpu().numpy()
        labels = targets.cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
        self._seen.append((features.astype(np.float64), labels.astype(np.int64)))

    def value(self) -> float:
        return float(self._of(np.ones((1, self._num)))[0][0])

    @property
    def threshold(self) -> float:
        return float(self._of(np.ones((1, self._num)))[1][0])

    def score(self) -> Score:
        """With a 95 % interval by bootstrap over recordings (Efron and Tibshirani 1993, sec. 13.3)."""
        value, num = self.value(), self._num
        weights = np.random.default_rng(0).multinomial(num, [1 / num] * num, size=NUM_RESAMPLES)
        drawn = np.concatenate([self._of(row[None].astype(float))[0] for row in weights])
        low, high = np.percentile(drawn, [2.5, 97.5])
        return Score(value=value, low=min(float(low), value), high=max(float(high), value), num_images=self.num_images)

    @property
    def _num(self) -> int:
        return min(self.num_images, MAX_RECORDINGS)

    def _of(self, weights: Floats) -> tuple[Floats, Floats]:
        """For weights of the recordings ``(R, n)``."""
        likeness, is_same, rows, columns = self._pairs()
        return equal_error(likeness, is_same, weights[:, rows] * weights[:, columns])

    def _pairs(self) -> tuple[npt.NDArray[Any], ...]:
        """Likeness of each pair, the most alike first, whether it is of one voice, and which recordings it is of."""
        if not self._seen:
            raise UsageError("an equal error rate needs at least one recording")
        if self._known is None or self._known[0] != self.num_images:
            features, labels = (np.concatenate(parts) for parts in zip(*self._seen, strict=True))
            chosen = np.linspace(0, len(labels) - 1, self._num).round().astype(int)
            if not has_pairs(labels[chosen]):
                raise DataError("the recordings that are judged by have no two of one voice, or are all of one")
            found = (*pairs(features[chosen], labels[chosen]), *np.triu_indices(self._num, k=1))
            order = np.argsort(-found[0], kind="stable")  # once: what is sorted is sorted again in no time
            self._known = self.num_images, tuple(each[order] for each in found)
        return self._known[1]


@dataclass(frozen=True)
class VoiceFeed(SoundFeed):
    """Recordings of voices."""

    output = "features"
    number = 1

    @cached_property
    def paired(self) -> SoundFeed:
        """With a test split whose first recordings are two of each voice, as far as there are some."""
        rows, labels = self.data.splits.test, self.data.source.labels[self.data.splits.test]
        rank = np.empty(len(rows), dtype=np.int64)  # of a recording among those of its voice
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            rank[own] = np.arange(len(own))
        first_of = {label: place for place, label in reversed(list(enumerate(labels.tolist())))}
        order = sorted(range(len(rows)), key=lambda row: (rank[row] // 2, first_of[int(labels[row])], rank[row]))
        splits = dataclasses.replace(self.data.splits, test=rows[order])
        return SoundFeed(dataclasses.replace(self.data, splits=splits), self.num_frames, self.in_graph)

    def first(self, split: str, num: int) -> Any:
        return self.paired.first(split, num)

    def samples(self, num: int) -> Samples:
        return self.paired.samples(num)
