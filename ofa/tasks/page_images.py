"""Pictures in the page of a run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from markupsafe import Markup
from PIL import Image

LEGEND = Markup(
    '<span style="white-space:nowrap">'
    '<span aria-hidden="true" style="color:rgb({},{},{})">\N{BLACK SQUARE}</span> {}</span>'
)
MIN_SIDE, MAX_SIZE = 60, (180, 180)


def image_in_page(
    image: Image.Image, what: str, *, quality: int | None = None, max_size: tuple[int, int] = MAX_SIZE
) -> Markup:
    """Made smaller, each pixel of it as it is unless a ``quality`` is given; of tiny ones pixels are repeated."""
    factor = -(-MIN_SIDE // max(image.size))
    image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    image.thumbnail(max_size, Image.Resampling.LANCZOS if quality else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality or 80, lossless=quality is None)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img src="data:image/webp;base64,{}" width="{}" height="{}" alt="{}">').format(
        data, image.width, image.height, what
    )


def legend(names: Sequence[str], colours: Sequence[Sequence[int]]) -> Markup:
    """What colours stand for."""
    return Markup(" ").join(LEGEND.format(*colour, name) for name, colour in zip(names, colours, strict=True))
