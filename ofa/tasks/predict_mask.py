"""Say what each pixel shows, by the model beside this file: python predict.py PICTURE|FOLDER ... [--out FOLDER]

Writes PNG files whose pixels are indices of classes, in colours. Needs the model's runtime (`runtime` in bundle.json),
numpy and Pillow.
"""

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ofa.tasks.predict_loaders import opened
from ofa.tasks.predict_pictures import colours_of, files_of, open_picture, outputs_of, place_for


def mask_of(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The likeliest class of each pixel at width and height, uint8; ``logits`` are ``(classes, h, w)``."""
    from PIL import Image

    planes = (Image.fromarray(plane.astype(np.float32)) for plane in logits)
    enlarged = np.stack([np.asarray(plane.resize(size, Image.Resampling.BILINEAR)) for plane in planes])
    return enlarged.argmax(axis=0).astype(np.uint8)


def size_of(file: Path, spec: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of a mask: the picture's, where all of it is seen, else what the network saw of it."""
    height, width = spec["resize"][0]
    if file.suffix == ".npy" or spec["fit"] != "squash" or spec["crop_pct"] < 1:
        return width, height
    from PIL import ImageOps

    picture = ImageOps.exif_transpose(open_picture(file))
    return picture.width, picture.height


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Say what each pixel of pictures shows, by the model beside this file."
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER", help="or a .npy file of the model's input")
    parser.add_argument("--out", metavar="FOLDER", default="masks", help="where masks go, NAME.png (default: masks)")
    parser.add_argument("--csv", metavar="FILE", help="write file, mask and the share of every class")
    given = parser.parse_args()
    from PIL import Image

    info, run = opened(Path(__file__).parent)
    classes, files, rows = info["classes"], files_of(given.pictures), []
    for file, logits in zip(files, outputs_of(info, run, files), strict=True):
        mask = mask_of(logits, size_of(file, info["preprocessing"]))
        place = place_for(file, given.out)
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette([value for colour in colours_of(len(classes)) for value in colour])
        picture.save(place)
        shares = np.bincount(mask.ravel(), minlength=len(classes)) / mask.size
        rows.append([str(file), str(place), *(f"{share:.6f}" for share in shares)])
        most = [index for index in np.argsort(-shares, kind="stable")[:3] if shares[index]]
        print(f"{file}\t{place}\t" + ", ".join(f"{classes[index]} {100 * shares[index]:.1f} %" for index in most))
    if given.csv is not None:
        with open(given.csv, "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([["file", "mask", *(f"share of {name}" for name in classes)], *rows])


if __name__ == "__main__":
    main()
