"""How the networks of bundles are loaded, in each runtime: a part of the programs that bundles bring along."""

from collections.abc import Callable
from pathlib import Path

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
