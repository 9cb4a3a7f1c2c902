"""Narrowed convolutions against convolutions that are built by hand from sliced weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from ofa.nn.conv import add_kernel_transforms, narrow_conv2d, remove_kernel_transforms
from ofa.nn.structure import clone_structure

SIZE = 13


def images(channels: int) -> Tensor:
    return torch.randn(2, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def by_hand(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None, *, padding: int, groups: int) -> Tensor:
    return functional.conv2d(
        x, weight, bias, stride=conv.stride, padding=padding, dilation=conv.dilation, groups=groups
    )  # fmt: skip


def make_conv(*args: int, same: bool = False, **kwargs: int | bool) -> Any:
    conv = (Conv2dSame if same else nn.Conv2d)(*args, **kwargs)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return conv


@pytest.mark.parametrize("bias", [True, False])
def test_plain(bias: bool) -> None:
    conv = make_conv(6, 8, 3, padding=1, bias=bias)
    narrow = clone_structure(conv)
    narrow_conv2d(narrow, in_channels=4, out_channels=5)
    expected = by_hand(conv, images(4), conv.weight[:5, :4], conv.bias[:5] if bias else None, padding=1, groups=1)
    assert torch.equal(narrow(images(4)), expected)
    assert (narrow.in_channels, narrow.out_channels) == (4, 5)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise(stride: int) -> None:
    conv = make_conv(8, 8, 5, padding=2, groups=8, stride=stride)
    narrow = clone_structure(conv)
    narrow_conv2d(narrow, in_channels=3, out_channels=3)
    assert narrow.groups == 3
    expected = by_hand(conv, images(3), conv.weight[:3], narrow.bias, padding=2, groups=3)
    assert torch.equal(narrow(images(3)), expected)


def test_grouped_keeps_the_group_size() -> None:
    conv = make_conv(12, 8, 3, padding=1, groups=4)  # groups of 3 -> 2 channels
    narrow = clone_structure(conv)
    narrow_conv2d(narrow, in_channels=6, out_channels=4)
    assert narrow.groups == 2
    x = images(12)
    # Whole groups are independent of one another, so the first two give what they gave.
    torch.testing.assert_close(narrow(x[:, :6]), conv(x)[:, :4])


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "same"),
    [
        *itertools.product((5, 7), (1, 2), (1, 2), (False,)),
        *itertools.product((5, 7), (1, 2), (1,), (True,)),
    ],
)
def test_smaller_kernel_is_a_centre_crop_that_keeps_the_output_shape(
    size: int, stride: int, dilation: int, same: bool
) -> None:
    padding = 0 if same else dilation * (size - 1) // 2
    conv = make_conv(4, 4, size, stride=stride, dilation=dilation, padding=padding, groups=4, same=same)
    # A kernel that is zero outside its centre does what the cropped one does.
    masked = clone_structure(conv)
    margin = (size - 3) // 2
    mask = functional.pad(torch.ones(3, 3), [margin] * 4)
    masked._parameters["weight"] = conv.weight * mask
    narrow = clone_structure(conv)
    narrow_conv2d(narrow, kernel_size=3)
    assert narrow.weight.shape == (4, 1, 3, 3)
    assert torch.equal(narrow.weight, conv.weight[:, :, margin : margin + 3, margin : margin + 3])
    assert narrow(images(4)).shape == conv(images(4)).shape
    torch.testing.assert_close(narrow(images(4)), masked(images(4)))


def test_kernel_and_channels_together() -> None:
    conv = make_conv(6, 6, 7, padding=3, groups=6)
    narrow = clone_structure(conv)
    narrow_conv2d(narrow, in_channels=4, out_channels=4, kernel_size=5)
    expected = by_hand(conv, images(4), conv.weight[:4, :, 1:6, 1:6], narrow.bias, padding=2, groups=4)
    assert torch.equal(narrow(images(4)), expected)


def test_nothing_asked_changes_nothing() -> None:
    conv = make_conv(4, 4, 3, padding=1)
    narrow = clone_structure(conv)
    narrow_conv2d(narrow)
    assert narrow.weight is conv.weight
    assert repr(narrow) == repr(conv)


def test_repr_and_padding_of_other_modes_follow_the_kernel() -> None:
    conv = make_conv(2, 2, 7, padding=3)
    conv.padding_mode = "reflect"
    narrow = clone_structure(conv)
    narrow_conv2d(narrow, kernel_size=3)
    fresh = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
    fresh.load_state_dict(narrow.state_dict())
    assert torch.equal(narrow(images(2)), fresh(images(2)))
    assert repr(narrow) == repr(fresh)


def test_narrowing_a_clone_leaves_the_original_alone_and_shares_its_memory() -> None:
    conv = make_conv(8, 8, 7, padding=3, groups=8)
    before = conv(images(8))
    narrow = clone_structure(conv)
    narrow_conv2d(narrow, in_channels=4, out_channels=4, kernel_size=3)
    assert torch.equal(conv(images(8)), before)
    with torch.no_grad():
        conv.weight[0, 0, 3, 3] = 42
    assert narrow.weight[0, 0, 1, 1] == 42
    narrow(images(4)).sum().backward()
    assert conv.weight.grad is not None
    touched = conv.weight.grad != 0
    assert touched[:4, :, 2:5, 2:5].all()
    assert touched.sum() == 4 * 9


# -- kernel transforms -------------------------------------------------------------------------------------------------


def with_transforms(sizes: tuple[int, ...], *, random: bool) -> Any:
    conv = make_conv(4, 4, sizes[-1], padding=sizes[-1] // 2, groups=4)
    add_kernel_transforms(conv, sizes)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in conv.named_parameters():
            if random and name.startswith("kernel_transform"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return conv


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_transforms_start_as_the_plain_crop(kernel_size: int) -> None:
    conv = with_transforms((3, 5, 7), random=False)
    plain = make_conv(4, 4, 7, padding=3, groups=4)
    for each in (conv, plain):
        narrow_conv2d(each, kernel_size=kernel_size)
    assert torch.equal(conv.weight, plain.weight)


def transformed(weight: Tensor, matrix: Tensor, size: int) -> Tensor:
    """Eq. by eq.: the cropped kernel of each channel as a vector, times the matrix."""
    margin = (weight.shape[-1] - size) // 2
    result = torch.empty(len(weight), 1, size, size)
    for channel in range(len(weight)):
        cropped = weight[channel, 0, margin : margin + size, margin : margin + size]
        result[channel, 0] = (matrix @ cropped.reshape(-1)).reshape(size, size)
    return result


def test_transforms_chain_from_7_over_5_to_3() -> None:
    conv = with_transforms((3, 5, 7), random=True)
    assert {name: tuple(p.shape) for name, p in conv.named_parameters() if "transform" in name} == {
        "kernel_transform_7to5": (25, 25),
        "kernel_transform_5to3": (9, 9),
    }
    five = transformed(conv.weight, conv.kernel_transform_7to5, 5)
    three = transformed(five, conv.kernel_transform_5to3, 3)
    for size, expected in [(7, conv.weight), (5, five), (3, three)]:
        narrow = clone_structure(conv)
        narrow_conv2d(narrow, kernel_size=size)
        torch.testing.assert_close(narrow.weight, expected)
        assert not any("transform" in name for name, _ in narrow.named_parameters())


def test_a_chain_may_leave_a_size_out() -> None:
    conv = with_transforms((3, 7), random=True)
    narrow = clone_structure(conv)
    narrow_conv2d(narrow, kernel_size=3)
    torch.testing.assert_close(narrow.weight, transformed(conv.weight, conv.kernel_transform_7to3, 3))


def test_transforms_learn() -> None:
    conv = with_transforms((3, 5, 7), random=True)
    narrow = clone_structure(conv)
    narrow_conv2d(narrow, kernel_size=5)
    narrow(images(4)).square().sum().backward()
    assert conv.kernel_transform_7to5.grad is not None
    assert conv.kernel_transform_7to5.grad.abs().min() > 0
    assert conv.kernel_transform_5to3.grad is None


def test_transforms_can_be_removed_from_a_clone() -> None:
    model = nn.Sequential(with_transforms((3, 5), random=True), nn.ReLU())
    plain = remove_kernel_transforms(clone_structure(model))
    assert [name for name, _ in plain.named_parameters()] == ["0.weight", "0.bias"]
    assert len(list(model.parameters())) == 3
