"""LiteRT files in INT8."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from ofa.errors import UsageError
from ofa.formats import FORMATS, Shipped
from ofa.formats.calibration import QuantizationError
from ofa.formats.litert_int8 import quantizable_nodes, quantize_litert, tensor_ranges
from ofa.hardware.runtimes.litert import LiteRt
from ofa.optional import NotInstalledError
from ofa.setting import Setting

pytestmark = [pytest.mark.alone, pytest.mark.filterwarnings("ignore")]  # of the quantizer's own interpreter


@pytest.fixture(scope="module")
def model() -> bytes:
    """A convolution that gives the sum of the channels, ReLU6, and a product."""
    convolution = nn.Conv2d(2, 4, 1)
    nn.init.ones_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    module = nn.Sequential(convolution, nn.ReLU6(), nn.Flatten(), nn.Linear(36, 3)).eval()
    try:
        return FORMATS["tflite"].to_ship(module, Shipped(input_shape=(2, 3, 3)))
    except NotInstalledError as error:
        pytest.skip(str(error))


def run(model: bytes, images: np.ndarray) -> np.ndarray:
    found: np.ndarray = LiteRt().prepare(model, Setting(runtime="litert")).run({"images": images})[0]
    return found


def test_ranges_are_least_and_greatest_values(model: bytes) -> None:
    ranges = tensor_ranges(model, [np.full((1, 2, 3, 3), value, np.float32) for value in (-1, 4)])
    assert (-1, 4) in ranges.values()  # the input
    assert (0, 6) in ranges.values()  # behind the clamp, which is part of the convolution
    with pytest.raises(UsageError, match="at least one batch of images"):
        tensor_ranges(model, [])


def test_floats_go_in_and_out_and_come_out_nearly_the_same(model: bytes) -> None:
    images = np.random.default_rng(0).standard_normal((8, 1, 2, 3, 3)).astype(np.float32)
    quantized = quantize_litert(model, tensor_ranges(model, images))
    expected, found = (np.array([run(each, image) for image in images]) for each in (model, quantized))
    assert found.dtype == np.float32
    assert 0 < np.abs(expected - found).max() < 0.03 * np.abs(expected).max()


def test_all_in_floating_point_is_the_file_itself(model: bytes) -> None:
    images = np.random.default_rng(0).standard_normal((8, 1, 2, 3, 3)).astype(np.float32)
    nodes = quantizable_nodes(model)
    assert len(nodes) == 2
    kept = quantize_litert(model, tensor_ranges(model, images), float_nodes=nodes)
    np.testing.assert_allclose(run(kept, images[0]), run(model, images[0]), atol=0.05)
    with pytest.raises(QuantizationError, match="the graph has no node 'conv9' to keep in floating point"):
        quantize_litert(model, float_nodes=["conv9"])


def test_weights_have_a_scale_for_each_channel(model: bytes) -> None:
    from ai_edge_litert import schema_py_generated as schema

    (graph,) = schema.ModelT.InitFromPackedBuf(quantize_litert(model), 0).subgraphs
    codes = [tensor for tensor in graph.tensors if tensor.type == schema.TensorType.INT8 and tensor.quantization]
    assert {1, 3, 4} <= {len(tensor.quantization.scale) for tensor in codes}  # activations, product, convolution
