"""Object detection: what is where in a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError, ImageData, Preprocessing
from ofa.data.boxes import NONE, padded, windowed
from ofa.data.picture import seen
from ofa.data.readers.boxes import check_name, guess_form, read_boxes
from ofa.data.readers.source import EncodedImages, Source, size_of
from ofa.errors import UsageError
from ofa.inputs import tensors_in
from ofa.metrics import MAP, Metric, Score
from ofa.tasks import predict_boxes
from ofa.tasks.average_precision import Matched, average_precisions, matched
from ofa.tasks.box_section import section_of_boxes
from ofa.tasks.image_feed import ImageFeed
from ofa.tasks.image_task import NamedClassesTask
from ofa.tasks.losses.quality_focal import Candidates, QualityFocal, joined, taken_apart
from ofa.tasks.predict_boxes import corners, grids_of, objects_in, priors_of
from ofa.tasks.task import Array, Card, Exhibit, Samples, Section, Sizes

NUM_RESAMPLES = 200
IMAGES_ONLY: Mapping[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "auto_augment": "none", "balance": 0.0}
"""What boxes cannot move along with, and what is off."""


class _Framed(NamedTuple):
    """Objects ``(n, 5)`` of a user's own picture, and its width and height."""

    objects: list[list[float]]
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Detection(NamedClassesTask):
    """Images in; out come, for each level of a pyramid from fine to coarse, logits of the classes ``(N, A * K, h, w)``,
    and then, for each level, boxes ``(N, A * 4, h, w)``, in lists or any other pytree, for the ``A`` priors of a place.

    Targets are objects ``(N, M, 5)``, see :mod:`ofa.data.boxes`. Boxes are shares of the picture's sides, so that a
    level finds the same objects at every resolution.

    Args:
        names: Of the classes, in order; without any those of the data.
        strides: Of the levels, in pixels of the input.
        sides: Of the priors of each level, as shares of the picture's sides; without any, 0.2 to 0.95 in equal steps
            (SSD).
        priors: ``boxes``: those of SSD, six for a place with two aspect ratios; the model says how far a box is off.
            ``points``: one for a place, from which the model says the distances to the four sides, as without anchors.
        aspect_ratios: Of ``boxes``.
    """

    names: tuple[str, ...] = ()
    strides: tuple[int, ...] = (8, 16, 32)
    sides: tuple[float, ...] = ()
    priors: Literal["boxes", "points"] = "points"
    aspect_ratios: tuple[float, ...] = (2.0, 3.0)

    losses = (QualityFocal,)
    is_wrapped = True
    num_samples = 8
    judged_together = 32
    num_calibration = 128

    def __post_init__(self) -> None:
        if not self.strides or min(self.strides) < 1 or list(self.strides) != sorted(set(self.strides)):
            raise ConfigError(f"task.strides must be pixels, each more than the one before, not {list(self.strides)}")
        if self.sides and (len(self.sides) != len(self.strides) or not all(0 < side <= 1 for side in self.sides)):
            raise ConfigError(
                f"task.sides must be a share of the picture above 0, up to 1, for each of the {len(self.strides)} "
                f"strides, not {list(self.sides)}"
            )
        if min(self.aspect_ratios, default=2.0) <= 1:
            raise ConfigError(f"task.aspect_ratios must be above 1 (both ways), not {list(self.aspect_ratios)}")
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"task.names has one twice: {', '.join(self.names)}")

    @property
    def metric(self) -> Metric:
        return MAP

    def check_settings(self, data: DataConfig, *, pretrained: bool) -> None:
        check_name(data)
        for name, off in IMAGES_ONLY.items():
            if getattr(data, name) != off:
                raise DataError(
                    f"data.{name} is not for task {self.name}, whose boxes would not fit; leave it at {off}"
                )

    # -- models ------------------------------------------------------------------------------------------------------

    @property
    def _facts(self) -> dict[str, Any]:
        """What ``predict.py`` reads in ``bundle.json``."""
        return dataclasses.asdict(self)

    @property
    def per_place(self) -> int:
        """Priors of a place."""
        return 2 + 2 * len(self.aspect_ratios) if self.priors == "boxes" else 1

    def check_outputs(self, output_type: str, shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        num, each = len(self.strides), self.per_place
        wanted = [each * num_classes] * num + [each * 4] * num
        if any(len(shape) != 4 for shape in shapes) or [shape[1] for shape in shapes] != wanted:
            raise ConfigError(
                f"it gives tensors of {[tuple(shape[1:]) for shape in shapes]} for one image, but task {self.name!r} "
                f"with {num} strides and priors={self.priors} takes {num} of ({each * num_classes}, h, w) and then "
                f"{num} of ({each * 4}, h, w); set task.strides and task.priors as the model has them"
            )

    @torch.no_grad()
    def check_model(self, model: nn.Module, data: ImageData) -> None:
        """Whether the levels are where the strides say; once, at the largest size."""
        (size,) = data.resize_steps()
        was_training = model.training
        maps = tensors_in(model.eval()(torch.zeros(1, data.channels, *size)))[: len(self.strides)]
        model.train(was_training)
        found = [(each.shape[2], each.shape[3]) for each in maps]
        if found != self.grids_of(size):
            raise ConfigError(
                f"of {size[0]} × {size[1]} pixels its levels have {found} places, but with task.strides "
                f"{list(self.strides)} they must have {self.grids_of(size)}; set those that it has"
            )

    def outputs(self, given: Any, targets: Tensor) -> Candidates:
        found, grids = self._joined(given)
        logits, raw = found[..., :-4], found[..., -4:].float()
        priors = torch.from_numpy(self.priors_of(grids)).to(raw.device, torch.float32)
        boxes = torch.stack(corners(raw, priors, self.priors, torch.exp), dim=-1)
        return Candidates(logits, boxes, priors, grids)

    def candidates(self, given: Any) -> tuple[npt.NDArray[np.float32], list[tuple[int, int]]]:
        """What a model gives as it is shipped, ``(N, P, K + 4)``, and the rows and columns of each level."""
        found, grids = self._joined(given)
        return found.float().cpu().numpy(), grids

    def _joined(self, given: Any) -> tuple[Tensor, list[tuple[int, int]]]:
        maps = tensors_in(given)
        grids = [(each.shape[2], each.shape[3]) for each in maps[: len(self.strides)]]
        return all_joined(maps, self.per_place), grids

    def priors_of(self, grids: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
        """See :func:`ofa.tasks.predict_boxes.priors_of`."""
        return priors_of(grids, self._facts)

    def grids_of(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """Rows and columns of each level, of the height and width of the input."""
        return grids_of(size, self._facts)

    # -- data --------------------------------------------------------------------------------------------------------

    def source(self, config: DataConfig) -> Source:
        return read_boxes(config, self.names)

    def settled(self, config: DataConfig) -> DataConfig:
        """The whole picture is seen, unless told otherwise."""
        return config if config.fit else dataclasses.replace(config, fit="squash")

    # -- learning and judging ----------------------------------------------------------------------------------------

    def teaching(self, outputs: Candidates) -> tuple[list[Tensor], list[Tensor]]:
        """Probabilities of the classes, and boxes, as maps of each level."""
        sure, boxes = outputs.logits.detach().float().sigmoid(), outputs.boxes.detach()
        return tuple(taken_apart(each, outputs.grids, outputs.per_place) for each in (sure, boxes))  # type: ignore[return-value]

    def scorer(self, data: Any) -> BoxScorer:
        return BoxScorer(self)

    def shipped_scorer(self, spec: Preprocessing) -> BoxScorer:
        return BoxScorer(self, spec.sizes[-1])

    def details(self, scorer: Any, data: Any) -> dict[str, Any]:
        """Mean average precision at an overlap of one half; and class by class, ``None`` where none is there."""
        each = 100 * scorer.each

        def by_class(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
            found = (None if np.isnan(value) else round(float(value), 4) for value in values)
            return dict(zip(data.classes, found, strict=True))

        return {
            "map50_percent": round(_mean(each[:, 0]), 4),
            "class_average_precision_percent": by_class(each.mean(axis=1)),
            "class_average_precision50_percent": by_class(each[:, 0]),
        }

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: ImageData, sizes: Sizes, *, from_pixels: bool = False) -> BoxFeed:
        return BoxFeed(
            data,
            int(sizes["resolution"]),
            from_pixels,
            ("candidates", "candidates"),
            torch.clone,
            self.per_place,
        )

    def check_labels(self, labels: Sequence[Any], classes: Sequence[str]) -> None:
        if not all(isinstance(label, list) and all(_is_object(row, len(classes)) for row in label) for label in labels):
            raise ConfigError("sample_labels must be lists of objects: class, left, top, right and bottom, 0 to 1")

    def truth(self, labels: Sequence[Any], spec: Preprocessing, folder: Path) -> Array:
        found = padded([label.objects if isinstance(label, _Framed) else label for label in labels])
        for row, label in enumerate(labels):
            if isinstance(label, _Framed):
                window = np.array(seen(label.size, spec.sizes[0], spec.fit, spec.crop_pct)) / np.tile(label.size, 2)
                found[row] = windowed(torch.from_numpy(found[row]), *window.tolist()).numpy()
        return found

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[Path, _Framed]]:
        """Pictures with their boxes, in whatever form this is."""
        config = DataConfig(name=guess_form(folder), root=str(folder))
        source = read_boxes(config, classes, is_trained=False)
        images: Any = source.images
        assert source.objects is not None and isinstance(images, EncodedImages)
        objects = [each[each[:, 0] != NONE].tolist() for each in source.objects]
        return [
            (Path(file), _Framed(objects[row], size_of(images, row)))  # type: ignore[arg-type]
            for row, (file, _) in enumerate(images.encoded)
        ]

    @property
    def predict_script(self) -> Path:
        return Path(predict_boxes.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        return Card(
            what=f"An object detector for {len(info['classes'])} classes",
            input=self.picture(info["preprocessing"]),
            pipeline_tag="object-detection",
            metric="mean_average_precision",
            metric_title=self.metric.label,
            metric_value=round(info[self.metric.name]["value"] / 100, 6),
        )

    def report_section(self, bundles: Sequence[Exhibit]) -> Section | None:
        return section_of_boxes(bundles)


def _is_object(row: Any, num_classes: int) -> bool:
    if not isinstance(row, list) or len(row) != 5 or row[0] not in range(num_classes):
        return False
    return all(isinstance(value, int | float) and 0 <= value <= 1 for value in row[1:])


class BoxScorer:
    """Mean average precision over classes and overlaps of 0.50 to 0.95, of the whole set together.

    Args:
        size: Height and width of the input, of networks that are shipped: their outputs do not tell.
    """

    def __init__(self, task: Detection, size: Sequence[int] = ()) -> None:
        self._task = task
        self._grids = task.grids_of(size) if size else []
        self._pictures: list[Matched] = []

    @property
    def num_images(self) -> int:
        return len(self._pictures)

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in the maps of a model, or what is made of them for a file, ``(N, P, K + 4)``; objects ``(N, M, 5)``."""
        task = self._task
        found, grids = (outputs, self._grids) if isinstance(outputs, np.ndarray) else task.candidates(outputs)
        priors = task.priors_of(grids)
        if found.shape[1] != len(priors):
            raise ConfigError(
                f"the network says something of {found.shape[1]} priors, but task.strides {list(task.strides)} make "
                f"{len(priors)} of its input; at this resolution its levels are rounded otherwise: leave it out"
            )
        for each, there in zip(found.astype(np.float64), np.asarray(torch.as_tensor(targets).cpu()), strict=True):
            objects = objects_in(each, priors, task.priors)
            self._pictures.append(matched(objects, there, each.shape[1] - 4))

    @property
    def each(self) -> npt.NDArray[np.float64]:
        """Of each class at each overlap, ``(K, T)``; not-a-number for a class that is nowhere."""
        if not self._pictures:
            raise UsageError("average precision needs at least one image")
        return average_precisions(self._pictures, np.ones((1, len(self._pictures)), dtype=np.int64))[0]

    def value(self) -> float:
        return 100 * _mean(self.each)

    def score(self) -> Score:
        """With a 95 % interval by bootstrap over images (Efron and Tibshirani 1993, sec. 13.3)."""
        value, num = self.value(), self.num_images
        weights = np.random.default_rng(0).multinomial(num, [1 / num] * num, size=NUM_RESAMPLES)
        drawn = [100 * _mean(each) for each in average_precisions(self._pictures, weights)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        return Score(value=value, low=min(float(low), value), high=max(float(high), value), num_images=num)


def _mean(each: npt.NDArray[np.float64]) -> float:
    """Over classes that are somewhere; 0 if none is."""
    known = each[~np.isnan(each)]
    return float(known.mean()) if len(known) else 0.0


@dataclass(frozen=True)
class BoxFeed(ImageFeed):
    """Images with objects."""

    per_place: int = 1

    def wrap(self, network: nn.Module) -> nn.Module:
        return super().wrap(AsCandidates(network, self.per_place))

    def samples(self, num: int) -> Samples:
        """The first test pictures, and the objects in them."""
        objects = (
            [[int(kind), *(round(side, 5) for side in box)] for kind, *box in row if kind != NONE]
            for row in self.data.labels("test")[:num].tolist()
        )
        return super().samples(num)._replace(labels=tuple(objects))


class AsCandidates(nn.Module):
    """One tensor ``(N, P, K + 4)`` of the maps that a network gives: logits and the four numbers of a box."""

    def __init__(self, module: nn.Module, per_place: int) -> None:
        super().__init__()
        self.module, self.per_place = module, per_place
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return all_joined(tensors_in(self.module(images)), self.per_place)


def all_joined(maps: Sequence[Tensor], per_place: int) -> Tensor:
    """Maps of logits and then maps of boxes, of all levels, as ``(N, P, K + 4)``."""
    num = len(maps) // 2
    return torch.cat([joined(part, per_place) for part in (maps[:num], maps[num:])], dim=2)
