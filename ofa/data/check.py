"""What is in a data set and what is wrong with it, from one look at every image."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from ofa.data.broken import each_image
from ofa.data.config import DataConfig, DataError
from ofa.data.readers import Source, read_source
from ofa.data.readers.source import DECODING_ERRORS, FileImages, orientation
from ofa.data.splits import SPLITS, make_splits
from ofa.files import FORMAT, write_csv_atomic, write_json_atomic
from ofa.progress import Progress

NUM_THUMBNAILS, MAX_THUMBNAILS = 24, 1_200
"""Of a class, and of all of them together."""
THUMBNAIL_SIZE = (216, 108)
"""The most that one is wide and high."""

KINDS = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with alpha",
    "P": "palette",
    "PA": "palette with alpha",
    "RGB": "colour",
    "RGBA": "colour with alpha",
    "I;16": "16 bits a pixel",
}
BROKEN_COLUMNS = ["image", "class", "split", "reason"]
DUPLICATE_COLUMNS = ["group", "same", "image", "class", "split"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DataCheck:
    """What was found.

    Args:
        images: A row each: ``image``, ``class``, ``split`` as training would have it (empty where it has no use for
            it), ``reason`` why it cannot be read, ``width``, ``height``, ``kind``, ``turned`` by EXIF.
        duplicates: A row for each image that there is another of: ``group``, whether bytes or only pixels are the
            ``same``, ``image``, ``class``, ``split``.
        problem: Why training would refuse the data whatever its images are, or nothing.
        thumbnails: Some images of each class, by row, in WebP.
    """

    config: DataConfig
    classes: tuple[str, ...]
    images: pd.DataFrame
    duplicates: pd.DataFrame
    problem: str
    thumbnails: dict[int, bytes]

    @property
    def broken(self) -> pd.DataFrame:
        """``image``, ``class``, ``split``, ``reason`` of what cannot be read."""
        return self.images.loc[self.images["reason"] != "", BROKEN_COLUMNS]

    @property
    def ok(self) -> bool:
        """Whether every image can be read and is in one split only."""
        return not (self.problem or len(self.broken) or self.groups_across("split"))

    def groups_across(self, column: str) -> list[int]:
        """Groups of equal images that are of several classes, or in several splits."""
        used = self.duplicates[self.duplicates[column] != ""]
        several = used.groupby("group")[column].nunique() > 1
        return [int(group) for group in several[several].index]

    def counts(self) -> pd.DataFrame:
        """Images of each class that has some (rows) in each split (columns) and in all."""
        table = pd.crosstab(self.images["class"], self.images["split"])
        columns = [split for split in (*SPLITS, "") if split in table]
        present = [name for name in dict.fromkeys(self.classes) if name in table.index]
        table = table.reindex(index=present, columns=columns, fill_value=0)
        return table.rename(columns={"": "unused"}).assign(all=table.sum(axis=1))

    def sizes(self) -> dict[str, tuple[float, float, float]]:
        """Least, median and most of width, height and width by height, in pixels as stored."""
        readable = self.images[self.images["reason"] == ""]
        values = {
            "width": readable["width"],
            "height": readable["height"],
            "width / height": readable["width"] / readable["height"],
        }
        return {name: (each.min(), each.median(), each.max()) for name, each in values.items() if len(each)}

    def kinds(self) -> dict[str, int]:
        """Images of each kind, and how many of all are turned by EXIF."""
        readable = self.images[self.images["reason"] == ""]
        turned = int(readable["turned"].sum())
        counts = {str(kind): int(num) for kind, num in readable["kind"].value_counts().items()}
        return counts | ({"turned by EXIF": turned} if turned else {})

    def findings(self) -> list[tuple[bool, str]]:
        """Whether all is well, and what was found, in sentences; what is wrong first."""
        counts, (across, labels) = self.counts()["all"], (self.groups_across(name) for name in ("split", "class"))
        groups = self.duplicates["group"].nunique()
        sizes = "; ".join(
            f"{name} {low:.4g} to {high:.4g}, median {mid:.4g}" for name, (low, mid, high) in self.sizes().items()
        )
        found = [
            (not self.problem, self.problem),
            (not len(self.broken), f"images that cannot be read: {len(self.broken)} of {len(self.images)}"),
            (not across, f"images in more than one split: {len(across)}"),
            (not labels, f"images under more than one label: {len(labels)}"),
            (True, f"equal images: {len(self.duplicates)} in {groups} groups"),
            (True, f"the largest class has {counts.max() / max(counts.min(), 1):.3g} times the images of the smallest"),
            (True, sizes),
            (True, ", ".join(f"{count} {kind}" for kind, count in self.kinds().items())),
        ]
        return sorted(((well, text) for well, text in found if text), key=lambda each: each[0])

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "ok": self.ok,
            "data": {"name": self.config.name, "root": self.config.root},
            "num_images": len(self.images),
            "problem": self.problem or None,
            "classes": {name: row.to_dict() for name, row in self.counts().iterrows()},
            "sizes": {
                name: dict(zip(("min", "median", "max"), map(float, each), strict=True))
                for name, each in self.sizes().items()
            },
            "kinds": self.kinds(),
            "in_two_splits": self.groups_across("split"),
            "under_two_labels": self.groups_across("class"),
            "broken": self.broken.to_dict("records"),
            "duplicates": self.duplicates.to_dict("records"),
        }

    def save(self, folder: Path) -> list[Path]:
        """Leave ``data.json``, ``broken.csv`` and ``duplicates.csv``."""
        paths = [folder / name for name in ("data.json", "broken.csv", "duplicates.csv")]
        write_json_atomic(paths[0], self.to_json())
        write_csv_atomic(paths[1], self.broken)
        write_csv_atomic(paths[2], self.duplicates)
        return paths


def check_data(config: DataConfig, *, workers: int | None = None, progress: Progress | None = None) -> DataCheck:
    """Read every image of a data set once.

    Args:
        workers: Processes at a time; one per core if not given.

    Raises:
        DataError: If its labels or the list of its images cannot be read.
    """
    source = read_source(config)
    every = np.arange(len(source.labels))
    wanted = frozenset(_to_be_shown(source, np.random.default_rng(config.seed)))
    looks = list(each_image(partial(_look, wanted=wanted), source, every, "checking images", progress, workers))
    split_of, problem = _split_of(source, config)
    classes = [_printable(name) for name in source.classes]
    images = pd.DataFrame(looks).assign(
        **{
            "image": [_printable(source.images.name(int(index))) for index in every],
            "class": [classes[label] for label in source.labels],
            "split": split_of,
        }
    )
    return DataCheck(
        config=config,
        classes=tuple(classes),
        images=images.drop(columns=["thumbnail", "digest", "pixels"]),
        duplicates=_duplicates(images),
        problem=problem,
        thumbnails={row: each for row, each in enumerate(images["thumbnail"]) if each},
    )


def _to_be_shown(source: Source, rng: np.random.Generator) -> Iterator[int]:
    present = np.unique(source.labels)
    num = max(2, min(NUM_THUMBNAILS, MAX_THUMBNAILS // len(present)))
    for label in present[: MAX_THUMBNAILS // num]:
        yield from sorted(rng.permutation(np.flatnonzero(source.labels == label))[:num].tolist())


def _split_of(source: Source, config: DataConfig) -> tuple[list[str], str]:
    """The split of each image, and why there are none."""
    found = np.full(len(source.labels), "", dtype=object)
    try:
        splits = make_splits(
            source.labels, source.classes, num_test=source.num_test, config=config, groups=source.groups
        )
    except DataError as error:
        num = len(found) - source.num_test
        found[:num], found[num:] = "train", "test"
        return found.tolist(), str(error)
    for split in ("calibration", *(each for each in SPLITS if each != "calibration")):
        found[splits[split]] = split  # what is calibrated with may be a part of what is trained with
    return found.tolist(), ""


def _look(source: Source, index: int, *, wanted: frozenset[int]) -> dict[str, Any]:
    """What is to be known of an image; run by worker processes."""
    found: dict[str, Any] = {
        "reason": "",
        "width": 0,
        "height": 0,
        "kind": "",
        "turned": False,
        "thumbnail": b"",
        "digest": "",
        "pixels": "",
    }
    try:
        image = source.images[index]
        pixels = image.convert("RGBA")
        digest = source.images.digest(index).hex() if isinstance(source.images, FileImages) else ""
    except DataError as error:
        return {**found, "reason": _printable(str(error))}
    except DECODING_ERRORS as error:
        return {**found, "reason": _printable(f"{source.images.name(index)} cannot be converted ({error})")}
    content = hashlib.sha256(f"{pixels.size} ".encode() + pixels.tobytes()).hexdigest()
    kind = KINDS.get(image.mode, image.mode)
    return {
        **found,
        "width": image.width,
        "height": image.height,
        "kind": f"{kind} with alpha" if image.mode in ("P", "RGB", "L") and "transparency" in image.info else kind,
        "turned": orientation(image) != 1,
        "thumbnail": thumbnail(image) if index in wanted else b"",
        "digest": digest or content,
        "pixels": content,
    }


def thumbnail(image: Image.Image) -> bytes:
    """A small version, as WebP; upright, on white where it is transparent."""
    if orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    image = image.convert("RGBA")
    image.thumbnail(THUMBNAIL_SIZE)
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    buffer = io.BytesIO()
    is_tiny = image.height < THUMBNAIL_SIZE[1] // 2
    ground.convert("RGB").save(buffer, format="WEBP", quality=72, lossless=is_tiny)
    return buffer.getvalue()


def _duplicates(images: pd.DataFrame) -> pd.DataFrame:
    """Images that are equal, group by group."""
    found = images[(images["pixels"] != "") & images.duplicated("pixels", keep=False)]
    by_pixels = found.groupby("pixels", sort=False)
    same = by_pixels["digest"].transform("nunique") == 1
    found = found.assign(group=by_pixels.ngroup() + 1, same=np.where(same, "bytes", "pixels"))
    return found.sort_values("group", kind="stable")[DUPLICATE_COLUMNS]


def _printable(text: str) -> str:
    """Names of files may hold bytes that no text has."""
    return text.encode(errors="backslashreplace").decode()
