"""A network to each format, once: what is timed is what is shipped. A new format is a module here and a line below."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ofa.errors import UsageError
from ofa.formats import executorch_int8, litert_int8
from ofa.formats.calibration import Calibrated
from ofa.formats.executorch import export_executorch
from ofa.formats.executorch_int8 import export_executorch_int8, exported_graph, graph_ranges, quantize_graph
from ofa.formats.folding import fold_bn
from ofa.formats.litert import export_litert
from ofa.formats.litert_int8 import export_litert_int8, quantize_litert, tensor_ranges
from ofa.formats.onnx import DYNAMO_OPSET, INPUT, OUTPUT, Flat, export_for_timing, repeated, to_bytes, to_onnx
from ofa.formats.onnx_int8 import QUANTIZED_OPERATORS, SYMMETRIC_RUNTIMES, activation_ranges, quantize_qdq
from ofa.formats.quiet import quiet
from ofa.inputs import Inputs
from ofa.setting import Setting

if TYPE_CHECKING:
    from onnx import ModelProto

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

Shape = tuple[int, ...]
Images = npt.NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """What a file that is deployed takes and gives.

    Args:
        input_shape: Of the only input, without the batch.
        batch: Images in one call; ``None`` leaves it free.
        dtype: Of the input.
        input: Its name; that of ``pte`` and ``tflite`` files is ``images`` in any case.
        output: Name of the output.
        opset: Of an ONNX graph.
    """

    input_shape: Shape
    batch: int | None = 1
    dtype: torch.dtype = torch.float32
    input: str = INPUT
    output: str = OUTPUT
    opset: int = DYNAMO_OPSET


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a module in eval mode, on the CPU, becomes a file.

    Args:
        to_time: Of a module, the shape of its input or one sample of its inputs, and a setting: a file to be timed and
            thrown away.
        to_ship: The file that is deployed, in floating point.
        to_calibrate: Of a module, what is deployed, calibration images in batches of its size and a setting: what is
            deployed in INT8; ``None`` if nothing is.
        is_slow: It takes many seconds a network: worth processes of their own.
        takes_any: Inputs may be whole numbers, and several to be timed.
    """

    to_time: Callable[[nn.Module, Shape | Inputs, Setting], bytes]
    to_ship: Callable[[nn.Module, Shipped], bytes]
    to_calibrate: Callable[[nn.Module, Shipped, Iterable[Images], Setting], Calibrated] | None = None
    is_slow: bool = False
    takes_any: bool = True


def _onnx_to_time(module: nn.Module, inputs: Shape | Inputs, setting: Setting) -> bytes:
    import onnx

    data = export_for_timing(module, inputs, setting.batch, DTYPES.get(setting.precision, torch.float32))
    if setting.precision != "int8":
        return data
    # Without the ranges of activations: the speed is right, what it computes is not.
    quantized = quantize_qdq(onnx.load_from_string(data), symmetric=setting.runtime in SYMMETRIC_RUNTIMES)
    return to_bytes(quantized)


def onnx_to_ship(module: nn.Module, file: Shipped) -> ModelProto:
    """See :func:`ofa.formats.onnx.to_onnx`."""
    return to_onnx(
        module,
        file.input_shape,
        batch=file.batch,
        dtype=file.dtype,
        input_name=file.input,
        output=file.output,
        opset=file.opset,
    )


def _calibrated_onnx(module: nn.Module, file: Shipped, batches: Iterable[Images], setting: Setting) -> Calibrated:
    model = onnx_to_ship(module, file)
    ranges = activation_ranges(model, batches)
    symmetric = setting.runtime in SYMMETRIC_RUNTIMES

    def quantize(float_nodes: Collection[str]) -> bytes:
        return to_bytes(quantize_qdq(model, ranges, float_nodes=float_nodes, symmetric=symmetric))

    nodes = [node.name for node in model.graph.node if node.op_type in QUANTIZED_OPERATORS]
    return Calibrated(nodes=nodes, plain=to_bytes(model), quantize=quantize)


def _calibrated_executorch(module: nn.Module, file: Shipped, batches: Iterable[Images], setting: Setting) -> Calibrated:
    images = _zeros(file)
    with _exporting():
        graph = exported_graph(fold_bn(module, images), images)
    ranges = graph_ranges(graph, map(torch.from_numpy, batches))

    def quantize(float_nodes: Collection[str]) -> nn.Module:
        with _exporting():
            return quantize_graph(graph, ranges, float_nodes=float_nodes)

    def to_file(quantized: bytes | nn.Module) -> bytes:
        assert isinstance(quantized, nn.Module)
        with _exporting():
            return export_executorch(quantized, images)

    return Calibrated(nodes=executorch_int8.quantizable_nodes(graph), plain=graph, quantize=quantize, to_file=to_file)


def _calibrated_litert(module: nn.Module, file: Shipped, batches: Iterable[Images], setting: Setting) -> Calibrated:
    model = FORMATS["tflite"].to_ship(module, file)
    with quiet():
        ranges, nodes = tensor_ranges(model, batches), litert_int8.quantizable_nodes(model)

    def quantize(float_nodes: Collection[str]) -> bytes:
        with quiet():
            return quantize_litert(model, ranges, float_nodes=float_nodes)

    return Calibrated(nodes=nodes, plain=model, quantize=quantize)


@contextmanager
def _exporting() -> Iterator[None]:
    with quiet(), torch.random.fork_rng(devices=[]):  # exporters draw numbers
        yield


def _zeros(file: Shipped) -> torch.Tensor:
    assert file.batch is not None
    return torch.zeros(file.batch, *file.input_shape, dtype=file.dtype)


def fixed_batch(
    export: Callable[..., bytes],
    *,
    is_slow: bool,
    export_int8: Callable[..., bytes] | None = None,
    calibrate: Callable[[nn.Module, Shipped, Iterable[Images], Setting], Calibrated] | None = None,
    names_output: bool = False,
    takes_any: bool = False,
) -> Format:
    """A format of one exporter, which is given a module, its batch normalisation folded, and an input of the batch.

    Args:
        export_int8: Takes what ``export`` does; for files that are timed and thrown away.
        calibrate: See :class:`Format`.
        names_output: They are also given the name of the output, which the file says.
        takes_any: They may be given several inputs, of any type.
    """

    def to_ship(module: nn.Module, file: Shipped, export: Callable[..., bytes] = export) -> bytes:
        images, name = _zeros(file), (file.output,) if names_output else ()
        with _exporting():
            return export(fold_bn(module, images), images, *name)

    def to_time(module: nn.Module, inputs: Shape | Inputs, setting: Setting) -> bytes:
        to_file = export_int8 if setting.precision == "int8" else export
        assert to_file is not None, "a runtime computes in the precisions that its format knows"
        if not isinstance(inputs, Inputs):
            return to_ship(module, Shipped(input_shape=inputs, batch=setting.batch), to_file)
        if not takes_any:
            raise UsageError(
                f"runtime {setting.runtime!r} takes networks with one input of floats here, not {inputs}; choose a "
                "device of onnxruntime, openvino or executorch"
            )
        example = inputs.map(lambda tensor: repeated(tensor, setting.batch))
        with _exporting():
            return to_file(fold_bn(Flat(module, example).eval(), *example.tensors), *example.tensors)

    return Format(to_time=to_time, to_ship=to_ship, to_calibrate=calibrate, is_slow=is_slow, takes_any=takes_any)


FORMATS = {
    "onnx": Format(
        to_time=_onnx_to_time,
        to_ship=lambda module, file: to_bytes(onnx_to_ship(module, file)),
        to_calibrate=_calibrated_onnx,
    ),
    "pte": fixed_batch(
        export_executorch,
        is_slow=True,
        export_int8=export_executorch_int8,
        calibrate=_calibrated_executorch,
        takes_any=True,
    ),
    "tflite": fixed_batch(
        export_litert,
        is_slow=True,
        export_int8=export_litert_int8,
        calibrate=_calibrated_litert,
        names_output=True,
    ),
}
"""By the suffix of the file, which is what runtimes call what they take."""
