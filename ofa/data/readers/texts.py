"""Texts with a label each: tables as TSV, CSV or Parquet, one file or one for each split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import ClassSource, require_root
from ofa.data.readers.split_names import files_by_split
from ofa.data.readers.table import Rows, join, options_of, read_columns, rows_by_split, split_option

SUFFIXES = (".tsv", ".csv", ".parquet")
HOLDS = (
    f"a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file with a text and a label a row, or a folder with train*.tsv "
    "(or one of the others) and, optionally, val*.tsv and test*.tsv"
)


@dataclass(frozen=True, eq=False)
class Texts:
    """A sequence of texts, each with its name."""

    named: Sequence[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.named)

    def __getitem__(self, index: int) -> str:
        return self.named[index][0]

    def name(self, index: int) -> str:
        return self.named[index][1]

    def digest(self, index: int) -> bytes:
        return hashlib.sha256(self.named[index][0].encode()).digest()

    def num_bytes(self, index: int) -> int:
        return len(self.named[index][0].encode())


class TextSource(ClassSource[Texts]):
    """A data set of texts before it is split."""

    what = "texts"


def read_texts(config: DataConfig) -> TextSource:
    """Read columns of texts and labels and, where they are there, of groups; of a single file also of splits.

    In TSV files fields end at tabs, and quotes are characters as any other. Splits mean what they do in a folder tree.

    Raises:
        DataError: If a file or column is missing or broken, or a value is missing.
    """
    root = require_root(config, HOLDS)
    if root.is_dir():
        base, files = _files_in(root)
        parts = [(split, rows) for split, path in files for _, rows in _rows(path, base, config, has_splits=False)]
    else:
        parts = _rows(root, root.parent, config, has_splits=True)
    found = join(parts, where=root, what="texts")
    return TextSource(found.classes, found.labels, Texts(found.samples), found.num_test, found.groups)


def _files_in(root: Path) -> tuple[Path, list[tuple[str, Path]]]:
    kinds = [suffix for suffix in SUFFIXES if next(root.rglob(f"*{suffix}"), None) is not None]
    if not kinds:
        raise DataError(f"{root} has no files of texts; it should be {HOLDS}")
    if len(kinds) > 1:
        raise DataError(f"{root} has files of several kinds, {' and '.join(kinds)}; keep one, or name a file as root")
    return files_by_split(root, kinds[0], holds=HOLDS)


def _rows(path: Path, base: Path, config: DataConfig, *, has_splits: bool) -> list[tuple[str, Rows]]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is of no known kind; it should be {HOLDS}")

    def options(known: Sequence[str]) -> list[str]:
        return options_of(config, "text_column", "label_column", *(split_option(config, known) if has_splits else ()))

    columns, names = read_columns(path, config, options, holds=HOLDS, is_plain=suffix == ".tsv")
    texts = [str(text) for text in columns["text_column"]]
    if not texts:
        raise DataError(f"{path} has no rows; it should be {HOLDS}")
    name = path.relative_to(base).as_posix()
    return rows_by_split(columns, [(text, f"row {row} of {name}") for row, text in enumerate(texts)], names, path)
