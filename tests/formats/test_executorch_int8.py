"""Torch's graph in INT8, before it becomes an ExecuTorch program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from ofa.errors import UsageError
from ofa.formats.calibration import QuantizationError
from ofa.formats.executorch_int8 import exported_graph, graph_ranges, quantizable_nodes, quantize_graph
from ofa.optional import NotInstalledError, require

pytestmark = [pytest.mark.alone, pytest.mark.filterwarnings("ignore")]  # of the packages, when they are imported


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    """A convolution that gives the sum of the channels, ReLU6, a sum with itself doubled, a product."""
    try:
        require("torchao.quantization.pt2e.quantize_pt2e", "executorch")
        require("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", "executorch")
    except NotInstalledError as error:
        pytest.skip(str(error))

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.clamp, self.head = nn.Conv2d(2, 4, 1), nn.ReLU6(), nn.Linear(4, 3)
            nn.init.ones_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.clamp(self.conv(images))
            logits: torch.Tensor = self.head((features + images.mean()).flatten(2).transpose(1, 2))
            return logits

    return exported_graph(Toy().eval(), torch.zeros(1, 2, 3, 3))


def quantized_behind(graph: GraphModule) -> set[str]:
    """Names of what is quantized."""
    return {
        str(node.args[0])
        for node in graph.graph.nodes
        if "quantize_per_tensor" in str(node.target) and "dequantize" not in str(node.target)
    }


def test_ranges_are_least_and_greatest_values(graph: GraphModule) -> None:
    images = [torch.full((1, 2, 3, 3), value) for value in (-1.0, 4.0)]
    ranges = graph_ranges(graph, images)
    assert ranges["conv2d"] == (-2, 8)
    assert ranges[next(name for name in ranges if name.startswith("hardtanh"))] == (0, 6)


def test_without_images_or_with_broken_ones_it_is_refused(graph: GraphModule) -> None:
    with pytest.raises(UsageError, match="at least one batch of images"):
        graph_ranges(graph, [])
    with pytest.raises(QuantizationError, match="reaches from inf to inf on calibration images"):
        graph_ranges(graph, [torch.full((1, 2, 3, 3), float("inf"))])


def test_the_range_is_that_behind_the_clamp(graph: GraphModule) -> None:
    found = quantized_behind(quantize_graph(graph))
    assert "conv2d" not in found
    assert any(name.startswith("hardtanh") for name in found)


def test_it_computes_nearly_the_same(graph: GraphModule) -> None:
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.standard_normal((1, 2, 3, 3)).astype(np.float32)) for _ in range(8)]
    quantized = quantize_graph(graph, graph_ranges(graph, images))
    with torch.no_grad():
        expected, found = (torch.cat([each(image) for image in images]) for each in (graph, quantized))
    assert 0 < (expected - found).abs().max() < 0.03 * expected.abs().max()


def test_what_stays_in_floating_point_takes_its_sums_along(graph: GraphModule) -> None:
    convolution, product = quantizable_nodes(graph)
    assert not quantized_behind(quantize_graph(graph, float_nodes=[convolution, product]))
    found = quantized_behind(quantize_graph(graph, float_nodes=[convolution]))
    assert len(found) == 2  # what the product takes and gives
    with pytest.raises(QuantizationError, match="the graph has no node 'conv9' to keep in floating point"):
        quantize_graph(graph, float_nodes=["conv9"])
