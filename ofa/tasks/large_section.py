"""What a run's page shows of super-resolution: small pictures, large ones, and those of each bundle beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from ofa.data.picture import open_picture
from ofa.tasks.page_images import image_in_page
from ofa.tasks.predict_enlarged import picture_of
from ofa.tasks.task import Exhibit, Section

MAX_PICTURES = 6


class _Sample(NamedTuple):
    small: Image.Image
    large: Image.Image
    found: Image.Image


def section_of_enlarged(bundles: Sequence[Exhibit]) -> Section | None:
    """A row a picture, of the samples that all bundles bring along; bundles that cannot be read are left out."""
    known = {bundle.name: found for bundle in bundles if (found := _samples(bundle))}
    if not known:
        return None
    first = next(iter(known.values()))
    rows = [
        [
            image_in_page(first[row].large, "the picture", quality=90),
            *(
                _cell(each, first[row].large)
                for each in (_bicubic(first[row]), *(said[row].found for said in known.values()))
            ),
        ]
        for row in range(min(MAX_PICTURES, *map(len, known.values())))
    ]
    return Section(
        title="What it makes of pictures",
        head=("Picture of the test split", "Made smaller, enlarged bicubically", *known),
        rows=rows,
        note="Below a picture is how near it is to the first, as peak signal-to-noise ratio.",
    )


def _samples(bundle: Exhibit) -> list[_Sample]:
    """Nothing where a bundle is not as it should be."""
    found = []
    try:
        outputs = np.load(bundle.folder / "samples" / "outputs.npy", allow_pickle=False)
        for index, (pixels, _) in enumerate(zip(outputs, bundle.info["sample_labels"], strict=True)):
            small, large = (
                open_picture(bundle.folder / "samples" / f"{index:03}{end}.png", ["PNG"]).convert("RGB")
                for end in ("", "-large")
            )
            array = picture_of(pixels)
            image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
            found.append(_Sample(small, large, image))
    except (OSError, ValueError, LookupError, TypeError, EOFError, SyntaxError):
        return []
    return found


def _bicubic(sample: _Sample) -> Image.Image:
    return sample.small.resize(sample.large.size, Image.Resampling.BICUBIC)


def _cell(found: Image.Image, right: Image.Image) -> str:
    error = np.mean((np.asarray(found, float) - np.asarray(right, float)) ** 2) / 255**2
    return image_in_page(found, "the picture that was made", quality=90) + Markup(
        '<br><span class="interval">{} dB</span>'
    ).format(f"{-10 * np.log10(max(error, 1e-12)):.2f}")
