"""How programs of bundles read pictures: ``predict.py`` holds a copy."""

import colorsys
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.data.picture import EXTENSIONS, open_picture, to_input
from ofa.tasks.predict_loaders import Model, in_batches

GOLDEN = 0.618034


def colours_of(num_classes: int) -> list[tuple[int, ...]]:
    """Red, green and blue of each class, 0 to 255; neighbours differ."""
    colours = (
        colorsys.hsv_to_rgb(index * GOLDEN % 1, (0.55, 0.85)[index % 2], (0.95, 0.7)[index // 2 % 2])
        for index in range(num_classes)
    )
    return [tuple(round(255 * value) for value in colour) for colour in colours]


def files_of(names: Sequence[str]) -> list[Path]:
    """Pictures in the folders among some paths, and the paths that are no folders."""
    files: list[Path] = []
    for path in map(Path, names):
        inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in EXTENSIONS) if path.is_dir() else []
        if path.is_dir() and not inside:
            sys.exit(f"{path} holds no pictures ({' '.join(EXTENSIONS)}); name another folder")
        files += inside or [path]
    return files


def place_for(file: Path, folder: str) -> Path:
    """Where what is made of a picture goes, as PNG; pictures of one name in two folders keep apart."""
    inside = file.relative_to(file.anchor) if ".." not in file.parts else Path(file.name)
    place = Path(folder) / inside.with_suffix(".png")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and place.samefile(file):
        sys.exit(f"{file} would be overwritten; name another folder with --out")
    return place


def read_input(path: Path, spec: Mapping[str, Any]) -> np.ndarray:
    if not path.is_file():
        sys.exit(f"{path} is no file that can be read; check the path")
    try:
        return np.load(path, allow_pickle=False) if path.suffix == ".npy" else to_input(open_picture(path), spec)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        sys.exit(f"{path} is no picture that can be read ({error}); take it out")


def outputs_of(info: Mapping[str, Any], run: Model, files: Sequence[Path]) -> Iterator[np.ndarray]:
    """What the model gives for each file; it gets as many at a time as it takes."""
    return in_batches(info, run, files, lambda file: read_input(file, info["preprocessing"]))
