"""Recordings with a class each: a table of paths and labels, or a folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.manifest import check_files
from ofa.data.readers.source import ClassSource, require_root
from ofa.data.readers.split_names import split_named
from ofa.data.readers.table import Joined, Rows, join, options_of, read_columns, rows_by_split, split_option
from ofa.data.sound import read_wav

SUFFIX = ".wav"
HOLDS = (
    "a .csv or .parquet file with a path and a label a row, or a folder with CLASS/FILE.wav files, or with "
    "train/CLASS/FILE.wav and, optionally, val/ and test/ like it"
)


@dataclass(frozen=True, eq=False)
class Sounds:
    """Files of sound, each with its name; read when asked for."""

    files: Sequence[tuple[Path, str]]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], int]:
        """Samples from -1 to 1, and how many there are in a second; :class:`DataError` if it cannot be read."""
        file, _ = self.files[index]
        try:
            return read_wav(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {error}; replace or remove it") from None

    def name(self, index: int) -> str:
        return self.files[index][1]

    def digest(self, index: int) -> bytes:
        return hashlib.sha256(self.files[index][0].read_bytes()).digest()

    def num_bytes(self, index: int) -> int:
        return self.files[index][0].stat().st_size


class SoundSource(ClassSource[Sounds]):
    """A data set of recordings before it is split."""

    what = "recordings"


def read_sounds(config: DataConfig) -> SoundSource:
    """Read paths and labels and, where they are there, splits and groups; they mean what they do for pictures.

    Raises:
        DataError: If a file or column is missing or broken, or files are not there.
    """
    root = require_root(config, HOLDS)
    found = _of_folder(root) if root.is_dir() else _of_table(root, config)
    return SoundSource(found.classes, found.labels, Sounds(found.samples), found.num_test, found.groups)


def _of_table(path: Path, config: DataConfig) -> Joined:
    def options(known: Sequence[str]) -> list[str]:
        return options_of(config, "path_column", "label_column", *split_option(config, known))

    columns, names = read_columns(path, config, options, holds=HOLDS)
    files = [(path.parent / str(name), str(name)) for name in columns["path_column"]]
    if not files:
        raise DataError(f"{path} has no rows; it should be {HOLDS}")
    check_files(files, path)
    return join(rows_by_split(columns, files, names, path), where=path, what=SoundSource.what)


def _of_folder(root: Path) -> Joined:
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() == SUFFIX and path.is_file())
    parts: dict[str, list[tuple[Path, str, str]]] = {}
    for path in found:
        inside = path.relative_to(root)
        if len(inside.parts) < 2:
            raise DataError(f"{path} lies in no folder of a class; the root should be {HOLDS}")
        split = split_named(inside.parts[0]) if len(inside.parts) > 2 else None
        parts.setdefault(split or "train", []).append((path, inside.as_posix(), path.parent.name))
    rows = [
        (split, Rows([(path, name) for path, name, _ in files], [label for *_, label in files]))
        for split, files in parts.items()
    ]
    return join(rows, where=root, what=SoundSource.what)
