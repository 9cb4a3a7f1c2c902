"""Sorting channels by importance."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from ofa.supernet import Supernet, elasticize, sort_channels

from .helpers import make_images, randomise


@pytest.fixture
def supernet() -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("mobilenetv3_small_050", num_classes=10)
    randomise(model, size=64)
    return elasticize(model, resolution=[64], width=["75%"]).eval()


@torch.no_grad()
def test_the_function_stays_and_readers_come_in_order_of_their_norms(supernet: Supernet) -> None:
    largest = supernet.space.largest()
    images = make_images(supernet, largest)
    expected = supernet(images, largest)
    norms_before = supernet.model.get_submodule("blocks.1.1.conv_pwl").weight.abs().sum((0, 2, 3))  # type: ignore[union-attr]
    sort_channels(supernet)
    torch.testing.assert_close(supernet(images, largest), expected, atol=1e-5, rtol=1e-5)
    block = supernet.model.get_submodule("blocks.1.1")
    assert isinstance(block.conv_pwl, nn.Conv2d) and isinstance(block.bn1, nn.BatchNorm2d)
    norms = block.conv_pwl.weight.abs().sum((0, 2, 3))
    torch.testing.assert_close(norms, norms_before.sort(descending=True).values)


@torch.no_grad()
def test_narrow_subnets_keep_the_most_important_channels(supernet: Supernet) -> None:
    """Channels that nothing reads go last: a subnet without them computes what the largest does."""
    conv = supernet.model.get_submodule("blocks.1.1.conv_pwl")
    assert isinstance(conv, nn.Conv2d)
    generator = np.random.default_rng(0)
    unread = generator.permutation(conv.in_channels)[: conv.in_channels // 2]
    conv.weight[:, unread] = 0
    space = supernet.space
    narrow = space.arch({**space.largest(), "stage1.block1.expand": space["stage1.block1.expand"].values[0]})
    images = make_images(supernet, narrow)
    expected = supernet(images, space.largest())
    assert not torch.allclose(supernet(images, narrow), expected, atol=1e-4)
    sort_channels(supernet)
    torch.testing.assert_close(supernet(images, narrow), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_activations_find_channels_that_are_silent(supernet: Supernet) -> None:
    block = supernet.model.get_submodule("blocks.1.1")
    assert isinstance(block.bn2, nn.BatchNorm2d)
    unused = torch.arange(0, block.bn2.num_features, 2)
    block.bn2.weight[unused], block.bn2.bias[unused] = 0, -1  # what a ReLU keeps silent, though its weights are large
    space = supernet.space
    narrow = space.arch({**space.largest(), "stage1.block1.expand": space["stage1.block1.expand"].values[0]})
    images = make_images(supernet, narrow)
    expected = supernet(images, space.largest())
    hooks = sum(len(module._forward_pre_hooks) for module in supernet.model.modules())
    sort_channels(supernet, inputs=[images])
    torch.testing.assert_close(supernet(images, narrow), expected, atol=1e-5, rtol=1e-5)
    assert sum(len(module._forward_pre_hooks) for module in supernet.model.modules()) == hooks


@torch.no_grad()
def test_heads_are_sorted_whole() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=10, depth=2)
    supernet = elasticize(model, width=["75%"]).eval()
    largest = supernet.space.largest()
    images = make_images(supernet, largest)
    expected = supernet(images, largest)
    before = model.blocks[0].attn.proj.weight.unflatten(1, (3, 64)).clone()
    sort_channels(supernet)
    torch.testing.assert_close(supernet(images, largest), expected, atol=1e-5, rtol=1e-5)
    after = model.blocks[0].attn.proj.weight.unflatten(1, (3, 64))
    norms = before.abs().sum((0, 2))
    # Rows moved with the stream; each head is one of the former, the heaviest first.
    torch.testing.assert_close(after.abs().sum((0, 2)), norms.sort(descending=True).values)


@torch.no_grad()
@pytest.mark.parametrize("by_activations", [False, True], ids=["norms", "activations"])
def test_the_order_does_not_depend_on_the_device(
    by_activations: bool, supernet: Supernet, torch_device: str, full_fp32: None
) -> None:
    largest = supernet.space.largest()
    images = make_images(supernet, largest)
    expected = supernet(images, largest)
    there = copy.deepcopy(supernet).to(torch_device)
    sort_channels(supernet, inputs=[images] if by_activations else None)
    sort_channels(there, inputs=[images.to(torch_device)] if by_activations else None)
    torch.testing.assert_close(there(images.to(torch_device), largest).cpu(), expected, atol=1e-4, rtol=1e-4)
    names = [name for name, _ in supernet.named_parameters()]
    # Units of all but equal importance may change places.
    same = [torch.equal(supernet.get_parameter(name), there.get_parameter(name).cpu()) for name in names]
    assert sum(same) >= 0.9 * len(names)
