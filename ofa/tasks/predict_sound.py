"""Classify recordings with the model beside this file: python predict.py FILE.wav|FOLDER ... [--csv FILE]

Needs the model's runtime (`runtime` in bundle.json) and numpy.
"""

import argparse
from pathlib import Path

from ofa.tasks.predict_loaders import opened, probabilities_of, tell
from ofa.tasks.predict_recordings import files_of, outputs_of


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify recordings with the model beside this file.")
    parser.add_argument("recordings", nargs="+", metavar="FILE.wav|FOLDER")
    parser.add_argument("--csv", metavar="FILE", help="write file, class and the probability of every class instead")
    given = parser.parse_args()
    files = files_of(given.recordings)
    info, run = opened(Path(__file__).parent)
    rows = (probabilities_of(info, each) for each in outputs_of(info, run, files))
    tell("file", zip(map(str, files), rows, strict=True), info["classes"], given.csv)


if __name__ == "__main__":
    main()
