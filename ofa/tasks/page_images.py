"""Pictures in the page of a run."""

from __future__ import annotations

import base64
import io

from markupsafe import Markup
from PIL import Image

MAX_SIZE = (180, 180)


def image_in_page(image: Image.Image, what: str, *, quality: int | None = None) -> Markup:
    """Made smaller, each pixel of it as it is unless a ``quality`` is given."""
    image = image.copy()
    image.thumbnail(MAX_SIZE, Image.Resampling.LANCZOS if quality else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality or 80, lossless=quality is None)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img src="data:image/webp;base64,{}" width="{}" height="{}" alt="{}">').format(
        data, image.width, image.height, what
    )
