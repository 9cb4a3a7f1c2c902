"""Classify pictures with the model beside this file: python predict.py PICTURE ...

Needs onnxruntime, numpy and Pillow.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def preprocess(image: Image.Image, spec: dict[str, Any]) -> np.ndarray:
    """Follow ``preprocessing`` of bundle.json; gives float32 ``(C, H, W)``."""
    image = image.convert(spec["color"])
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    for size in spec["resize"]:
        image = image.resize((size, size), Image.Resampling[spec["interpolation"].upper()])
    pixels = np.asarray(image, dtype=np.float32).reshape(image.height, image.width, -1).transpose(2, 0, 1)
    mean, std = (np.array(spec[name], dtype=np.float32)[:, None, None] for name in ("mean", "std"))
    return (pixels / np.float32(255) - mean) / std


def main() -> None:
    import onnxruntime

    folder = Path(__file__).parent
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for name in sys.argv[1:]:
        images = preprocess(Image.open(name), info["preprocessing"])[None]
        logits = session.run(None, {"images": images})[0][0]
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        best = int(probabilities.argmax())
        print(f"{name}\t{info['classes'][best]}\t{probabilities[best]:.4f}")


if __name__ == "__main__":
    main()
