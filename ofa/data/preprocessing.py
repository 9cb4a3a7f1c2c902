"""From a picture to the network's input, in words: the one definition for training, evaluation and deployment."""

from __future__ import annotations

from typing import Any

from ofa.data.image_data import ImageData
from ofa.data.resizing import INTERPOLATION


def preprocessing(data: ImageData, resolution: int, *, in_graph: bool = False) -> dict[str, Any]:
    """What ``bundle.json`` says about the input of a subnet at ``resolution``.

    Following ``steps`` with Pillow and numpy gives exactly what ``data.batches(..., image_size=resolution)`` yields.

    Args:
        in_graph: The network scales, normalises and arranges the pixels itself.

    Raises:
        DataError: If ``resolution`` is above the size that the data was loaded at.
    """
    grey = data.source.grey
    steps = [
        "convert the image to the Pillow mode in 'color'",
        "crop the central square: side = min(width, height), left = (width - side) // 2, top alike",
        "resize the 8-bit image with Pillow's 'interpolation' to each size in 'resize' in turn",
    ]
    if in_graph:
        steps += ["arrange as 'layout'; the network does the rest, and gives probabilities"]
    else:
        steps += [
            "convert to 'dtype' and divide by 255; repeat a single channel to 'channels'",
            "subtract 'mean' and divide by 'std', per channel",
            "arrange as 'layout'",
        ]
    return {
        "color": "L" if grey else "RGB",
        "channels": data.channels,
        "resize": data.resize_steps(resolution),
        "interpolation": INTERPOLATION.name.lower(),
        "mean": list(data.mean),
        "std": list(data.std),
        "input_size": [resolution, resolution, 1 if grey else 3]
        if in_graph
        else [data.channels, resolution, resolution],
        "layout": "NHWC" if in_graph else "NCHW",
        "dtype": "uint8" if in_graph else "float32",
        "steps": steps,
    }
