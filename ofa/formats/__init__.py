"""A network to each format, once: what is timed is what is shipped. A new format is a module here and a line below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ofa.errors import UsageError
from ofa.formats.executorch import export_executorch
from ofa.formats.folding import fold_bn
from ofa.formats.litert import export_litert
from ofa.formats.onnx import DYNAMO_OPSET, INPUT, OUTPUT, Flat, export_for_timing, repeated, to_bytes, to_onnx
from ofa.formats.onnx_int8 import SYMMETRIC_RUNTIMES, quantize_qdq
from ofa.formats.quiet import quiet
from ofa.inputs import Inputs
from ofa.setting import Setting

if TYPE_CHECKING:
    from onnx import ModelProto

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

Shape = tuple[int, ...]


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
        is_slow: It takes many seconds a network: worth processes of their own.
        takes_any: Inputs may be whole numbers, and several to be timed.
    """

    to_time: Callable[[nn.Module, Shape | Inputs, Setting], bytes]
    to_ship: Callable[[nn.Module, Shipped], bytes]
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


def fixed_batch(
    export: Callable[..., bytes], *, is_slow: bool, names_output: bool = False, takes_any: bool = False
) -> Format:
    """A format of one exporter, which is given a module, its batch normalisation folded, and an input of the batch.

    Args:
        names_output: It is also given the name of the output, which the file says.
        takes_any: It may be given several inputs, of any type.
    """

    def to_ship(module: nn.Module, file: Shipped) -> bytes:
        assert file.batch is not None
        images = torch.zeros(file.batch, *file.input_shape, dtype=file.dtype)
        name = (file.output,) if names_output else ()
        with quiet(), torch.random.fork_rng(devices=[]):  # exporters draw numbers
            return export(fold_bn(module, images), images, *name)

    def to_time(module: nn.Module, inputs: Shape | Inputs, setting: Setting) -> bytes:
        if not isinstance(inputs, Inputs):
            return to_ship(module, Shipped(input_shape=inputs, batch=setting.batch))
        if not takes_any:
            raise UsageError(
                f"runtime {setting.runtime!r} takes networks with one input of floats here, not {inputs}; choose a "
                "device of onnxruntime, openvino or executorch"
            )
        example = inputs.map(lambda tensor: repeated(tensor, setting.batch))
        with quiet(), torch.random.fork_rng(devices=[]):
            return export(fold_bn(Flat(module, example).eval(), *example.tensors), *example.tensors)

    return Format(
        to_time=to_time,
        to_ship=to_ship,
        is_slow=is_slow,
        takes_any=takes_any,
    )


FORMATS = {
    "onnx": Format(to_time=_onnx_to_time, to_ship=lambda module, file: to_bytes(onnx_to_ship(module, file))),
    "pte": fixed_batch(export_executorch, is_slow=True, takes_any=True),
    "tflite": fixed_batch(export_litert, is_slow=True, names_output=True),
}
"""By the suffix of the file, which is what runtimes call what they take."""
