"""Say whether recordings are of one voice, by the model beside this file: python predict.py FILE.wav FILE.wav ...

Prints for each pair how alike their voices are (the cosine between their features, from -1 to 1) and whether that is
taken for one voice. Needs the model's runtime (`runtime` in bundle.json) and numpy.
"""

import argparse
import csv
import sys
from itertools import combinations
from pathlib import Path

import numpy as np

from ofa.tasks.predict_loaders import opened
from ofa.tasks.predict_recordings import files_of, outputs_of


def main() -> None:
    parser = argparse.ArgumentParser(description="Say whether recordings are of one voice.")
    parser.add_argument("recordings", nargs="+", metavar="FILE.wav|FOLDER")
    parser.add_argument("--threshold", type=float, metavar="COSINE", help="taken for one voice from it on")
    parser.add_argument("--csv", metavar="FILE", help="write both files, likeness and verdict instead")
    given = parser.parse_args()
    files = files_of(given.recordings)
    if len(files) < 2:
        sys.exit("there is nothing to compare one recording with; name two or more")
    info, run = opened(Path(__file__).parent)
    details = info["equal_error_rate_percent"]["details"]
    threshold = details["threshold"] if given.threshold is None else given.threshold
    features = np.stack(list(outputs_of(info, run, files)))
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    rows = []
    for one, other in combinations(range(len(files)), 2):
        likeness = float(features[one] @ features[other])
        rows.append([files[one], files[other], f"{likeness:.4f}", "one voice" if likeness >= threshold else "two"])
        if given.csv is None:
            print(*rows[-1], sep="\t")
    if given.csv is not None:
        with open(given.csv, "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([["file", "other file", "likeness", "verdict"], *rows])


if __name__ == "__main__":
    main()
