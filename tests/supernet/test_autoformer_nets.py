"""AutoFormer's networks against the published facts, and relative positions against their definition."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa.formats.onnx import export_for_timing, to_bytes, to_onnx
from ofa.space import Arch
from ofa.supernet import Supernet, create_supernet, sort_channels
from ofa.supernet.autoformer_nets import SIZES, RelativeAttention
from ofa.training.recipe import ModelConfig
from ofa.training.run import build_supernet

from .helpers import create_without_weights, make_images
from .test_parts import assert_costs_equal_counts, assert_peak_is_that_of_the_plan
from .test_supernet import assert_extracted_equals_active, sample


@torch.no_grad()
def randomised(module: nn.Module) -> nn.Module:
    """Biases and positions that are not close to zero, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(1 + 0.3 * noise if "norm" in name else noise / max(1, parameter[0].numel()) ** 0.5)
    return module.eval()


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    supernet = create_supernet("autoformer_tiny", num_classes=10)
    randomised(supernet.model)
    return supernet.eval()


# -- the published spaces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_archs"),
    [
        ("autoformer_tiny", 1_056_964_608),
        ("autoformer_small", 77_103_263_459_313),
        ("autoformer_base", 10_108_977_168_384),
    ],
)
def test_published_spaces(name: str, num_archs: int) -> None:
    supernet = create_without_weights(name)
    space, size = supernet.space, SIZES[name]
    assert space.num_archs == num_archs
    assert space["resolution"].values == (224,)
    assert space["stem.width"].values == size.width
    assert space["stage0.depth"].values == size.depth
    assert {dim.values for dim in space.dims if dim.name.endswith("heads")} == {size.heads}
    assert {dim.values for dim in space.dims if dim.name.endswith("mlp_ratio")} == {size.mlp_ratio}
    for width in size.width:
        for ratio in size.mlp_ratio:
            block = supernet.subnet({**space.largest(), "stem.width": width, "stage0.block0.mlp_ratio": ratio})
            assert block.get_submodule("blocks.0.mlp.fc1").out_features == int(width * ratio)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gelu_is_computed_in_fp32(dtype: torch.dtype) -> None:
    """As the published code does by a cast; torch's does so within, which rounds the same for every number."""
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    expected = functional.gelu(every.float()).to(dtype)
    torch.testing.assert_close(functional.gelu(every), expected, atol=1e-37, rtol=0)  # the smallest bfloat16 become 0


# -- relative positions ------------------------------------------------------------------------------------------------


def by_definition(attention: RelativeAttention, x: Tensor) -> Tensor:
    """One token after another, with a key and a value for each pair of tokens."""
    (num_rows, num_columns), heads = attention.grid, attention.num_heads
    query, key, value = attention.qkv(x)[0].view(-1, 3, heads, 64).unbind(1)
    places = [None, *((row, column) for row in range(num_rows) for column in range(num_columns))]

    def position(table: nn.Module, one: tuple[int, int] | None, other: tuple[int, int] | None) -> Tensor:
        indices = [0, 0]
        if one is not None and other is not None:
            indices = [min(max(b - a, -14), 14) + 15 for a, b in zip(one, other, strict=True)]
        return table.vertical[indices[0]] + table.horizontal[indices[1]]  # type: ignore[index,operator]

    results = []
    for i, one in enumerate(places):
        of_keys = torch.stack([position(attention.keys, one, other) for other in places])
        of_values = torch.stack([position(attention.values, one, other) for other in places])
        scores = torch.einsum("hd,nhd->hn", query[i], key + of_keys.unsqueeze(1)) / 8
        results.append(torch.einsum("hn,nhd->hd", scores.softmax(-1), value + of_values.unsqueeze(1)).flatten())
    return attention.proj(torch.stack(results)).unsqueeze(0)


@pytest.mark.parametrize("grid", [(3, 5), (17, 2), (1, 1)])  # 17 rows are farther apart than distances are learned for
def test_attention_is_as_defined(grid: tuple[int, int]) -> None:
    attention = RelativeAttention(24, 2)
    randomised(attention)
    attention.set_grid(grid)
    x = torch.randn(1, 1 + grid[0] * grid[1], 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(attention(x), by_definition(attention, x), atol=1e-5, rtol=0)


def test_pictures_may_be_of_another_size() -> None:
    supernet = create_supernet("autoformer_tiny", num_classes=3, input_size=[64, 96], depth=[12]).eval()
    assert supernet.model.get_submodule("blocks.0.attn").grid == (4, 6)
    assert supernet(torch.zeros(2, 3, 64, 96), supernet.space.smallest()).shape == (2, 3)


# -- subnets -----------------------------------------------------------------------------------------------------------


def test_extracted_equals_active(supernet: Supernet) -> None:
    assert_extracted_equals_active(supernet, sample(supernet, 3))


def with_heads(supernet: Supernet, heads: int) -> Arch:
    return supernet.space.arch({**supernet.space.largest(), "stage0.block0.heads": heads})


def test_fewer_heads_keep_rows_of_the_weight_and_a_prefix_of_the_bias(supernet: Supernet) -> None:
    whole = supernet.model.get_submodule("blocks.0.attn.qkv")
    own = supernet.extract(with_heads(supernet, 3)).get_submodule("blocks.0.attn.qkv")
    assert torch.equal(own.bias, whole.bias[: 3 * 3 * 64])
    assert torch.equal(own.weight, whole.weight.unflatten(0, (3, 4, 64))[:, :3].flatten(0, 2))
    assert own.num_heads == 3
    arch = with_heads(supernet, 3)
    (gradient,) = torch.autograd.grad(supernet(make_images(supernet, arch), arch).square().sum(), whole.bias)
    assert gradient[2 * 3 * 64 : 3 * 3 * 64].all() and not gradient[3 * 3 * 64 :].any()


def test_sorting_leaves_heads_where_they_are(supernet: Supernet) -> None:
    """Their bias depends on how many there are."""
    largest = supernet.space.largest()
    images, before = make_images(supernet, largest), supernet.model.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    with torch.no_grad():
        expected = supernet(images, largest)
        sort_channels(supernet)
        torch.testing.assert_close(supernet(images, largest), expected, atol=1e-5, rtol=0)
    after = supernet.model.state_dict()
    assert torch.equal(after["blocks.0.attn.qkv.bias"], before["blocks.0.attn.qkv.bias"])
    assert not torch.equal(after["blocks.0.mlp.fc1.bias"], before["blocks.0.mlp.fc1.bias"])
    supernet.model.load_state_dict(before)


def test_costs(supernet: Supernet) -> None:
    assert_costs_equal_counts(supernet, 2)
    assert supernet.measurable_share == 1
    assert {"stem", "stage0.block13", "head"} <= {slot.name for slot in supernet.slots}


@pytest.mark.slow
def test_peak_is_that_of_the_plan_of_the_exported_subnet(supernet: Supernet) -> None:
    assert_peak_is_that_of_the_plan(supernet, 0)


def logits_of(graph: bytes, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(logits)


def test_onnx_runtime_gives_the_same(supernet: Supernet) -> None:
    arch = supernet.space.sample(np.random.default_rng(0))
    images, subnet = make_images(supernet, arch, num=1), supernet.extract(arch)
    found = logits_of(export_for_timing(subnet, supernet.input_shape(arch)), images)
    with torch.no_grad():
        torch.testing.assert_close(found, subnet(images), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_onnx_runtime_gives_the_same_of_what_is_shipped(supernet: Supernet) -> None:
    """The file holds little besides the weights: vectors of rows and columns, not of all pairs of tokens."""
    arch = supernet.space.sample(np.random.default_rng(0))
    images, subnet = make_images(supernet, arch, num=1), supernet.extract(arch)
    graph = to_bytes(to_onnx(subnet, supernet.input_shape(arch)))
    with torch.no_grad():
        torch.testing.assert_close(logits_of(graph, images), subnet(images), atol=1e-5, rtol=0)
    assert len(graph) < 1.1 * 4 * sum(parameter.numel() for parameter in subnet.parameters())


def test_a_part_runs_alone(supernet: Supernet) -> None:
    slot = next(slot for slot in supernet.slots if slot.name == "stage0.block3")
    part = supernet.part(str(slot.keys.flat[-1]))
    tokens = torch.randn(1, *part.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = part.module(tokens)
    torch.testing.assert_close(logits_of(export_for_timing(part.module, part.input_shape), tokens), expected)


def test_a_recipe_leaves_hidden_widths_as_published() -> None:
    with torch.device("meta"):
        supernet = build_supernet(ModelConfig(name="autoformer_tiny"), num_classes=10)
    arch = {**supernet.space.largest(), "stem.width": 216, "stage0.block0.mlp_ratio": 3.5}
    assert supernet.subnet(arch).get_submodule("blocks.0.mlp.fc1").out_features == 756  # no multiple of 8
