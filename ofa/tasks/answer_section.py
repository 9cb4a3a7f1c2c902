"""What a run's page shows of pictures that something is said of: what is right, and what each bundle says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from ofa.data.picture import open_picture
from ofa.tasks.page_images import image_in_page
from ofa.tasks.task import Exhibit, Section

MAX_PICTURES = 16


class Answer(NamedTuple):
    """What a bundle says of a picture.

    Args:
        text: In words.
        distance: From what is right; the farthest come first.
        is_right: Where something can be right or wrong.
    """

    text: str
    distance: float
    is_right: bool | None = None


Read = Callable[[npt.NDArray[np.float64], Any, Mapping[str, Any]], Answer]
"""Of outputs, the sample's label and ``bundle.json``."""


def section_of_answers(
    bundles: Sequence[Exhibit], read: Read, name: Callable[[Any, Mapping[str, Any]], str]
) -> Section | None:
    """A row a picture, of the samples that all bundles bring along; bundles that cannot be read are left out.

    Args:
        name: What is right in words, of a label and ``bundle.json``.
    """
    known = [(bundle, said) for bundle in bundles if (said := _said(bundle, read))]
    if not known:
        return None
    first, info = known[0][0], known[0][0].info
    num = min(len(said) for _, said in known)
    order = sorted(range(num), key=lambda row: -sum(said[row].distance for _, said in known))[:MAX_PICTURES]
    rows = []
    for row in order:
        try:
            picture = open_picture(first.folder / "samples" / f"{row:03}.png", ["PNG"]).convert("RGB")
        except (OSError, ValueError, SyntaxError, EOFError):
            continue
        right = name(info["sample_labels"][row], info)
        rows.append(
            [image_in_page(picture, "the picture", quality=80), right, *(_cell(said[row]) for _, said in known)]
        )
    return Section(
        title="What it says of pictures",
        head=("Picture of the test split", "Is", *(bundle.name for bundle, _ in known)),
        rows=rows,
        note=f"Of the first {num} pictures of the test split, those where bundles are farthest off.",
    )


def _said(bundle: Exhibit, read: Read) -> list[Answer]:
    """Nothing where a bundle is not as it should be."""
    try:
        outputs = np.load(bundle.folder / "samples" / "outputs.npy", allow_pickle=False).astype(np.float64)
        labels = list(bundle.info["sample_labels"])
        return [read(row, label, bundle.info) for row, label in zip(outputs, labels, strict=True)]
    except (OSError, ValueError, LookupError, TypeError, EOFError):
        return []


def _cell(answer: Answer) -> str:
    if answer.is_right is None:
        return answer.text
    return Markup('<span class="{}">{} {}</span>').format(
        "holds" if answer.is_right else "missed", "✓" if answer.is_right else "✗", answer.text
    )
