"""LiteRT files in INT8: weights and activations as integers, inputs and outputs as floats."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ofa.formats.calibration import RANGE_FOR_TIMING, Ranges, check_known, checked
from ofa.formats.litert import EXTRA, export_litert
from ofa.optional import require

QUANTIZED_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")
"""Operators with most of the arithmetic; what lies between them is quantized too, where LiteRT has a kernel for it."""

FLOAT_OPERATORS = ("INPUT", "OUTPUT", "SOFTMAX")  # in INT8 a softmax gives multiples of 1/256


def export_litert_int8(module: nn.Module, images: Tensor, output: str) -> bytes:
    """A ``.tflite`` file to be timed: see :func:`quantize_litert`, without ranges."""
    return quantize_litert(export_litert(module, images, output))


def quantizable_nodes(model: bytes) -> list[str]:
    """Names of the convolutions and products that can be in INT8: those of the tensors that they give."""
    interpreter = _interpreter(model)
    names = {entry["index"]: entry["name"] for entry in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    return [names[entry["outputs"][0]] for entry in operators if entry["op_name"] in QUANTIZED_OPERATORS]


def tensor_ranges(model: bytes, batches: Iterable[npt.NDArray[np.generic]]) -> Ranges:
    """Least and greatest value of each tensor over calibration images, on one thread.

    Args:
        model: A ``.tflite`` file in floating point, with one input.
        batches: Images of the shape of its input.

    Raises:
        UsageError, QuantizationError: See :func:`~ofa.formats.calibration.checked`.
    """
    interpreter = _interpreter(model)
    (entry,) = interpreter.get_input_details()
    names = _written(interpreter)
    found = []
    for images in batches:
        interpreter.set_tensor(entry["index"], images)
        interpreter.invoke()
        values = [interpreter.get_tensor(index) for index in names]
        found.append([(value.min(), value.max()) for value in values])
    if not found:
        return checked({})
    extremes = np.array(found, dtype=np.float64)
    lows, highs = extremes[..., 0].min(axis=0), extremes[..., 1].max(axis=0)
    return checked(dict(zip(names.values(), zip(lows.tolist(), highs.tolist(), strict=True), strict=True)))


def quantize_litert(model: bytes, ranges: Ranges | None = None, *, float_nodes: Collection[str] = ()) -> bytes:
    """The file in INT8: weights per channel and symmetric, activations signed, of one scale a tensor.

    Args:
        model: A ``.tflite`` file in floating point.
        ranges: See :func:`tensor_ranges`; without them all tensors get the same range, which gives a file that is as
            fast as the real one and computes nonsense.
        float_nodes: Names of nodes that stay in floating point, see :func:`quantizable_nodes`.

    Raises:
        QuantizationError: If there is no such node.
        NotInstalledError: If the quantizer is not there.
    """
    quantizers = require("ai_edge_quantizer.quantizer", EXTRA)
    recipes = require("ai_edge_quantizer.recipe", EXTRA)
    check_known(float_nodes, quantizable_nodes(model))
    if ranges is None:
        ranges = dict.fromkeys(_written(_interpreter(model)).values(), RANGE_FOR_TIMING)
    quantizer = quantizers.Quantizer(bytearray(model), recipes.static_wi8_ai8())
    for kind in FLOAT_OPERATORS:
        quantizer.update_quantization_recipe(".*", kind, algorithm_key=quantizers.AlgorithmName.NO_QUANTIZE)
    for name in float_nodes:
        quantizer.update_quantization_recipe(
            f"^{re.escape(name)};$", "*", algorithm_key=quantizers.AlgorithmName.NO_QUANTIZE
        )
    known = {name: {"min": np.array([low]), "max": np.array([high])} for name, (low, high) in ranges.items()}
    return bytes(quantizer.quantize(known, enable_progress_bar=False, enable_progress_report=False).quantized_model)


def _interpreter(model: bytes) -> Any:
    """One that keeps what every operator gives."""
    interpreters = require("ai_edge_litert.interpreter", EXTRA)
    interpreter = interpreters.Interpreter(
        model_content=model,
        num_threads=1,
        experimental_op_resolver_type=interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    return interpreter


def _written(interpreter: Any) -> dict[int, str]:
    """Names of the floating-point tensors that change from image to image, by their numbers."""
    inputs = [entry["index"] for entry in interpreter.get_input_details()]
    outputs = [index for entry in interpreter._get_ops_details() for index in entry["outputs"]]
    details = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    changing = [details[index] for index in dict.fromkeys([*inputs, *outputs]) if index in details]
    return {entry["index"]: entry["name"] for entry in changing if entry["dtype"] == np.float32}
