"""Find objects in pictures with the model beside this file: python predict.py PICTURE|FOLDER ... [--out FOLDER]

Prints a line for each object: file, class, how sure the network is of it, and left, top, right and bottom in pixels of
the picture. Needs the model's runtime (`runtime` in bundle.json), numpy and Pillow.
"""

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ofa.data.picture import seen, upright
from ofa.tasks.predict_loaders import opened
from ofa.tasks.predict_pictures import colours_of, files_of, open_picture, outputs_of, place_for

SCORE, OVERLAP = 0.05, 0.6
"""What is less sure is left out; so is what shares more than that (intersection over union) with one more sure."""
NUM_CANDIDATES, NUM_FOUND = 300, 100
LARGEST_LOG = 4.0
SHOWN = 0.4


class Objects(NamedTuple):
    """What is found in a picture, the surest first: indices of classes, scores ``(n,)`` and boxes ``(n, 4)``."""

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray


def priors_of(grids: Sequence[Sequence[int]], task: Mapping[str, Any]) -> np.ndarray:
    """Boxes that networks start from: middle, width and height as shares of the picture's sides, ``(P, 4)``.

    Each place of a grid has a square of the grid's side and, where priors are ``boxes``, a square between it and the
    next grid's and two rectangles as large for each aspect ratio (Liu et al., SSD, arXiv:1512.02325, sec. 2.2), none
    wider or higher than the picture.

    Args:
        grids: Rows and columns, one for each stride of the task.
    """
    num = len(grids)
    sides = list(task["sides"] or np.linspace(0.2, 0.95, num))
    found = []
    for (rows, columns), side, following in zip(grids, sides, [*sides[1:], 1.0], strict=True):
        shapes = [(side, side)]
        if task["priors"] == "boxes":
            shapes += [(np.sqrt(side * following),) * 2]
            for ratio in task["aspect_ratios"]:
                shapes += [(side * ratio**0.5, side / ratio**0.5), (side / ratio**0.5, side * ratio**0.5)]
        y, x, kind = np.meshgrid(np.arange(rows), np.arange(columns), np.arange(len(shapes)), indexing="ij")
        middle = np.stack([(x.ravel() + 0.5) / columns, (y.ravel() + 0.5) / rows], axis=1)
        found.append(np.concatenate([middle, np.minimum(shapes, 1)[kind.ravel()]], axis=1))
    return np.concatenate(found)


def grids_of(size: Sequence[int], task: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Rows and columns of the places that a network looks at, of the height and width of its input."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in task["strides"]]


def corners(raw: Any, priors: Any, kind: str, exp: Callable[[Any], Any] = np.exp) -> list[Any]:
    """Left, top, right and bottom of what a network says of its priors, as shares of the picture's sides.

    Args:
        raw: ``(..., P, 4)``. Of ``boxes``: how far the middle is off, in tenths of the prior's width and height, and
            the logarithms of how many times as wide and high it is, in fifths (SSD, sec. 2.2, with the variances of its
            code). Of ``points``: logarithms of the distances to the four sides, in halves of the prior's (Tian et al.,
            FCOS, arXiv:1904.01355, sec. 3.1).
        exp: Of whatever kind of array these are.
    """
    x, y, width, height = (priors[..., index] for index in range(4))
    if kind == "points":
        left, top, right, bottom = (exp(raw[..., index].clip(-LARGEST_LOG, LARGEST_LOG)) / 2 for index in range(4))
        return [x - left * width, y - top * height, x + right * width, y + bottom * height]
    x, y = x + raw[..., 0] / 10 * width, y + raw[..., 1] / 10 * height
    width = width * exp((raw[..., 2] / 5).clip(-LARGEST_LOG, LARGEST_LOG)) / 2
    height = height * exp((raw[..., 3] / 5).clip(-LARGEST_LOG, LARGEST_LOG)) / 2
    return [x - width, y - height, x + width, y + height]


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of each of some boxes ``(n, 4)`` with each of others ``(m, 4)``."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).clip(0).prod(axis=1) for each in (boxes, others)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12)


def suppressed(boxes: np.ndarray, classes: np.ndarray, limit: float = OVERLAP) -> list[int]:
    """Which boxes stay of those that come surest first: none that overlaps a surer one of its class by more."""
    clashes = (overlaps(boxes, boxes) > limit) & (classes[:, None] == classes[None])
    kept: list[int] = []
    for index in range(len(boxes)):
        if not clashes[index, kept].any():
            kept.append(index)
    return kept


def objects_in(outputs: np.ndarray, priors: np.ndarray, kind: str) -> Objects:
    """The objects of one picture; boxes as shares of the sides of what the network saw.

    Args:
        outputs: Logits of the classes and four numbers of a box for each prior, ``(P, classes + 4)``.
    """
    scores = 1 / (1 + np.exp(-outputs[:, :-4].clip(-50, 50)))
    places, classes = np.nonzero(scores > SCORE)
    sure = scores[places, classes]
    order = np.argsort(-sure, kind="stable")[:NUM_CANDIDATES]
    places, classes, sure = places[order], classes[order], sure[order]
    boxes = np.stack(corners(outputs[places, -4:], priors[places], kind), axis=1).clip(0, 1)
    kept = suppressed(boxes, classes)[:NUM_FOUND]
    return Objects(classes[kept], sure[kept], boxes[kept])


def in_picture(boxes: np.ndarray, size: tuple[int, int], spec: Mapping[str, Any]) -> np.ndarray:
    """From shares of what the network saw to pixels of a picture of a width and height."""
    left, top, width, height = seen(size, spec["resize"][0], spec["fit"], spec["crop_pct"])
    pixels = boxes * [width, height, width, height] + [left, top, left, top]
    return pixels.clip(0, [size[0], size[1]] * 2)


def drawn(picture: Any, boxes: np.ndarray, labels: Sequence[str], colours: Sequence[tuple[int, ...]]) -> Any:
    """A copy of a picture with boxes, in its pixels, each in its colour with what is written at its corner."""
    from PIL import ImageDraw

    picture = picture.convert("RGB")
    draw = ImageDraw.Draw(picture)
    width = max(1, round(max(picture.size) / 250))
    for box, label, colour in zip(boxes.tolist(), labels, colours, strict=True):
        draw.rectangle([*box[:2], max(box[2], box[0] + 1), max(box[3], box[1] + 1)], outline=colour, width=width)
        if label:
            place = box[0] + width, max(box[1] - 11, 0)
            draw.rectangle(draw.textbbox(place, label), fill=colour)
            draw.text(place, label, fill=(0, 0, 0))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description="Find objects in pictures with the model beside this file.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE|FOLDER", help="or a .npy file of the model's input")
    help_of_score = f"leave out objects that it is less sure of (default: {SHOWN}; {SCORE} at least)"
    parser.add_argument("--score", type=float, default=SHOWN, metavar="SHARE", help=help_of_score)
    parser.add_argument("--out", metavar="FOLDER", help="write pictures with the boxes drawn in, NAME.png")
    parser.add_argument("--csv", metavar="FILE", help="write file, class, score and sides of each object")
    given = parser.parse_args()

    info, run = opened(Path(__file__).parent)
    spec, task, names = info["preprocessing"], info["task"], info["classes"]
    size = spec["resize"][-1]
    priors, files, rows = priors_of(grids_of(size, task), task), files_of(given.pictures), []
    for file, outputs in zip(files, outputs_of(info, run, files), strict=True):
        objects = objects_in(outputs, priors, task["priors"])
        picture = None if file.suffix == ".npy" else upright(open_picture(file))
        if picture is None:
            boxes = objects.boxes * [size[1], size[0], size[1], size[0]]
        else:
            boxes = in_picture(objects.boxes, picture.size, spec)
        shown = np.flatnonzero(objects.scores >= given.score)
        for index in shown:
            sides = [f"{value:.1f}" for value in boxes[index]]
            rows.append([str(file), names[objects.classes[index]], f"{objects.scores[index]:.4f}", *sides])
            print(*rows[-1], sep="\t")
        if not len(shown):
            print(f"{file}\tnothing found")
        if given.out is not None and picture is not None:
            place = place_for(file, given.out)
            classes = objects.classes[shown]
            labels = [f"{names[each]} {score:.2f}" for each, score in zip(classes, objects.scores[shown], strict=True)]
            colours = colours_of(len(names))
            drawn(picture, boxes[shown], labels, [colours[each] for each in classes]).save(place)
    if given.csv is not None:
        with open(given.csv, "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([["file", "class", "score", "left", "top", "right", "bottom"], *rows])


if __name__ == "__main__":
    main()
