"""What a run's page shows of segmentation: pictures, their masks, and those of each bundle beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from ofa.data.masks import VOID
from ofa.data.picture import open_picture
from ofa.tasks.page_images import image_in_page, legend
from ofa.tasks.predict_mask import mask_of
from ofa.tasks.predict_pictures import colours_of
from ofa.tasks.task import Exhibit, Section

VOID_COLOUR = (0, 0, 0)
Mask = npt.NDArray[np.uint8]


class _Sample(NamedTuple):
    picture: Image.Image
    truth: Mask
    found: Mask


def section_of_masks(bundles: Sequence[Exhibit], void: Sequence[int]) -> Section | None:
    """A row a picture, of the samples that all bundles bring along; those that cannot be read are left out."""
    known = {bundle.name: found for bundle in bundles if (found := _samples(bundle.folder, bundle.info, void))}
    if not known:
        return None
    first = next(iter(known.values()))
    num = min(map(len, known.values()))
    classes = [str(name) for name in next(bundle for bundle in bundles if bundle.name in known).info["classes"]]
    rows = [
        [
            image_in_page(first[row].picture, "the picture", quality=80),
            image_in_page(_coloured(first[row].truth, len(classes)), "its mask"),
            *(_cell(samples[row], len(classes)) for samples in known.values()),
        ]
        for row in range(num)
    ]
    names, colours = [*classes, "no class"], [*colours_of(len(classes)), VOID_COLOUR]
    return Section(
        title="What it sees",
        head=("Picture of the test split", "Is", *known),
        rows=rows,
        note=Markup("Below a mask is the share of pixels that are right, of those that belong to a class: ")
        + legend(names, colours),
    )


def _samples(folder: Path, info: Mapping[str, Any], void: Sequence[int]) -> list[_Sample]:
    """Nothing where a bundle is not as it should be."""
    found = []
    try:
        outputs = np.load(folder / "samples" / "outputs.npy", allow_pickle=False)
        for index, (logits, _) in enumerate(zip(outputs, info["sample_labels"], strict=True)):
            picture = open_picture(folder / "samples" / f"{index:03}.png", ["PNG"]).convert("RGB")
            truth = np.asarray(open_picture(folder / "samples" / f"{index:03}-mask.png", ["PNG"]))
            truth = np.where(np.isin(truth, list(void)), VOID, truth).astype(np.uint8)
            found.append(_Sample(picture, truth, mask_of(logits, (truth.shape[1], truth.shape[0]))))
    except (OSError, ValueError, LookupError, TypeError, EOFError, SyntaxError):
        return []
    return found


def _cell(sample: _Sample, num_classes: int) -> str:
    known = sample.truth != VOID
    right = float((sample.found == sample.truth)[known].mean()) if known.any() else 0.0
    return image_in_page(_coloured(sample.found, num_classes), "the mask that was found") + Markup(
        '<br><span class="interval">{} %</span>'
    ).format(f"{100 * right:.1f}")


def _coloured(mask: Mask, num_classes: int) -> Image.Image:
    colours = np.full((256, 3), VOID_COLOUR, dtype=np.uint8)
    colours[:num_classes] = colours_of(num_classes)
    return Image.fromarray(colours[mask])
