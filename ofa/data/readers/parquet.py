"""Parquet files with a column of encoded images and a column of labels, as Hugging Face stores data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import Source, require_root
from ofa.data.readers.split_names import files_by_split
from ofa.data.readers.table import Rows, check_complete, open_columns, options_of, read_rows, source_of

if TYPE_CHECKING:
    import pyarrow as pa

HOLDS = (
    "a Parquet file, or a folder with train*.parquet and, optionally, validation*.parquet and test*.parquet, in it or "
    "in its data/, or with folders of files called so"
)


def read_parquet(config: DataConfig) -> Source:
    """Read encoded images (bytes, or a struct with ``bytes`` in it) and labels (integers or strings).

    ``test*.parquet`` and ``val*.parquet`` serve as ``test/`` and ``val/`` do in a folder tree. Where the files hold
    Hugging Face's ``ClassLabel``, classes are called as it says.

    Raises:
        DataError: If a file or column is missing, truncated or of another type, or a value is null.
    """
    root = require_root(config, HOLDS)
    base, files = (root.parent, [("train", root)]) if root.is_file() else files_by_split(root, ".parquet", holds=HOLDS)
    return source_of([(split, _read_file(path, base, config)) for split, path in files], where=root)


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
    check_complete(images, column, path)
    found: list[bytes] = images.to_pylist()
    return found
