"""A network to each format, once: what is timed is what is shipped. A new format is a module here and a line below."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ofa.formats.executorch import export_executorch
from ofa.formats.folding import fold_bn
from ofa.formats.litert import export_litert
from ofa.formats.onnx import export_for_timing, to_onnx
from ofa.formats.onnx_int8 import SYMMETRIC_RUNTIMES, quantize_qdq
from ofa.setting import Setting

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a module in eval mode, on the CPU, becomes a file.

    Args:
        to_time: Of a module, the shape of one input, and a setting: a file to be timed and thrown away.
        to_ship: Of a module, the shape of one input, the batch (``None`` leaves it free) and the input's type: the file
            that is deployed, in floating point.
        is_slow: It takes many seconds a network: worth processes of their own.
    """

    to_time: Callable[[nn.Module, Shape, Setting], bytes]
    to_ship: Callable[[nn.Module, Shape, int | None, torch.dtype], bytes]
    is_slow: bool = False


def _onnx_to_time(module: nn.Module, input_shape: Shape, setting: Setting) -> bytes:
    import onnx

    data = export_for_timing(module, input_shape, setting.batch, DTYPES.get(setting.precision, torch.float32))
    if setting.precision != "int8":
        return data
    # Without the ranges of activations: the speed is right, what it computes is not.
    quantized = quantize_qdq(onnx.load_from_string(data), symmetric=setting.runtime in SYMMETRIC_RUNTIMES)
    return quantized.SerializeToString(deterministic=True)


def _onnx_to_ship(module: nn.Module, input_shape: Shape, batch: int | None, dtype: torch.dtype) -> bytes:
    return to_onnx(module, input_shape, batch=batch, dtype=dtype).SerializeToString(deterministic=True)


def fixed_batch(export: Callable[[nn.Module, Tensor], bytes], *, is_slow: bool) -> Format:
    """A format of one exporter, which is given a module, its batch normalisation folded, and an input of the batch."""

    def to_ship(module: nn.Module, input_shape: Shape, batch: int | None, dtype: torch.dtype) -> bytes:
        assert batch is not None
        images = torch.zeros(batch, *input_shape, dtype=dtype)
        with _quiet(), torch.random.fork_rng(devices=[]):  # exporters draw numbers
            return export(fold_bn(module, images), images)

    return Format(
        to_time=lambda module, input_shape, setting: to_ship(module, input_shape, setting.batch, torch.float32),
        to_ship=to_ship,
        is_slow=is_slow,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters note about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


FORMATS = {
    "onnx": Format(to_time=_onnx_to_time, to_ship=_onnx_to_ship),
    "pte": fixed_batch(export_executorch, is_slow=True),
    "tflite": fixed_batch(export_litert, is_slow=True),
}
"""By the suffix of the file, which is what runtimes call what they take."""
