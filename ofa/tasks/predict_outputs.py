"""Print what the model beside this file gives for pictures: python predict.py PICTURE|FOLDER ...

Needs the model's runtime (`runtime` in bundle.json) and numpy; Pillow too, unless a picture is a .npy file of the
model's input.
"""

import argparse
from pathlib import Path

from ofa.tasks.predict_loaders import opened
from ofa.tasks.predict_pictures import files_of, outputs_of


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what the model beside this file gives for pictures.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER", help="or a .npy file of the model's input")
    files = files_of(parser.parse_args().pictures)
    info, run = opened(Path(__file__).parent)
    for file, outputs in zip(files, outputs_of(info, run, files), strict=True):
        print(file, *(f"{value:.6g}" for value in outputs.ravel()), sep="\t")


if __name__ == "__main__":
    main()
