"""From a picture to a network's input: training, evaluation and a bundle's ``predict.py``, which holds a copy, do this.

Nothing but Pillow and numpy is needed. Shapes: H x W pixels, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a picture for, whatever it is called: for others, such as EPS, it starts programs."""
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
WHITE = {"I": 65535, "I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I;16N": 65535, "F": None}
"""Modes of more than 8 bits, with the value that is white unless told."""
LOOK = ("color", "fit", "crop_pct", "ground", "white", "interpolation")
"""Keywords of :func:`to_pixels`; ``preprocessing`` in bundle.json has them."""


def open_picture(file: Any, formats: Sequence[str] = FORMATS, *, size: Sequence[int] | None = None) -> Any:
    """A Pillow image, decoded, of a path or a binary file; what Pillow raises if it is none.

    Args:
        size: The only height and width that are taken; looked at before anything is decompressed.
    """
    from PIL import Image

    with Image.open(file, formats=tuple(formats)) as image:
        if size is not None and image.size != (size[1], size[0]):
            raise ValueError(f"it has {image.size[0]} x {image.size[1]} pixels, not {size[1]} x {size[0]}")
        image.load()
    return image


def to_input(picture: Any, spec: Mapping[str, Any]) -> np.ndarray:
    """Follow ``preprocessing`` of bundle.json, from a Pillow image to one input without the batch."""
    pixels = to_pixels(picture, spec["resize"], **{name: spec[name] for name in LOOK})
    if spec["dtype"] == "uint8":
        return pixels
    mean, std = (np.array(spec[name], dtype=np.float32)[:, None, None] for name in ("mean", "std"))
    return (pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - mean) / std


def to_pixels(
    picture: Any,
    sizes: Sequence[Sequence[int]],
    *,
    color: str = "RGB",
    fit: str = "crop",
    crop_pct: float = 1.0,
    ground: Sequence[int] = (255, 255, 255),
    white: float | None = None,
    interpolation: str = "bicubic",
) -> np.ndarray:
    """Upright, in 8 bits a channel, brought to the first of some sizes as told, and resized to the others in turn.

    A picture that has the first size already is not cropped.

    Args:
        picture: A Pillow image.
        sizes: Heights and widths.
        color: Pillow's mode: ``L``, ``LA``, ``RGB`` or ``RGBA``; those without alpha are laid onto ``ground``.
        fit: ``crop`` the largest centred rectangle of the proportions, ``squash`` the whole picture, or ``letterbox``
            it: shrunk or enlarged until it fits, the rest filled with ``ground``.
        crop_pct: Share of that rectangle's sides, or of the picture's, that is kept, around the centre.
        ground: Red, green, blue, each 0 to 255.
        white: Value that becomes 255 in pictures of more than 8 bits; 65,535 for whole numbers.

    Returns:
        uint8 ``(H, W, C)``.

    Raises:
        ValueError: If a picture of more than 8 bits has values above white, or below 0.
    """
    from PIL import Image

    image = _laid_onto(_in_8_bits(upright(picture), white), color, ground)
    resample = Image.Resampling[interpolation.upper()]
    # Pillow would weigh colours by alpha.
    bands = image.split() if color.endswith("A") else (image,)
    if image.size != (sizes[0][1], sizes[0][0]):
        filling = _laid_onto(Image.new("RGB", (1, 1), tuple(ground)), color, ground)
        fills = filling.split() if color.endswith("A") else (filling,)
        bands = tuple(
            _framed(band, sizes[0], fit, crop_pct, fill, resample) for band, fill in zip(bands, fills, strict=True)
        )
    for height, width in sizes[1:]:
        bands = tuple(band.resize((width, height), resample) for band in bands)
    height, width = sizes[-1]
    return np.concatenate([np.asarray(band, dtype=np.uint8).reshape(height, width, -1) for band in bands], axis=2)


def upright(image: Any) -> Any:
    """Turned as its EXIF data say; left as it is if they are damaged."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, LookupError, ArithmeticError):
        return image


def _in_8_bits(image: Any, white: float | None) -> Any:
    from PIL import Image

    if image.mode not in WHITE:
        return image
    white = white or WHITE[image.mode]
    if white is None:
        raise ValueError(f"it has pixels of mode {image.mode}; say with data.white which value is white")
    values = np.asarray(image, dtype=np.float64)
    if not (values.min() >= 0 and values.max() <= white):
        raise ValueError(
            f"it has values of {values.min():g} to {values.max():g}, not within 0 to {white:g}; set data.white"
        )
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


def _laid_onto(image: Any, color: str, ground: Sequence[int]) -> Any:
    """In a mode, what is transparent laid onto a ground unless the mode has alpha."""
    from PIL import Image

    if image.mode == "CMYK":
        image = image.convert("RGB")
    if color.endswith("A"):
        return image.convert("RGBA").convert(color)
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, (*ground, 255))
        below.alpha_composite(image.convert("RGBA"))
        image = below.convert("RGB")
    return image.convert(color)


def _framed(image: Any, size: Sequence[int], fit: str, crop_pct: float, fill: Any, resample: Any) -> Any:
    rows, columns = size
    if fit == "letterbox":
        inner, place = _inside(image.size, size)
        framed = fill.resize((columns, rows))
        framed.paste(image.resize(inner, resample), place)
        return framed
    left, top, width, height = _cut_out(image.size, size, fit, crop_pct)
    return image.crop((left, top, left + width, top + height)).resize((columns, rows), resample)


def seen(picture: tuple[int, int], size: Sequence[int], fit: str, crop_pct: float) -> tuple[float, ...]:
    """What part of a picture fills an input, in pixels of the picture: left, top, width and height.

    Of a letterbox it is larger than the picture.

    Args:
        picture: Width and height.
        size: Height and width that it is brought to first.
    """
    if picture == (size[1], size[0]):
        return 0, 0, *picture
    if fit != "letterbox":
        return _cut_out(picture, size, fit, crop_pct)
    inner, place = _inside(picture, size)
    across, down = picture[0] / inner[0], picture[1] / inner[1]
    return -place[0] * across, -place[1] * down, size[1] * across, size[0] * down


def _inside(picture: tuple[int, int], size: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of a picture in its letterbox, and where it begins."""
    (width, height), (rows, columns) = picture, size
    scale = min(columns / width, rows / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    return inner, ((columns - inner[0]) // 2, (rows - inner[1]) // 2)


def _cut_out(picture: tuple[int, int], size: Sequence[int], fit: str, crop_pct: float) -> tuple[int, int, int, int]:
    (width, height), (rows, columns) = picture, size
    if fit == "crop":
        width, height = min(width, round(height * columns / rows)), min(height, round(width * rows / columns))
    width, height = max(1, round(width * crop_pct)), max(1, round(height * crop_pct))
    return (picture[0] - width) // 2, (picture[1] - height) // 2, width, height
