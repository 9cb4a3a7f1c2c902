"""Say what properties pictures have, with the model beside this file: python predict.py PICTURE|FOLDER ... [--csv FILE]

Needs the model's runtime (`runtime` in bundle.json) and numpy; Pillow too, unless a picture is a .npy file of the
model's input.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from ofa.tasks.predict_loaders import opened
from ofa.tasks.predict_pictures import files_of, outputs_of

THRESHOLD = 0.5
NONE = "none"


def main() -> None:
    parser = argparse.ArgumentParser(description="Say what properties pictures have, with the model beside this file.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER", help="or a .npy file of the model's input")
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help="probability from which on one is said (default: %(default)s)",
    )
    parser.add_argument("--csv", metavar="FILE", help="write file and the probability of every property instead")
    given = parser.parse_args()
    info, run = opened(Path(__file__).parent)
    classes, files = info["classes"], files_of(given.pictures)
    rows = list(outputs_of(info, run, files))
    if info["model"]["output"] == "logits":
        rows = [1 / (1 + np.exp(-row)) for row in rows]
    if given.csv is None:
        for file, row in zip(files, rows, strict=True):
            said = [f"{name} {row[index]:.4f}" for index, name in enumerate(classes) if row[index] >= given.threshold]
            print(file, ", ".join(said) or NONE, sep="\t")
        return
    with open(given.csv, "w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["file", *(f"probability of {name}" for name in classes)])
        table.writerows([str(file), *(f"{each:.6f}" for each in row)] for file, row in zip(files, rows, strict=True))


if __name__ == "__main__":
    main()
