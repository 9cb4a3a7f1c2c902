"""Classify pictures with the model beside this file: python predict.py PICTURE|FOLDER ... [--csv FILE]

Needs the model's runtime (`runtime` in bundle.json) and numpy; Pillow too, unless a picture is a .npy file of the
model's input.
"""

import argparse
import csv
from pathlib import Path

from ofa.tasks.predict_loaders import probabilities_of
from ofa.tasks.predicting import files_of, opened, outputs_of


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify pictures with the model beside this file.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER", help="or a .npy file of the model's input")
    parser.add_argument("--csv", metavar="FILE", help="write file, class and the probability of every class instead")
    given = parser.parse_args()
    info, run = opened(Path(__file__).parent)
    classes, files = info["classes"], files_of(given.pictures)
    rows = (probabilities_of(info, outputs) for outputs in outputs_of(info, run, files))
    found = zip(files, rows, strict=True)
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
