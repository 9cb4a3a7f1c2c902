"""What data sets that are tables have in common: labels with names, splits, groups; columns of CSV and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import EncodedImages, Source, encode_labels
from ofa.data.readers.split_names import SPLIT_NAMES, split_named
from ofa.errors import shown, unknown_name_message

if TYPE_CHECKING:
    import pyarrow as pa

Values: TypeAlias = Sequence[int | str]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one file and split.

    Args:
        images: As :class:`~ofa.data.readers.source.EncodedImages` takes them, or samples of another kind.
        labels: Of each image.
        groups: What each image belongs to, or ``None``.
        names: What the labels are called, if they are numbers that say no more.
    """

    images: Sequence[Any]
    labels: Values
    groups: Values | None = None
    names: tuple[str, ...] | None = None


class Joined(NamedTuple):
    """Rows of all splits: what a :class:`~ofa.data.readers.source.Labelled` is made of."""

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    samples: list[Any]
    num_test: int
    groups: npt.NDArray[np.generic] | None


def join(parts: Sequence[tuple[str, Rows]], *, where: Path, what: str = "images") -> Joined:
    """Put rows together, each with ``train``, ``val`` or ``test``, which mean what they do in a folder tree.

    Raises:
        DataError: If there is nothing to train on, or the parts do not agree on labels.
    """
    test_split = "test" if any(split == "test" for split, _ in parts) else "val"
    parts = sorted(parts, key=lambda part: list(SPLIT_NAMES).index(part[0]))
    train, test = ([rows for split, rows in parts if (split == test_split) == own] for own in (False, True))
    train_labels, test_labels = ([label for rows in part for label in rows.labels] for part in (train, test))
    if not train_labels:
        raise DataError(f"found no {what} to train on in {where}; check what is in it")
    if len({type(label) for label in (*train_labels, *test_labels)}) > 1:
        raise DataError(f"labels in {where} are numbers in one part and text in another; make them alike")
    names = {rows.names for _, rows in parts}
    if len(names) > 1:
        raise DataError(f"files in {where} disagree on the names of classes: {shown(list(names))}; get them again")
    classes, labels = encode_labels(train_labels, test_labels)
    if (known := names.pop()) is not None:
        classes = tuple(known[int(number)] for number in classes)
    groups = [group for _, rows in parts for group in rows.groups or ()]
    samples = [sample for _, rows in parts for sample in rows.images]
    return Joined(classes, labels, samples, len(test_labels), np.asarray(groups) if len(groups) else None)


def source_of(parts: Sequence[tuple[str, Rows]], *, where: Path) -> Source:
    """Images of all splits, see :func:`join`."""
    found = join(parts, where=where)
    images = EncodedImages(found.samples)
    return Source(found.classes, found.labels, images, num_test=found.num_test, groups=found.groups)


def rows_by_split(
    columns: Mapping[str, Values], samples: Sequence[Any], names: tuple[str, ...] | None, path: Path
) -> list[tuple[str, Rows]]:
    """Rows of a table by what its column of splits says; all of them train if it has none."""
    labels, groups = columns["label_column"], columns.get("group_column")
    splits = columns.get("split_column") or ["train"] * len(samples)
    parts = {name: split_of_row(str(name), str(path)) for name in dict.fromkeys(splits)}
    found = []
    for part in dict.fromkeys(parts.values()):
        own = [row for row, name in enumerate(splits) if parts[name] == part]
        rows = Rows(
            [samples[row] for row in own],
            [labels[row] for row in own],
            None if groups is None else [groups[row] for row in own],
            names,
        )
        found.append((part, rows))
    return found


def split_of_row(name: str, where: str) -> str:
    """What a table calls a split; :class:`DataError` if it is none."""
    split = split_named(name)
    if split is None:
        known = (each for names in SPLIT_NAMES.values() for each in names)
        raise DataError(f"{where}: {unknown_name_message('split', name, known)}")
    return split


Options: TypeAlias = Callable[[Sequence[str]], Sequence[str]]
"""Tells which options name columns of a table, given the names of all that there are."""


def read_columns(
    path: Path, config: DataConfig, options: Options, *, holds: str, is_plain: bool = False
) -> tuple[dict[str, Values], tuple[str, ...] | None]:
    """Columns of a CSV or Parquet file by the options that name them, and what labels are called, if it says so.

    Args:
        holds: What the file should be, for messages.
        is_plain: See :func:`csv_lines`.

    Raises:
        DataError: If it is no such file, or a column or value is missing.
    """
    if path.suffix.lower() != ".parquet":
        return _csv_columns(path, config, options, holds=holds, is_plain=is_plain), None
    table = open_columns(path, config, options)
    columns = {option: values_of(table, str(getattr(config, option)), path) for option in options(table.column_names)}
    return columns, class_names(table, str(config.label_column), columns["label_column"], path)


def csv_lines(path: Path, *, holds: str, is_plain: bool = False) -> list[tuple[int, list[str]]]:
    """Fields of each line that has some, with its number.

    Args:
        is_plain: Tabs and nothing else are between fields, and quotes are as any other character.

    Raises:
        DataError: If it is no CSV file in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            if is_plain:
                reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                reader = csv.reader(file, delimiter=max(",\t;", key=first.count), strict=True)
            return [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); it should be {holds}") from None


def _csv_columns(path: Path, config: DataConfig, options: Options, *, holds: str, is_plain: bool) -> dict[str, Values]:
    lines = csv_lines(path, holds=holds, is_plain=is_plain)
    if not lines:
        raise DataError(f"{path} is empty; it should be {holds}")
    by_number = isinstance(config.label_column, int)  # then no line names them
    header = [name.strip() for name in lines[0][1]]
    header, lines = ([*map(str, range(len(header)))], lines) if by_number else (header, lines[1:])
    names = named_columns(path, config, options(header), header)
    for number, row in lines:
        if len(row) != len(header):
            raise DataError(
                f"line {number} of {path} has {len(row)} fields, the first line {'has' if by_number else 'names'} "
                f"{len(header)}; "
                + ("leave tabs out of texts" if is_plain else "put texts that hold the delimiter in quotes")
            )
    columns: dict[str, Values] = {}
    for option, name in names.items():
        if header.count(name) > 1:
            raise DataError(f"{path} has {header.count(name)} columns {name!r}; rename the others")
        at = header.index(name)
        for number, row in lines:
            if not row[at]:
                raise DataError(f"line {number} of {path} has no {name!r}; fill or remove it")
            if option == "label_column" and row[at].startswith("[") and row[at].endswith("]"):
                raise DataError(
                    f"line {number} of {path} has the labels {shown(row[at])}: several per image, which classification "
                    "does not learn; name a column with one"
                )
        columns[option] = [row[at] for _, row in lines]
    return {**columns, "label_column": as_numbers([str(label) for label in columns["label_column"]])}


def as_numbers(texts: Sequence[str]) -> Values:
    """Integers, if all of the texts are written as such: then 10 comes after 9."""
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        return texts
    return numbers if [str(number) for number in numbers] == list(texts) else texts


def open_columns(path: Path, config: Any, options: Options, *, section: str = "data") -> pa.Table:
    """Columns of a Parquet file, in full.

    Args:
        config: Has the options, which are of this ``section`` of a recipe.

    Raises:
        DataError: If it is no such file, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        known = file.schema_arrow.names
        columns = named_columns(path, config, options(known), known, section=section)
        return file.read(columns=list(dict.fromkeys(columns.values())))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is truncated or not a Parquet file ({error}); get it again") from error


def named_columns(
    path: Path, config: Any, options: Sequence[str], known: Sequence[str], *, section: str = "data"
) -> dict[str, str]:
    """Option -> the column that it names; :class:`DataError` if there is none."""
    columns = {option: str(getattr(config, option)) for option in options}
    for option, column in columns.items():
        if column not in known:
            raise DataError(f"{path}: {unknown_name_message('column', column, known)}; set {section}.{option}")
    return columns


def values_of(table: pa.Table, column: str, path: Path) -> Values:
    """Integers or strings of a column, none of them missing.

    Raises:
        DataError: If they are of another type, such as lists of labels, or one is null.
    """
    import pyarrow as pa

    values = table[column]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if any(is_list(values.type) for is_list in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        raise DataError(
            f"column {column!r} of {path} holds {values.type}: several labels per image, which classification does not "
            "learn; name a column with one"
        )
    if not any(fits(values.type) for fits in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)):
        raise DataError(f"column {column!r} of {path} holds {values.type}, not integers or strings")
    check_complete(values, column, path)
    found: Values = values.to_pylist()
    return found


def check_complete(values: pa.ChunkedArray, column: str, path: Path) -> None:
    """:class:`DataError` if a value is null."""
    import pyarrow.compute as pc

    if values.null_count:
        row = pc.index(values.is_null(), True).as_py()
        raise DataError(f"row {row} of {path} has no {column!r}; fill or remove it")


def class_names(table: pa.Table, column: str, labels: Values, path: Path) -> tuple[str, ...] | None:
    """What Hugging Face's ``ClassLabel`` in a Parquet file says that labels are called, if it is there.

    Raises:
        DataError: If a label has no name.
    """
    try:
        info = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = info["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(names, list):
        return None
    for row, label in enumerate(labels):
        if isinstance(label, str):
            return None
        if not 0 <= label < len(names):
            raise DataError(
                f"row {row} of {path} has label {label}, but its {len(names)} classes are numbered from 0 (a test set "
                "without labels has -1); leave such rows or files out"
            )
    return tuple(map(str, names))


def read_rows(table: pa.Table, config: DataConfig, images: Sequence[tuple[Path | bytes, str]], path: Path) -> Rows:
    """Rows of a Parquet file whose images are found already."""
    column = str(config.label_column)
    labels = values_of(table, column, path)
    groups = None if config.group_column is None else values_of(table, config.group_column, path)
    return Rows(images, labels, groups, class_names(table, column, labels, path))


def options_of(config: DataConfig, *options: str) -> list[str]:
    """Options that name columns, with that of groups if there are some."""
    return [*options, *(["group_column"] if config.group_column is not None else [])]


def split_option(config: DataConfig, known: Sequence[str]) -> list[str]:
    """The option that names the column of splits, if there is one, or if another name than usual was given."""
    has_splits = config.split_column in known or config.split_column != DataConfig.split_column
    return ["split_column"] if has_splits else []
