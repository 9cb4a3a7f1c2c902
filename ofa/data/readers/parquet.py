"""Parquet files with a column of encoded images and a column of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import EncodedImages, Source, encode_labels, require_root
from ofa.errors import unknown_name_message

HOLDS = "a Parquet file, or a folder with train*.parquet and, optionally, val*.parquet and test*.parquet"


def read_parquet(config: DataConfig) -> Source:
    """Read encoded images (bytes, or a struct with ``bytes`` in it) and labels (integers or strings).

    ``test*.parquet`` and ``val*.parquet`` serve as ``test/`` and ``val/`` do in a folder tree.

    Raises:
        DataError: If a file or column is missing, truncated or of another type, or a value is null.
    """
    root = require_root(config, HOLDS)
    train_files, val_files, test_files = [root], [], []
    if root.is_dir():
        train_files, val_files, test_files = (
            sorted(root.glob(f"{part}*.parquet")) for part in ("train", "val", "test")
        )
    if not train_files:
        raise DataError(f"found no train*.parquet in {root}; it should be {HOLDS}")
    if test_files:
        train_files = train_files + val_files
    train_rows, train_labels = _read(train_files, config)
    test_rows, test_labels = _read(test_files or val_files, config)
    classes, labels = encode_labels(train_labels, test_labels)
    return Source(classes, labels, EncodedImages(train_rows + test_rows), num_test=len(test_rows))


def _read(paths: Sequence[Path], config: DataConfig) -> tuple[list[tuple[bytes, str]], list[Any]]:
    """Encoded images, with what messages call them, and labels."""
    rows: list[tuple[bytes, str]] = []
    labels: list[Any] = []
    for path in paths:
        images, file_labels = _read_file(path, config)
        rows += [(image, f"row {number} of {path.name}") for number, image in enumerate(images)]
        labels += file_labels
    return rows, labels


def _read_file(path: Path, config: DataConfig) -> tuple[list[bytes], list[Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        for option in ("image_column", "label_column"):
            if getattr(config, option) not in file.schema_arrow.names:
                unknown = unknown_name_message("column", getattr(config, option), file.schema_arrow.names)
                raise DataError(f"{path}: {unknown}; set {option}")
        table = file.read(columns=[config.image_column, config.label_column])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is truncated or not a Parquet file ({error}); get it again") from error

    images, labels = table[config.image_column], table[config.label_column]
    if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
        images = pc.struct_field(images, "bytes")
    if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
        raise DataError(f"column {config.image_column!r} of {path} holds {images.type}, not encoded images (binary)")
    if not any(fits(labels.type) for fits in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)):
        raise DataError(f"column {config.label_column!r} of {path} holds {labels.type}, not integers or strings")
    for name, column in ((config.image_column, images), (config.label_column, labels)):
        if column.null_count:
            raise DataError(
                f"row {pc.index(column.is_null(), True).as_py()} of {path} has no {name!r}; fill or remove it"
            )
    return images.to_pylist(), labels.to_pylist()
