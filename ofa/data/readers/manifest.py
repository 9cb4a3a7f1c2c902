"""A table that names image files and their labels: CSV or Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import Source, require_root
from ofa.data.readers.table import options_of, read_columns, rows_by_split, source_of, split_option
from ofa.errors import shown

HOLDS = (
    "a .csv file (commas or tabs, names of columns in its first line) or a .parquet file, with a path and a label a row"
)
LISTED = 5


def read_manifest(config: DataConfig) -> Source:
    """Read columns of paths and labels and, where they are there, of splits and groups.

    Paths are relative to the folder of the manifest, or absolute. Splits mean what they do in a folder tree.

    Raises:
        DataError: If a column or value is missing, files are not there, or one is named twice.
    """
    path = require_root(config, HOLDS)
    if not path.is_file():
        raise DataError(f"{path} is no file; it should be {HOLDS}")
    columns, names = read_columns(path, config, lambda known: _options(config, known), holds=HOLDS)
    files = [str(name) for name in columns["path_column"]]
    if not files:
        raise DataError(f"{path} has no rows; it should be {HOLDS}")
    images = [(path.parent / name, name) for name in files]
    check_files(images, path)
    return source_of(rows_by_split(columns, images, names, path), where=path)


def is_manifest(path: Path) -> bool:
    """Whether a Parquet file has the usual column of paths, and none of images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError):  # whoever reads it says so
        return False
    return DataConfig.path_column in names and DataConfig.image_column not in names


def _options(config: DataConfig, known: Sequence[str]) -> list[str]:
    """Those of the columns that must be there: splits only if they are, or if another name than usual was given."""
    return options_of(config, "path_column", "label_column", *split_option(config, known))


def check_files(images: Sequence[tuple[Path, str]], manifest: Path) -> None:
    """:class:`DataError` if files that a table names are not there, or one is named twice."""
    missing = [name for file, name in images if not file.is_file()]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise DataError(
            f"{len(missing)} of {len(images)} files that {manifest} names are not there, or no regular files: "
            f"{', '.join(map(shown, missing[:LISTED]))}{more}; paths are relative to {manifest.parent}"
        )
    seen: set[Path] = set()
    for file, name in images:
        if file in seen:
            raise DataError(f"{manifest} names {shown(name)} twice; keep one row for each")
        seen.add(file)
