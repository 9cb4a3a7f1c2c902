"""How programs of bundles read recordings: ``predict.py`` holds a copy."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.data.sound import read_wav, to_input
from ofa.tasks.predict_loaders import Model, in_batches


def files_of(names: Sequence[str]) -> list[Path]:
    """Recordings in the folders among some paths, and the paths that are no folders."""
    files: list[Path] = []
    for path in map(Path, names):
        inside = sorted(each for each in path.rglob("*") if each.suffix.lower() == ".wav") if path.is_dir() else []
        if path.is_dir() and not inside:
            sys.exit(f"{path} holds no recordings (.wav); name another folder")
        files += inside or [path]
    return files


def input_of(file: Path, spec: Mapping[str, Any]) -> np.ndarray:
    try:
        if not file.is_file():
            raise ValueError("it is no file; check the path")
        return to_input(*read_wav(file), spec)
    except (OSError, ValueError) as error:
        sys.exit(f"{file} is no recording that can be read: {error}")


def outputs_of(info: Mapping[str, Any], run: Model, files: Sequence[Path]) -> Iterator[np.ndarray]:
    """What the model gives for each recording; it gets as many at a time as it takes."""
    return in_batches(info, run, files, lambda file: input_of(file, info["preprocessing"]))
