"""Classify pictures with the model beside this file: python predict.py PICTURE|FOLDER ... [--csv FILE]

Needs the model's runtime (`runtime` in bundle.json) and numpy; Pillow too, unless a picture is a .npy file of the
model's input.
"""

import argparse
from pathlib import Path

from ofa.tasks.predict_loaders import opened, probabilities_of, tell
from ofa.tasks.predict_pictures import files_of, outputs_of


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify pictures with the model beside this file.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER", help="or a .npy file of the model's input")
    parser.add_argument("--csv", metavar="FILE", help="write file, class and the probability of every class instead")
    given = parser.parse_args()
    info, run = opened(Path(__file__).parent)
    classes, files = info["classes"], files_of(given.pictures)
    rows = (probabilities_of(info, outputs) for outputs in outputs_of(info, run, files))
    found = zip(map(str, files), rows, strict=True)
    tell("file", found, classes, given.csv)


if __name__ == "__main__":
    main()
