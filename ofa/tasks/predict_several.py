"""Say several things of pictures, by the model beside this file: python predict.py PICTURE|FOLDER ... [--csv FILE]

Prints a line for each picture and head: file, head, and its likeliest class, the properties that it has, or its number.
Needs the model's runtime (`runtime` in bundle.json), numpy and Pillow.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.tasks.predict_loaders import opened
from ofa.tasks.predict_pictures import files_of, outputs_of


def names_of(classes: Sequence[str], head: str) -> list[str]:
    """What the numbers of a head are called, of ``classes`` of bundle.json."""
    return [name.removeprefix(f"{head}: ") for name in classes if name.startswith(f"{head}: ")]


def said(values: np.ndarray, task: Mapping[str, Any], names: Sequence[str]) -> tuple[str, str]:
    """What a head says, and how sure it is, or nothing."""
    if task["name"] == "regression":
        return f"{values[0]:.6g}", ""
    if task["name"] == "multilabel_classification":
        return ";".join(name for name, value in zip(names, values, strict=True) if value > 0) or "none", ""
    shares = np.exp(values - values.max())
    best = int(values.argmax())
    return names[best], f"{shares[best] / shares.sum():.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Say several things of pictures, by the model beside this file.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER", help="or a .npy file of the model's input")
    parser.add_argument("--csv", metavar="FILE", help="write file, head, what it says and how sure it is, instead")
    given = parser.parse_args()
    files = files_of(given.pictures)
    info, run = opened(Path(__file__).parent)
    task, rows = info["task"], []
    for file, outputs in zip(files, outputs_of(info, run, files), strict=True):
        start = 0
        for head, size in task["sizes"].items():
            values, start = outputs[start : start + size], start + size
            rows.append([str(file), head, *said(values, task["tasks"][head], names_of(info["classes"], head))])
    if given.csv is None:
        for row in rows:
            print(*row, sep="\t")
        return
    with open(given.csv, "w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["file", "head", "says", "probability"], *rows])


if __name__ == "__main__":
    main()
