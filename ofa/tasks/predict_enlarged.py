"""Enlarge pictures with the model beside this file: python predict.py PICTURE|FOLDER ... [--out FOLDER]

A picture of any size is taken apart into pieces of the size that the model takes, which overlap, and put together
again. Needs the model's runtime (`runtime` in bundle.json), numpy and Pillow.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ofa.data.picture import to_input, to_pixels
from ofa.tasks.predict_loaders import Model, in_batches, opened
from ofa.tasks.predict_pictures import files_of, open_picture, place_for

OVERLAP = 8


def places(length: int, piece: int) -> list[int]:
    """Where pieces begin on a side; they cover it, each sharing ``OVERLAP`` pixels with the one before at least."""
    if length <= piece:
        return [0]
    num = -(-(length - OVERLAP) // max(piece - OVERLAP, 1))
    return [round(start) for start in np.linspace(0, length - piece, max(num, 2))]


def picture_of(outputs: np.ndarray) -> np.ndarray:
    """Pixels ``(H, W, C)`` uint8 of what a network gives, ``(C, H, W)`` from 0 to 1."""
    return np.rint(255 * outputs.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)


def enlarged(info: Mapping[str, Any], run: Model, picture: Any) -> np.ndarray:
    """A picture ``(H, W, C)`` uint8, each pixel from the piece in whose middle it is most."""
    from PIL import Image

    spec = info["preprocessing"]
    height, width = spec["resize"][-1]
    pixels = to_pixels(picture, [(picture.height, picture.width)], **{key: spec[key] for key in LOOK})
    rows, columns = pixels.shape[:2]
    padding = ((0, max(height - rows, 0)), (0, max(width - columns, 0)), (0, 0))
    padded = np.pad(pixels, padding, mode="edge")
    corners = [(y, x) for y in places(padded.shape[0], height) for x in places(padded.shape[1], width)]
    pieces = [padded[y : y + height, x : x + width] for y, x in corners]

    def read(piece: np.ndarray) -> np.ndarray:
        return to_input(Image.fromarray(piece[..., 0] if piece.shape[2] == 1 else piece), spec)

    found = list(in_batches(info, run, pieces, read))
    factor = found[0].shape[1] // height
    total = np.zeros((found[0].shape[0], padded.shape[0] * factor, padded.shape[1] * factor))
    weights = np.zeros(total.shape[1:])
    # The nearer to a piece's edge, the less it knows of what is around; at the edge of the picture nobody knows.
    down, across = (np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) for n in found[0].shape[1:])
    weight = np.minimum.outer(down, across).astype(float)
    for (y, x), piece in zip(corners, found, strict=True):
        place = np.s_[y * factor : (y + height) * factor, x * factor : (x + width) * factor]
        total[:, *place] += weight * piece
        weights[place] += weight
    return picture_of((total / weights)[:, : rows * factor, : columns * factor])


LOOK = ("color", "fit", "crop_pct", "ground", "white", "interpolation")


def main() -> None:
    parser = argparse.ArgumentParser(description="Enlarge pictures with the model beside this file.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER")
    parser.add_argument(
        "--out", metavar="FOLDER", default="enlarged", help="where they go, NAME.png (default: enlarged)"
    )
    given = parser.parse_args()
    from PIL import Image

    files = files_of(given.pictures)
    info, run = opened(Path(__file__).parent)
    for file in files:
        pixels = enlarged(info, run, open_picture(file))
        # Pictures of one name in two folders keep apart.
        place = place_for(file, given.out)
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(place)
        print(file, place, f"{pixels.shape[1]} × {pixels.shape[0]} pixels", sep="\t")


if __name__ == "__main__":
    main()
