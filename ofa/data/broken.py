"""Images that cannot be read: found before anything is trained, all at once, and remembered."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import PIL
import torch
from joblib import cpu_count
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ofa.data.config import DataError
from ofa.data.readers.source import ArrayImages, FileImages, Images, Source
from ofa.data.splits import SPLITS, Indices, Splits
from ofa.data.user_cache import user_cache
from ofa.errors import shown
from ofa.files import FORMAT, FileFormatError, read_json, write_json_atomic, write_text_atomic
from ofa.progress import Progress

CHUNK = 32
LISTED = 20

Result = TypeVar("Result")


def find_broken(source: Source, indices: Indices, *, progress: Progress | None = None) -> dict[int, str]:
    """Index -> reason of every image that cannot be read.

    What was found is kept in the user's cache, so that the same files are read once, however often a run is resumed.
    """
    if isinstance(source.images, ArrayImages):
        return {}
    indices = np.unique(indices)
    memory = _memory(source.images, indices)
    if memory is not None:
        with contextlib.suppress(FileFormatError, OSError, LookupError, TypeError, ValueError):
            known = read_json(memory, kind="list of broken images", remedy="it is made anew")["broken"]
            return _found(source.images, [int(index) for index in known])  # they may be readable by now
    found: dict[int, str] = {}
    for broken in each_image(_look, source, indices, "checking images", progress):
        found |= broken
    if memory is not None:
        with contextlib.suppress(OSError):  # nothing depends on it
            write_json_atomic(memory, {"format": FORMAT, "broken": list(found)}, indent=None)
    return found


def each_image(
    look: Callable[[Source, int], Result],
    source: Source,
    indices: Indices,
    what: str,
    progress: Progress | None,
    workers: int | None = None,
) -> Iterator[Result]:
    """What a function says of each image, in order, by a process a core unless told."""
    num = workers or cpu_count()
    loader = DataLoader(
        _Looks(look, source),
        sampler=[indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)],
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num if num > 1 and len(indices) > CHUNK else 0,
        generator=torch.Generator(),  # otherwise the global one is advanced
    )
    done = 0
    for results in loader:
        done += len(results)
        if progress is not None:
            progress(done, len(indices), what)
        yield from results


@dataclass(frozen=True, eq=False)
class NotingImages:
    """Images of another, with a black one in place of each that cannot be read, which is noted in ``broken``."""

    images: Images
    broken: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def __getitem__(self, index: int) -> Image.Image:
        try:
            return self.images[index]
        except DataError as error:
            self.broken[int(index)] = str(error)
            return Image.new("L", (1, 1))


def refuse_broken(source: Source, broken: Mapping[int, str], *, remedy: str) -> None:
    """One :class:`DataError` about all of them, if there are any; a file has the whole list where it is long."""
    if not broken:
        return
    broken = dict(sorted(broken.items()))
    listed = "".join(f"\n  {reason}" for reason in list(broken.values())[:LISTED])
    more = f"\n  and {len(broken) - LISTED} more, all of them in {_list_file(source, broken)}" * (len(broken) > LISTED)
    raise DataError(f"{len(broken)} of {len(source.labels)} images cannot be read; {remedy}:{listed}{more}")


def leave_out(splits: Splits, broken: Sequence[int], source: Source) -> Splits:
    """Splits without some images.

    Raises:
        DataError: If a class is left without training images, or a split without any.
    """
    parts: dict[str, Any] = {split: splits[split][~np.isin(splits[split], broken)] for split in SPLITS}
    kept = replace(splits, **parts)
    for split in (split for split in SPLITS if not len(kept[split])):
        raise DataError(f"none of the {len(splits[split])} images of the {split} split can be read; replace them")
    if len(gone := np.setdiff1d(source.labels[splits.train], source.labels[kept.train])):
        name = source.strata[int(gone[0])]
        raise DataError(f"none of the training images of class {shown(name)} can be read; replace them")
    return kept


def _found(images: Images, indices: Sequence[int]) -> dict[int, str]:
    noting = NotingImages(images)
    for index in indices:
        noting[index]
    return noting.broken


def _look(source: Source, index: int) -> dict[int, str]:
    return _found(source.images, [index])


def _memory(images: Images, indices: Indices) -> Path | None:
    """The file that says which of some images are broken; another if one of them has changed since.

    ``None`` if it cannot be told without decoding whether they have.
    """
    if not isinstance(images, FileImages):
        return None
    state = hashlib.sha256(f"{PIL.__version__} {len(indices)}".encode())
    for index in indices:
        state.update(f"{index} {images.name(index)!r} {images.stamp(index)}\n".encode(errors="surrogateescape"))
    return user_cache() / f"{state.hexdigest()}.json"


def _list_file(source: Source, broken: Mapping[int, str]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("image", "reason"), *((source.images.name(index), why) for index, why in broken.items())])
    content = text.getvalue().encode(errors="backslashreplace")
    path = user_cache() / f"broken-{hashlib.sha256(content).hexdigest()[:12]}.csv"
    write_text_atomic(path, content.decode())
    return path


@dataclass(frozen=True, eq=False)
class _Looks(Dataset[list[Any]], Generic[Result]):
    look: Callable[[Source, int], Result]
    source: Source

    def __getitem__(self, indices: Indices) -> list[Result]:
        return [self.look(self.source, int(index)) for index in indices]


def _as_it_is(results: list[Result]) -> list[Result]:
    return results
