from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from ofa.hardware.onnx_export import anchor_graph, empty_graph, export_for_timing


def run(model, images):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


def test_the_exported_graph_computes_what_the_module_does():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
    images = np.random.default_rng(0).standard_normal((2, 3, 10, 10)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(export_for_timing(module, (3, 10, 10), 2), images), expected, atol=1e-5)


class Mean(nn.Module):
    def __init__(self, dims, keepdim):
        super().__init__()
        self.dims, self.keepdim = dims, keepdim

    def forward(self, images):
        return images.mean(self.dims, keepdim=self.keepdim)


@pytest.mark.parametrize(
    ("dims", "keepdim", "shape", "op"),
    [
        ((2, 3), True, (3, 6, 5), "GlobalAveragePool"),
        ((-1, -2), True, (3, 6, 5), "GlobalAveragePool"),
        ((2, 3), False, (3, 6, 5), "ReduceMean"),
        ((1, 2), True, (3, 6, 5), "ReduceMean"),
        ((-2, -1), True, (6, 5), "ReduceMean"),
        ((2, 3), True, (3, 6, 5, 4), "ReduceMean"),
    ],
)
def test_only_spatial_means_become_pools(dims, keepdim, shape, op):
    model = export_for_timing(Mean(dims, keepdim).eval(), shape)
    assert [node.op_type for node in onnx.load_from_string(model).graph.node if node.op_type != "Constant"] == [op]
    images = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    np.testing.assert_allclose(run(model, images), images.mean(tuple(dims), keepdims=keepdim), atol=1e-6)


def test_the_empty_graph_returns_its_input():
    images = np.arange(192, dtype=np.float32).reshape(1, 3, 8, 8)
    np.testing.assert_array_equal(run(empty_graph(), images), images)


def test_the_anchor_is_always_the_same_and_leaves_the_seed_alone():
    state = torch.random.get_rng_state()
    assert anchor_graph() == anchor_graph()
    assert torch.equal(torch.random.get_rng_state(), state)
