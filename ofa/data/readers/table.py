"""What data sets that are tables have in common: labels with names, splits, groups; columns of Parquet files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

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
        images: As :class:`~ofa.data.readers.source.EncodedImages` takes them.
        labels: Of each image.
        groups: What each image belongs to, or ``None``.
        names: What the labels are called, if they are numbers that say no more.
    """

    images: Sequence[tuple[Path | bytes, str]]
    labels: Values
    groups: Values | None = None
    names: tuple[str, ...] | None = None


def source_of(parts: Sequence[tuple[str, Rows]], *, where: Path) -> Source:
    """Put rows together, each with ``train``, ``val`` or ``test``, which mean what they do in a folder tree.

    Raises:
        DataError: If there is nothing to train on, or the parts do not agree on labels.
    """
    test_split = "test" if any(split == "test" for split, _ in parts) else "val"
    parts = sorted(parts, key=lambda part: list(SPLIT_NAMES).index(part[0]))
    train, test = ([rows for split, rows in parts if (split == test_split) == own] for own in (False, True))
    train_labels, test_labels = ([label for rows in part for label in rows.labels] for part in (train, test))
    if not train_labels:
        raise DataError(f"found no images to train on in {where}; check what is in it")
    if len({type(label) for label in (*train_labels, *test_labels)}) > 1:
        raise DataError(f"labels in {where} are numbers in one part and text in another; make them alike")
    names = {rows.names for _, rows in parts}
    if len(names) > 1:
        raise DataError(f"files in {where} disagree on the names of classes: {shown(list(names))}; get them again")
    classes, labels = encode_labels(train_labels, test_labels)
    if (known := names.pop()) is not None:
        classes = tuple(known[int(number)] for number in classes)
    groups = [group for _, rows in parts for group in rows.groups or ()]
    images = EncodedImages([image for _, rows in parts for image in rows.images])
    return Source(
        classes, labels, images, num_test=len(test_labels), groups=np.asarray(groups) if len(groups) else None
    )


def split_of_row(name: str, where: str) -> str:
    """What a table calls a split; :class:`DataError` if it is none."""
    split = split_named(name)
    if split is None:
        known = (each for names in SPLIT_NAMES.values() for each in names)
        raise DataError(f"{where}: {unknown_name_message('split', name, known)}")
    return split


def open_columns(
    path: Path, config: Any, options: Callable[[Sequence[str]], Sequence[str]], *, section: str = "data"
) -> pa.Table:
    """Columns of a Parquet file, in full.

    Args:
        config: Has the options, which are of this ``section`` of a recipe.
        options: Tells which options name them, given the names of all that there are.

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
    columns = {option: getattr(config, option) for option in options}
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
    labels = values_of(table, config.label_column, path)
    groups = None if config.group_column is None else values_of(table, config.group_column, path)
    return Rows(images, labels, groups, class_names(table, config.label_column, labels, path))


def options_of(config: DataConfig, *options: str) -> list[str]:
    """Options that name columns, with that of groups if there are some."""
    return [*options, *(["group_column"] if config.group_column is not None else [])]
