"""Classify recordings with the model beside this file: python predict.py FILE.wav|FOLDER ... [--csv FILE]

Needs the model's runtime (`runtime` in bundle.json) and numpy.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.data.sound import read_wav, to_input
from ofa.tasks.predict_loaders import in_batches, model_of, probabilities_of, tell


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify recordings with the model beside this file.")
    parser.add_argument("recordings", nargs="+", metavar="FILE.wav|FOLDER")
    parser.add_argument("--csv", metavar="FILE", help="write file, class and the probability of every class instead")
    given = parser.parse_args()
    folder, files = Path(__file__).parent, files_of(given.recordings)
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    run, spec = model_of(info, folder), info["preprocessing"]
    rows = (probabilities_of(info, each) for each in in_batches(info, run, files, lambda file: input_of(file, spec)))
    tell("file", zip(map(str, files), rows, strict=True), info["classes"], given.csv)


if __name__ == "__main__":
    main()
