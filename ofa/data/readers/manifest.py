"""A table that names image files and their labels: CSV or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import Source, require_root
from ofa.data.readers.table import (
    Rows,
    Values,
    class_names,
    named_columns,
    open_columns,
    options_of,
    source_of,
    split_of_row,
    values_of,
)
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
    is_parquet = path.suffix.lower() == ".parquet"
    columns, names = (_read_parquet if is_parquet else _read_csv)(path, config)
    files, labels = [str(name) for name in columns["path_column"]], columns["label_column"]
    if not files:
        raise DataError(f"{path} has no rows; it should be {HOLDS}")
    images = [(path.parent / name, name) for name in files]
    _check_files(images, path)
    splits = columns.get("split_column") or ["train"] * len(files)
    parts = {name: split_of_row(str(name), str(path)) for name in dict.fromkeys(splits)}
    rows = []
    for part in dict.fromkeys(parts.values()):
        own = [row for row, name in enumerate(splits) if parts[name] == part]
        groups = columns.get("group_column")
        rows.append(
            (
                part,
                Rows(
                    [images[row] for row in own],
                    _chosen(labels, own),
                    None if groups is None else _chosen(groups, own),
                    names,
                ),
            )
        )
    return source_of(rows, where=path)


def is_manifest(path: Path) -> bool:
    """Whether a Parquet file has the usual column of paths, and none of images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError):  # whoever reads it says so
        return False
    return DataConfig.path_column in names and DataConfig.image_column not in names


def _chosen(values: Values, rows: Sequence[int]) -> Values:
    return [values[row] for row in rows]


def _options(config: DataConfig, known: Sequence[str]) -> list[str]:
    """Those of the columns that must be there: splits only if they are, or if another name than usual was given."""
    has_splits = config.split_column in known or config.split_column != DataConfig.split_column
    return options_of(config, "path_column", "label_column", *(["split_column"] if has_splits else []))


def _read_parquet(path: Path, config: DataConfig) -> tuple[dict[str, Values], tuple[str, ...] | None]:
    table = open_columns(path, config, lambda known: _options(config, known))
    columns = {
        option: values_of(table, getattr(config, option), path) for option in _options(config, table.column_names)
    }
    return columns, class_names(table, config.label_column, columns["label_column"], path)


def _read_csv(path: Path, config: DataConfig) -> tuple[dict[str, Values], None]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",\t;", key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            lines = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); it should be {HOLDS}") from None
    header = [name.strip() for name in lines[0][1]] if lines else []
    names = named_columns(path, config, _options(config, header), header)
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise DataError(
                f"line {number} of {path} has {len(row)} fields, the first line names {len(header)}; put texts that "
                "hold the delimiter in quotes"
            )
    columns: dict[str, list[str]] = {}
    for option, name in names.items():
        if header.count(name) > 1:
            raise DataError(f"{path} has {header.count(name)} columns {name!r}; rename the others")
        at = header.index(name)
        for number, row in lines[1:]:
            if not row[at]:
                raise DataError(f"line {number} of {path} has no {name!r}; fill or remove it")
            if option == "label_column" and row[at].startswith("[") and row[at].endswith("]"):
                raise DataError(
                    f"line {number} of {path} has the labels {shown(row[at])}: several per image, which classification "
                    "does not learn; name a column with one"
                )
        columns[option] = [row[at] for _, row in lines[1:]]
    return {**columns, "label_column": _numbers(columns["label_column"])}, None


def _numbers(texts: Sequence[str]) -> Values:
    """Integers, if all of the texts are written as such: then 10 comes after 9."""
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        return texts
    return numbers if [str(number) for number in numbers] == list(texts) else texts


def _check_files(images: Sequence[tuple[Path, str]], manifest: Path) -> None:
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
            raise DataError(f"{manifest} names {shown(name)} twice; keep one row for each image")
        seen.add(file)
