"""Data sets as tar files of many pictures, made of any other: `ofa data shard`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ofa.data.config import DataError
from ofa.data.order import in_turns
from ofa.data.picture import EXTENSIONS, upright
from ofa.data.readers.shards import DESCRIPTION, INDEX, PLAN, samples_in
from ofa.data.readers.source import FileImages, Source
from ofa.files import (
    FORMAT,
    FileFormatError,
    atomic_path,
    read_json,
    remove_leftovers,
    resolved,
    sha256_of_file,
    write_json_atomic,
)
from ofa.locks import only_writer
from ofa.progress import Progress

SHARD_MB = 256
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
NUM_UNKNOWN = 2_000
"""Pictures of a shard where nobody knows how long their files will be."""


@dataclass(frozen=True)
class Sharded:
    """What was written.

    Args:
        shards: Of each ``file``, ``split``, ``samples``, ``bytes``, ``sha256``.
    """

    path: Path
    classes: tuple[str, ...]
    shards: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "classes": list(self.classes), "shards": self.shards}


def write_shards(
    source: Source, out: Path | str, *, shard_mb: int = SHARD_MB, seed: int = 0, progress: Progress | None = None
) -> Sharded:
    """Write a data set as tar files: ``train-000000.tar``, … and ``test-000000.tar``, …

    Pictures come in random order, their files as they are; what is no file (idx, say) becomes PNG. Beside each lies its
    class as a number (``.cls``) and what else is known (``.json``). Interrupted, the same call goes on with the next
    shard; the same data gives the same bytes.

    Raises:
        DataError: If more than one class of each picture is to be learnt, or something else is at ``out``.
        LockedError: If somebody else writes there.
        NoSpaceError: If the disk is full; what is finished stays.
    """
    if source.strata != source.classes:
        raise DataError("shards are of pictures with a class each; masks, boxes and other targets stay in their files")
    out = resolved(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(out, command="ofa data shard", beside=True):
        plan = _plan(source, shard_mb=shard_mb, seed=seed)
        _check_destination(out, plan)
        out.mkdir(exist_ok=True)
        remove_leftovers(out)
        write_json_atomic(out / PLAN, plan)
        shards: list[dict[str, Any]] = []
        tables, done = [], 0
        for split, number, rows in _parts(source, shard_mb=shard_mb, seed=seed):
            path = out / f"{split}-{number:06}.tar"
            if not path.exists():
                with atomic_path(path) as temporary:
                    _write_shard(temporary, source, rows)
            tables.append(_table_of(path, source, rows))
            shards.append({"file": path.name, "split": split, "samples": len(rows), "bytes": path.stat().st_size})
            done += len(rows)
            if progress is not None:
                progress(done, len(source.labels), "writing shards")
        for shard in shards:
            shard["sha256"] = sha256_of_file(out / shard["file"])
        with atomic_path(out / INDEX) as temporary:
            pd.concat(tables).to_parquet(temporary, index=False)
        write_json_atomic(out / DESCRIPTION, {"format": FORMAT, "classes": list(source.classes), "shards": shards})
        (out / PLAN).unlink()
    return Sharded(out, source.classes, shards)


def _plan(source: Source, *, shard_mb: int, seed: int) -> dict[str, Any]:
    """What tells whether shards that are there are those that are to be written."""
    state = hashlib.sha256(source.labels.tobytes())
    for index in range(len(source.labels)):
        state.update(f"{source.samples.name(index)} {source.samples.num_bytes(index)}\n".encode("utf-8", "replace"))
    return {"format": FORMAT, "data": state.hexdigest(), "shard_mb": shard_mb, "seed": seed}


def _check_destination(out: Path, plan: Mapping[str, Any]) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if (out / DESCRIPTION).exists():
        raise DataError(f"{out} holds a finished data set; give another --out")
    with suppress(FileFormatError):
        if (out / PLAN).is_file() and read_json(out / PLAN, kind="plan", remedy="") == plan:
            return
    raise DataError(f"{out} holds something else, or shards of other data; give another --out")


def _parts(source: Source, *, shard_mb: int, seed: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """Split, number and rows of each shard."""
    num, rng = len(source.labels), np.random.default_rng(seed)
    bounds = {"train": (0, num - source.num_test), "test": (num - source.num_test, num)}
    for split, (first, end) in bounds.items():
        rows = first + rng.permutation(end - first)
        near = source.images.near if isinstance(source.images, FileImages) else None
        rows = rows if near is None or not len(rows) else in_turns(rows, near, rng)
        sizes = [source.images.num_bytes(int(row)) for row in rows]
        limit, filled, start, number = shard_mb * 10**6, 0, 0, 0
        for position, size in enumerate(sizes):
            filled += limit // NUM_UNKNOWN if size is None else size
            if filled >= limit or position == len(rows) - 1:
                yield split, number, rows[start : position + 1]
                start, filled, number = position + 1, 0, number + 1


def _write_shard(path: Path, source: Source, rows: np.ndarray) -> None:
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for row in map(int, rows):
            content, suffix = _file_of(source, row)
            facts = {"name": _name(source, row), "label": source.classes[source.labels[row]]}
            if source.groups is not None:
                facts["group"] = str(source.groups[row])
            files = {
                suffix: content,
                ".cls": str(source.labels[row]).encode(),
                ".json": json.dumps(facts, ensure_ascii=False).encode("utf-8", "replace"),
            }
            for end, data in files.items():
                member = tarfile.TarInfo(f"{row:09}{end}")
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))


def _file_of(source: Source, row: int) -> tuple[bytes, str]:
    """What is in a picture's file, and how its name ends."""
    images = source.images
    if isinstance(images, FileImages):
        name = images.name(row)
        suffix = os.path.splitext(name)[1].lower()
        data = images.read(row)
        if suffix not in EXTENSIONS:
            images[row]  # it is one
            with Image.open(io.BytesIO(data)) as image:
                suffix = {"JPEG": ".jpg", "MPO": ".jpg"}.get(str(image.format), f".{str(image.format).lower()}")
        return data, suffix
    buffer, picture = io.BytesIO(), upright(images[row])
    (picture if picture.mode in PNG_MODES else picture.convert("RGB")).save(buffer, format="PNG")
    return buffer.getvalue(), ".png"


def _name(source: Source, row: int) -> str:
    """Of a picture, in UTF-8 whatever its file is called."""
    return source.images.name(row).encode("utf-8", "replace").decode()


def _table_of(path: Path, source: Source, rows: np.ndarray) -> pd.DataFrame:
    """Where the pictures of a shard are."""
    places = {}
    with tarfile.open(path, "r:") as tar:
        for key, parts in samples_in(tar):
            member = next(member for suffix, member in parts.items() if suffix in EXTENSIONS)
            places[int(key)] = (member.offset_data, member.size)
    if sorted(places) != sorted(rows.tolist()):
        raise DataError(f"{path} does not hold what it should; remove it, and the same command writes it again")
    found = [places[row] for row in rows.tolist()]
    return pd.DataFrame(
        {
            "file": path.name,
            "name": [_name(source, row) for row in rows.tolist()],
            "offset": np.array([offset for offset, _ in found], dtype=np.int64),
            "size": np.array([size for _, size in found], dtype=np.int64),
            "label": source.labels[rows].astype(str),
            "group": "" if source.groups is None else source.groups[rows].astype(str),
        }
    )
