"""How programs of bundles read pictures: ``predict.py`` holds a copy."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.data.picture import EXTENSIONS, open_picture, to_input
from ofa.tasks.predict_loaders import Model, in_batches, model_of


def files_of(names: Sequence[str]) -> list[Path]:
    """Pictures in the folders among some paths, and the paths that are no folders."""
    files: list[Path] = []
    for path in map(Path, names):
        inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in EXTENSIONS) if path.is_dir() else []
        if path.is_dir() and not inside:
            sys.exit(f"{path} holds no pictures ({' '.join(EXTENSIONS)}); name another folder")
        files += inside or [path]
    return files


def read_input(path: Path, spec: Mapping[str, Any]) -> np.ndarray:
    if not path.is_file():
        sys.exit(f"{path} is no file that can be read; check the path")
    try:
        return np.load(path, allow_pickle=False) if path.suffix == ".npy" else to_input(open_picture(path), spec)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        sys.exit(f"{path} is no picture that can be read ({error}); take it out")


def opened(folder: Path) -> tuple[dict[str, Any], Model]:
    """What ``bundle.json`` says, and the model beside it."""
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    return info, model_of(info, folder)


def outputs_of(info: Mapping[str, Any], run: Model, files: Sequence[Path]) -> Iterator[np.ndarray]:
    """What the model gives for each file; it gets as many at a time as it takes."""
    return in_batches(info, run, files, lambda file: read_input(file, info["preprocessing"]))
