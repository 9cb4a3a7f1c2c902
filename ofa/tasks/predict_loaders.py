"""How the networks of bundles are loaded and run, in each runtime: a part of the programs that bundles bring along."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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


def model_of(info: Mapping[str, Any], folder: Path) -> Model:
    """The network that ``bundle.json`` tells of."""
    model = info["model"]
    if model["runtime"] not in LOADERS:
        sys.exit(
            f"{model['files'][0]} is run by {model['runtime']} itself; `preprocessing` in bundle.json says with what"
        )
    return LOADERS[model["runtime"]](folder / model["files"][0], model["input"])


def opened(folder: Path) -> tuple[dict[str, Any], Model]:
    """What ``bundle.json`` says, and the model beside it."""
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    return info, model_of(info, folder)


def in_batches(
    info: Mapping[str, Any], run: Model, samples: Sequence[Any], read: Callable[[Any], np.ndarray]
) -> Iterator[np.ndarray]:
    """What the network gives for each sample; it gets as many at a time as it takes."""
    model = info["model"]
    num = model["batch"] or NUM_TOGETHER
    for start in range(0, len(samples), num):
        inputs = np.stack([read(sample) for sample in samples[start : start + num]])
        # A last batch that is short is filled up where the model takes full ones only.
        filled = np.resize(inputs, (num, *inputs.shape[1:])) if model["batch"] else inputs
        yield from np.asarray(run(filled)[: len(inputs)], dtype=np.float64)


def probabilities_of(info: Mapping[str, Any], outputs: np.ndarray) -> np.ndarray:
    """Of the classes, which are the only axis."""
    if info["model"]["output"] == "logits":
        outputs = np.exp(outputs - outputs.max())
        outputs /= outputs.sum()
    return outputs


def tell(what: str, named: Iterable[tuple[str, np.ndarray]], classes: Sequence[str], path: str | None) -> None:
    """Print the likeliest class of each sample, or write the probabilities of all to a CSV file."""
    if path is None:
        for name, row in named:
            print(f"{name}\t{classes[int(row.argmax())]}\t{row.max():.4f}")
        return
    with open(path, "w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow([what, "class", *(f"probability of {name}" for name in classes)])
        table.writerows([name, classes[int(row.argmax())], *(f"{each:.6f}" for each in row)] for name, row in named)
