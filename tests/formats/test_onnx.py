from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from ofa.formats.onnx import OpsetError, export_for_timing, in_opset, opset_of, to_bytes, to_onnx


def run(model, images):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


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


class Standardised(nn.Conv2d):
    """Weight standardisation as NFNet computes it: a batch norm of the weights, in training mode."""

    def forward(self, images):
        weight = functional.batch_norm(self.weight.flatten(1)[None], None, None, training=True).view_as(self.weight)
        return functional.conv2d(images, weight, self.bias)


class Unsupported(nn.Module):
    """An operator that the older exporter lacks."""

    def forward(self, images):
        return torch.addcdiv(images, images, images)


class Tiled(nn.Module):
    """A position embedding that is tiled, as SAM 2's: the older exporter makes branches that read constants."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Parameter(torch.rand(1, 3, 2, 2))

    def forward(self, images):
        return images + self.embedding.tile((images.shape[2] // 2, images.shape[3] // 2))


class Clipped(Unsupported):
    """One tensor that is clipped several times, as Gemma 4's: the dynamo exporter's optimiser mixes up the bounds."""

    def __init__(self):
        super().__init__()
        for i in range(3):
            self.register_buffer(f"most{i}", torch.tensor(1.2 + 0.2 * i))
            self.register_buffer(f"least{i}", torch.tensor(1.1 + 0.1 * i))

    def forward(self, images):
        return super().forward(
            sum(images.clamp(getattr(self, f"least{i}"), getattr(self, f"most{i}")) for i in range(3))
        )


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, images):
        return self.lstm(images.flatten(0, 1))[0]


@pytest.mark.parametrize("make", [Unsupported, Tiled, Clipped, Recurrent, lambda: Standardised(3, 8, 3, bias=False)])
def test_what_the_older_exporter_finds_hard_is_exported_all_the_same(make, capfd):
    torch.manual_seed(0)
    module = make().eval()
    images = np.random.default_rng(0).uniform(1, 2, (2, 3, 6, 4)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = export_for_timing(module, (3, 6, 4), 2)
    assert tuple(capfd.readouterr()) == ("", "")
    assert not module._forward_pre_hooks
    with torch.no_grad():
        np.testing.assert_allclose(run(model, images), module(torch.from_numpy(images)).numpy(), atol=1e-5)


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


def test_arguments_with_defaults_are_left_at_them():
    """Blocks of transformers take a mask and whether it is causal; the exporter would make inputs of these."""

    class Attention(nn.Module):
        def forward(self, x, mask=None, is_causal: bool = False):
            return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask, is_causal=is_causal)

    images = np.random.default_rng(0).standard_normal((1, 2, 5, 4)).astype(np.float32)
    model = export_for_timing(Attention().eval(), (2, 5, 4))
    assert [value.name for value in onnx.load_from_string(model).graph.input] == ["images"]
    expected = Attention()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(model, images), expected, atol=1e-5)


def test_the_ir_version_is_the_lowest_that_the_opset_permits():
    """The numbers are those of ONNX's own table, github.com/onnx/onnx, docs/Versioning.md."""
    model = to_onnx(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (3, 8, 8))
    for opset, ir_version in {14: 7, 15: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}.items():
        written = onnx.load_from_string(to_bytes(in_opset(model, opset)))
        assert (opset_of(written), written.ir_version) == (opset, ir_version)
    timed = onnx.load_from_string(export_for_timing(nn.Conv2d(3, 4, 3).eval(), (3, 8, 8)))
    assert (opset_of(timed), timed.ir_version) == (17, 8)


@pytest.mark.parametrize(
    ("module", "asked", "message"),
    [
        (nn.Hardswish(), 13, "cannot be written in opset 13 .*HardSwish.*; the lowest is 14: ask for it"),
        (nn.LayerNorm(8), 16, "cannot be written in opset 16 .*LayerNormalization.*; the lowest is 17: ask for it"),
        (nn.ReLU(), 8, "opset must be 9 to [0-9]+, not 8"),
        (nn.ReLU(), 1000, "opset must be 9 to [0-9]+, not 1000"),
    ],
)
def test_an_opset_that_lacks_an_operator_is_refused_with_the_lowest_that_has_it(module, asked, message):
    with pytest.raises(OpsetError, match=message):
        to_onnx(module.eval(), (3, 8, 8), opset=asked)


@pytest.mark.parametrize("opset", [17, 18, 21])
def test_a_graph_in_another_opset_computes_the_same(opset):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8))
    images = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    model = to_onnx(module.eval(), (3, 8, 8), batch=None, output="features", opset=opset)
    assert [value.name for value in model.graph.output] == ["features"]
    with torch.no_grad():
        np.testing.assert_allclose(run(to_bytes(model), images), module(torch.from_numpy(images)), atol=1e-5)
