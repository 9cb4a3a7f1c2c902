"""What programs of bundles have in common: ``predict.py`` holds a copy. Nothing but numpy and a runtime is needed."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.data.picture import EXTENSIONS, open_picture, to_input

Model = Callable[[np.ndarray], np.ndarray]

NUM_TOGETHER = 32


def onnxruntime(path: Path, name: str) -> Model:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    return lambda inputs: session.run(None, {name: inputs})[0]


def openvino(path: Path, name: str) -> Model:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    return lambda inputs: compiled({name: inputs})[0]


def executorch(path: Path, name: str) -> Model:
    import torch
    from executorch.runtime import Runtime

    contents = path.read_bytes()
    program = Runtime.get().load_program(contents)
    method = program.load_method("forward")

    def run(inputs: np.ndarray) -> np.ndarray:
        assert contents and program  # the method reads them, and does not keep them
        return method.execute([torch.from_numpy(inputs)])[0].numpy()

    return run


def litert(path: Path, name: str) -> Model:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()

    def run(inputs: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
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


def files_of(names: Sequence[str]) -> list[Path]:
    """Pictures in the folders among some paths, and the paths that are no folders."""
    files: list[Path] = []
    for path in map(Path, names):
        inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in EXTENSIONS) if path.is_dir() else []
        if path.is_dir() and not inside:
            sys.exit(f"{path} holds no pictures ({' '.join(EXTENSIONS)}); name another folder")
        files += inside or [path]
    return files


def read_input(path: Path, spec: Mapping[str, Any]) -> np.ndarray:
    if not path.is_file():
        sys.exit(f"{path} is no file that can be read; check the path")
    try:
        return np.load(path, allow_pickle=False) if path.suffix == ".npy" else to_input(open_picture(path), spec)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        sys.exit(f"{path} is no picture that can be read ({error}); take it out")


def opened(folder: Path) -> tuple[dict[str, Any], Model]:
    """What ``bundle.json`` says, and the model beside it."""
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    model = info["model"]
    if model["runtime"] not in LOADERS:
        sys.exit(
            f"{model['files'][0]} is run by {model['runtime']} itself; `preprocessing` in bundle.json says with what"
        )
    return info, LOADERS[model["runtime"]](folder / model["files"][0], model["input"])


def outputs_of(info: Mapping[str, Any], run: Model, files: Sequence[Path]) -> Iterator[np.ndarray]:
    """What the model gives for each file; it gets as many at a time as it takes."""
    model = info["model"]
    num = model["batch"] or NUM_TOGETHER
    for start in range(0, len(files), num):
        inputs = np.stack([read_input(file, info["preprocessing"]) for file in files[start : start + num]])
        # A last batch that is short is filled up where the model takes full ones only.
        filled = np.resize(inputs, (num, *inputs.shape[1:])) if model["batch"] else inputs
        yield from np.asarray(run(filled)[: len(inputs)], dtype=np.float64)


def probabilities_of(info: Mapping[str, Any], outputs: np.ndarray) -> np.ndarray:
    """Of the classes, which are the only axis."""
    if info["model"]["output"] == "logits":
        outputs = np.exp(outputs - outputs.max())
        outputs /= outputs.sum()
    return outputs
