"""Classify pictures with the model beside this file: python predict.py PICTURE ...

Needs the model's runtime (`runtime` in bundle.json) and numpy; Pillow too, unless a picture is a .npy file of the
model's input.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # for others, such as EPS, Pillow starts programs

Model = Callable[[np.ndarray], np.ndarray]


def preprocess(image: Any, spec: dict[str, Any]) -> np.ndarray:
    """Follow ``preprocessing`` of bundle.json, from a Pillow image to one input without the batch."""
    from PIL import Image

    image = image.convert(spec["color"])
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    for size in spec["resize"]:
        image = image.resize((size, size), Image.Resampling[spec["interpolation"].upper()])
    pixels = np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, -1)
    if spec["dtype"] == "uint8":
        return pixels
    mean, std = (np.array(spec[name], dtype=np.float32)[:, None, None] for name in ("mean", "std"))
    return (pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - mean) / std


def onnxruntime(path: Path) -> Model:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    return lambda images: session.run(None, {"images": images})[0]


def openvino(path: Path) -> Model:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    return lambda images: compiled({"images": images})[0]


def executorch(path: Path) -> Model:
    import torch
    from executorch.runtime import Runtime

    contents = path.read_bytes()
    program = Runtime.get().load_program(contents)
    method = program.load_method("forward")

    def run(images: np.ndarray) -> np.ndarray:
        assert contents and program  # the method reads them, and does not keep them
        return method.execute([torch.from_numpy(images)])[0].numpy()

    return run


def litert(path: Path) -> Model:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()

    def run(images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


LOADERS = {
    "onnxruntime": onnxruntime,
    "onnxruntime-cuda": onnxruntime,
    "openvino": openvino,
    "executorch": executorch,
    "litert": litert,
}


def main() -> None:
    folder = Path(__file__).parent
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    model, spec = info["model"], info["preprocessing"]
    if model["runtime"] not in LOADERS:
        sys.exit(
            f"{model['files'][0]} is run by {model['runtime']} itself; `preprocessing` in bundle.json says with what"
        )
    run = LOADERS[model["runtime"]](folder / model["files"][0])
    for name in sys.argv[1:]:
        if name.endswith(".npy"):
            array = np.load(name, allow_pickle=False)
        else:
            from PIL import Image

            array = preprocess(Image.open(name, formats=FORMATS), spec)
        outputs = run(np.repeat(array[None], model["batch"] or 1, axis=0))[0]
        if model["output"] == "logits":
            outputs = np.exp(outputs - outputs.max())
            outputs /= outputs.sum()
        best = int(outputs.argmax())
        print(f"{name}\t{info['classes'][best]}\t{outputs[best]:.4f}")


if __name__ == "__main__":
    main()
