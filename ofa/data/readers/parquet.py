"""Parquet files with a column of encoded images and a column of labels, as Hugging Face stores data sets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import FileImages, Source, require_root
from ofa.data.readers.split_names import files_by_split
from ofa.data.readers.table import Rows, check_complete, join, open_columns, options_of, read_rows, source_of

if TYPE_CHECKING:
    import pyarrow as pa

HOLDS = (
    "a Parquet file, or a folder with train*.parquet and, optionally, validation*.parquet and test*.parquet, in it or "
    "in its data/, or with folders of files called so"
)
LIMIT_BYTES = 2 * 10**9
"""Of all files; larger ones are read a row group at a time."""
KEPT_BYTES = 1 << 29
"""Of row groups that a process has in memory, besides the last one; training draws from 16 at a time."""


def read_parquet(config: DataConfig) -> Source:
    """Read encoded images (bytes, or a struct with ``bytes`` in it) and labels (integers or strings).

    ``test*.parquet`` and ``val*.parquet`` serve as ``test/`` and ``val/`` do in a folder tree. Where the files hold
    Hugging Face's ``ClassLabel``, classes are called as it says. Files of more than 2 GB together stay where they are,
    and pictures are read a row group at a time.

    Raises:
        DataError: If a file or column is missing, truncated or of another type, or a value is null.
    """
    root = require_root(config, HOLDS)
    base, files = (root.parent, [("train", root)]) if root.is_file() else files_by_split(root, ".parquet", holds=HOLDS)
    if sum(path.stat().st_size for _, path in files) > LIMIT_BYTES:
        return _source_of_rows(files, base, config, root)
    return source_of([(split, _read_file(path, base, config)) for split, path in files], where=root)


def _source_of_rows(files: Sequence[tuple[str, Path]], base: Path, config: DataConfig, root: Path) -> Source:
    """Labels are read now, pictures when they are asked for."""
    import pyarrow.parquet as pq

    parts = []
    for number, (split, path) in enumerate(files):
        table = open_columns(path, config, lambda _: options_of(config, "label_column"))
        if config.image_column not in pq.read_schema(path).names:
            open_columns(path, config, lambda _: ["image_column"])  # which says what there is
        rows: list[Any] = [(number, row) for row in range(len(table))]
        parts.append((split, read_rows(table, config, rows, path)))
    found = join(parts, where=root)
    places = np.array(found.samples, dtype=np.int64)
    images = RowImages(base, tuple(path for _, path in files), config.image_column, places[:, 0], places[:, 1])
    return Source(found.classes, found.labels, images, num_test=found.num_test, groups=found.groups)


@dataclass(frozen=True, eq=False)
class RowImages(FileImages):
    """Pictures in rows of Parquet files.

    Args:
        base: The data set's folder.
        column: Which has the encoded pictures.
        number: Of the file of each picture ``(N,)``.
        row: In it ``(N,)``.
    """

    base: Path
    paths: tuple[Path, ...]
    column: str
    number: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    _kept: _Kept = field(default_factory=lambda: _Kept(), init=False, repr=False)

    def __len__(self) -> int:
        return len(self.number)

    @cached_property
    def _ends(self) -> list[npt.NDArray[np.int64]]:
        """The row behind the last of each row group, for each file."""
        import pyarrow.parquet as pq

        found = []
        for path in self.paths:
            known = pq.read_metadata(path)
            found.append(np.cumsum([known.row_group(group).num_rows for group in range(known.num_row_groups)]))
        return found

    @cached_property
    def near(self) -> npt.NDArray[np.int64]:
        near, before = np.empty(len(self), dtype=np.int64), 0
        for number, ends in enumerate(self._ends):
            own = self.number == number
            near[own] = before + np.searchsorted(ends, self.row[own], side="right")
            before += len(ends)
        return near

    def file(self, index: int) -> bytes:
        number, row = int(self.number[index]), int(self.row[index])
        ends = self._ends[number]
        group = int(np.searchsorted(ends, row, side="right"))
        first = int(ends[group - 1]) if group else 0
        found = self._kept.rows(self.paths[number], group, self.column)[row - first]
        if found is None:
            raise DataError(f"{self.name(index)} has no {self.column!r}; fill or remove it")
        return found

    def name(self, index: int) -> str:
        path = self.paths[int(self.number[index])].relative_to(self.base).as_posix()
        return f"row {int(self.row[index])} of {path}"

    def stamp(self, index: int) -> str:
        found = self.paths[int(self.number[index])].stat()
        return f"{found.st_size} {found.st_mtime_ns}"

    def num_bytes(self, index: int) -> int | None:
        return None  # without reading it


class _Kept:
    """The row groups that were read last; each process has its own."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[Path, int], list[bytes | None]] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()

    def rows(self, path: Path, group: int, column: str) -> list[bytes | None]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self._lock:
            found = self._groups.pop((path, group), None)
            if found is None:
                try:
                    read = pq.ParquetFile(path).read_row_group(group, columns=[column])
                    found = _encoded(read, column, path).to_pylist()
                except (pa.ArrowException, OSError) as error:
                    raise DataError(f"{path} is truncated or not a Parquet file ({error}); get it again") from None
            self._groups[path, group] = found
            while len(self._groups) > 1 and sum(map(_num_bytes, self._groups.values())) > KEPT_BYTES:
                self._groups.popitem(last=False)
            return found


def _num_bytes(rows: Sequence[bytes | None]) -> int:
    return sum(len(row) for row in rows if row is not None)


def _read_file(path: Path, base: Path, config: DataConfig) -> Rows:
    table = open_columns(path, config, lambda _: options_of(config, "image_column", "label_column"))
    name = path.relative_to(base).as_posix()
    rows = [
        (image, f"row {number} of {name}")
        for number, image in enumerate(encoded_column(table, config.image_column, path))
    ]
    return read_rows(table, config, rows, path)


def encoded_column(table: pa.Table, column: str, path: Path) -> list[bytes]:
    """Encoded images: bytes, or a struct with ``bytes`` in it; :class:`DataError` if one is missing or none."""
    images = _encoded(table, column, path)
    check_complete(images, column, path)
    found: list[bytes] = images.to_pylist()
    return found


def _encoded(table: pa.Table, column: str, path: Path) -> pa.ChunkedArray:
    """Bytes, some of which may be missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    images = table[column]
    if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
        whole, images = images, pc.struct_field(images, "bytes")
        if images.null_count and whole.type.get_field_index("path") >= 0:
            row = pc.index(images.is_null(), True).as_py()
            if (elsewhere := whole[row].as_py()) and elsewhere["path"]:
                raise DataError(
                    f"row {row} of {path} has only the path of its image, {elsewhere['path']!r}, not its bytes; export "
                    "the data set with its images embedded, or name their files in a manifest (data.name=manifest)"
                )
    if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
        raise DataError(f"column {column!r} of {path} holds {images.type}, not encoded images (binary)")
    return images
