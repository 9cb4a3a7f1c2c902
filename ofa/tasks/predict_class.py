"""Classify pictures with the model beside this file: python predict.py PICTURE|FOLDER ... [--csv FILE]

Needs the model's runtime (`runtime` in bundle.json) and numpy; Pillow too, unless a picture is a .npy file of the
model's input.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.data.picture import EXTENSIONS, open_picture, to_input
from ofa.tasks.predict_loaders import LOADERS, NUM_TOGETHER, Model


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


def probabilities(info: Mapping[str, Any], run: Model, files: Sequence[Path]) -> Iterator[np.ndarray]:
    """Of the classes, for each file; the model gets as many at a time as it takes."""
    model = info["model"]
    num = model["batch"] or NUM_TOGETHER
    for start in range(0, len(files), num):
        inputs = np.stack([read_input(file, info["preprocessing"]) for file in files[start : start + num]])
        # A last batch that is short is filled up where the model takes full ones only.
        filled = np.resize(inputs, (num, *inputs.shape[1:])) if model["batch"] else inputs
        outputs = np.asarray(run(filled)[: len(inputs)], dtype=np.float64)
        if model["output"] == "logits":
            outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            outputs /= outputs.sum(axis=1, keepdims=True)
        yield from outputs


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify pictures with the model beside this file.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER", help="or a .npy file of the model's input")
    parser.add_argument("--csv", metavar="FILE", help="write file, class and the probability of every class instead")
    given = parser.parse_args()
    folder = Path(__file__).parent
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    model, classes = info["model"], info["classes"]
    if model["runtime"] not in LOADERS:
        sys.exit(
            f"{model['files'][0]} is run by {model['runtime']} itself; `preprocessing` in bundle.json says with what"
        )
    files = files_of(given.pictures)
    run = LOADERS[model["runtime"]](folder / model["files"][0], model["input"])
    found = zip(files, probabilities(info, run, files), strict=True)
    if given.csv is None:
        for file, row in found:
            print(f"{file}\t{classes[row.argmax()]}\t{row.max():.4f}")
        return
    with open(given.csv, "w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["file", "class", *(f"probability of {name}" for name in classes)])
        table.writerows([str(file), classes[row.argmax()], *(f"{each:.6f}" for each in row)] for file, row in found)


if __name__ == "__main__":
    main()
