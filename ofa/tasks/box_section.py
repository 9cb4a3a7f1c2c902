"""What a run's page shows of detection: pictures with what is there, and what each bundle finds beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from ofa.data.picture import open_picture
from ofa.data.readers.source import DECODING_ERRORS
from ofa.tasks.page_images import image_in_page, legend
from ofa.tasks.predict_boxes import SHOWN, Objects, drawn, grids_of, objects_in, overlaps, priors_of
from ofa.tasks.predict_pictures import colours_of
from ofa.tasks.task import Exhibit, Section

MAX_SIZE = (220, 220)
OVERLAP = 0.5


class _Sample(NamedTuple):
    picture: Image.Image
    there: Objects
    found: Objects


def section_of_boxes(bundles: Sequence[Exhibit]) -> Section | None:
    """A row a picture, of the samples that all bundles bring along; bundles that cannot be read are left out."""
    known = {bundle.name: found for bundle in bundles if (found := _samples(bundle))}
    if not known:
        return None
    first = next(iter(known.values()))
    classes = [str(name) for name in next(bundle for bundle in bundles if bundle.name in known).info["classes"]]
    colours = colours_of(len(classes))
    rows = [
        [
            _drawn(first[row].picture, first[row].there, colours, "the picture with the objects that are there"),
            *(_cell(samples[row], colours) for samples in known.values()),
        ]
        for row in range(min(map(len, known.values())))
    ]
    return Section(
        title="What it finds",
        head=("Picture of the test split, and what is there", *known),
        rows=rows,
        note=Markup("What a network is sure of by {} % at least. ").format(round(100 * SHOWN))
        + legend(classes, colours),
    )


def _samples(bundle: Exhibit) -> list[_Sample]:
    """Nothing where a bundle is not as it should be."""
    found = []
    try:
        info = bundle.info
        task, (height, width) = info["task"], info["preprocessing"]["resize"][-1]
        priors = priors_of(grids_of((height, width), task), task)
        outputs = np.load(bundle.folder / "samples" / "outputs.npy", allow_pickle=False).astype(np.float64)
        for index, (each, label) in enumerate(zip(outputs, info["sample_labels"], strict=True)):
            picture = open_picture(bundle.folder / "samples" / f"{index:03}.png", ["PNG"]).convert("RGB")
            there = np.array(label, dtype=np.float64).reshape(-1, 5)
            objects = objects_in(each, priors, task["priors"])
            shown = objects.scores >= SHOWN
            found.append(
                _Sample(
                    picture,
                    Objects(there[:, 0].astype(int), np.ones(len(there)), there[:, 1:]),
                    Objects(*(part[shown] for part in objects)),
                )
            )
            if not (there[:, 0] < len(info["classes"])).all():
                raise ValueError("a class that is none")
    except (*DECODING_ERRORS, LookupError, TypeError, ArithmeticError):
        return []
    return found


def _drawn(picture: Image.Image, objects: Objects, colours: Sequence[tuple[int, ...]], what: str) -> Markup:
    factor = max(1, MAX_SIZE[0] // max(picture.size))
    picture = picture.resize((factor * picture.width, factor * picture.height))
    boxes = objects.boxes * np.tile(picture.size, 2)
    image = drawn(picture, boxes, [""] * len(boxes), [colours[each] for each in objects.classes])
    return image_in_page(image, what, quality=85, max_size=MAX_SIZE)


def _cell(sample: _Sample, colours: Sequence[tuple[int, ...]]) -> str:
    """What was found, and how many of the objects that are there some box of their class overlaps by half."""
    there, found = sample.there, sample.found
    hits = (overlaps(found.boxes, there.boxes) >= OVERLAP) & (found.classes[:, None] == there.classes[None])
    num = int(hits.any(axis=0).sum())
    return _drawn(sample.picture, found, colours, "the picture with the objects that were found") + Markup(
        '<br><span class="interval">{} of {} found, {} boxes</span>'
    ).format(num, len(there.classes), len(found.classes))
