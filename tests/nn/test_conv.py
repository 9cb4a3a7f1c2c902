"""Smaller kernels against convolutions that are built by hand from sliced or masked weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from ofa.nn.conv import add_kernel_transforms, kernel_is_elastic, narrow_kernel, remove_kernel_transforms
from ofa.nn.structure import clone_structure

SIZE = 13


def images(channels: int) -> Tensor:
    return torch.randn(2, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def make_conv(*args: Any, same: bool = False, **kwargs: Any) -> Any:
    conv = (Conv2dSame if same else nn.Conv2d)(*args, **kwargs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return conv


def narrowed(conv: Any, kernel_size: int) -> Any:
    narrow = clone_structure(conv)
    narrow_kernel(narrow, kernel_size)
    return narrow


def masked(conv: Any, kernel_size: int) -> Any:
    """The same convolution with a kernel that is zero outside its centre."""
    result = clone_structure(conv)
    mask = torch.zeros(conv.kernel_size)
    rows, columns = (slice((s - min(s, kernel_size)) // 2, (s + min(s, kernel_size)) // 2) for s in conv.kernel_size)
    mask[rows, columns] = 1
    result._parameters["weight"] = conv.weight * mask
    return result


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
    assert kernel_is_elastic(conv)
    narrow = narrowed(conv, 3)
    margin = (size - 3) // 2
    assert torch.equal(narrow.weight, conv.weight[:, :, margin : margin + 3, margin : margin + 3])
    assert narrow(images(4)).shape == conv(images(4)).shape
    torch.testing.assert_close(narrow(images(4)), masked(conv, 3)(images(4)))


@pytest.mark.parametrize(
    ("kernel", "kernel_size", "expected"),
    [
        ((1, 11), 3, (1, 3)),
        ((11, 1), 7, (7, 1)),
        ((3, 11), 5, (3, 5)),
        ((7, 5), 5, (5, 5)),
        ((7, 3), 3, (3, 3)),
    ],
)
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_kernels_that_are_not_square(
    kernel: tuple[int, int], kernel_size: int, expected: tuple[int, int], mode: str
) -> None:
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = make_conv(3, 2, kernel, padding=padding, padding_mode=mode)
    assert kernel_is_elastic(conv)
    narrow = narrowed(conv, kernel_size)
    assert tuple(narrow.weight.shape) == (2, 3, *expected)
    torch.testing.assert_close(narrow(images(3)), masked(conv, kernel_size)(images(3)))
    fresh = nn.Conv2d(3, 2, expected, padding=(expected[0] // 2, expected[1] // 2), padding_mode=mode)
    assert repr(narrow) == repr(fresh)
    assert list(narrow._reversed_padding_repeated_twice) == list(fresh._reversed_padding_repeated_twice)


def test_a_band_keeps_the_axis_that_is_smaller_already() -> None:
    conv = make_conv(2, 2, (1, 11), padding=(0, 5), groups=2)
    assert torch.equal(narrowed(conv, 5).weight, conv.weight[:, :, :, 3:8])


def test_dilation_of_one_axis() -> None:
    conv = make_conv(2, 2, (5, 7), padding=(4, 3), dilation=(2, 1))
    narrow = narrowed(conv, 3)
    assert narrow.padding == (2, 1)
    torch.testing.assert_close(narrow(images(2)), masked(conv, 3)(images(2)))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [3, "same"])
def test_repr_and_padding_of_every_mode_follow_the_kernel(padding: int | str, mode: str) -> None:
    conv = make_conv(2, 2, 7, padding=padding, padding_mode=mode)
    narrow = narrowed(conv, 3)
    fresh = nn.Conv2d(2, 2, 3, padding=1 if padding == 3 else "same", padding_mode=mode)
    fresh.load_state_dict(narrow.state_dict())
    assert torch.equal(narrow(images(2)), fresh(images(2)))
    torch.testing.assert_close(narrow(images(2)), masked(conv, 3)(images(2)))
    assert repr(narrow) == repr(fresh)


@pytest.mark.parametrize("kernel_size", [7, 9])
def test_a_kernel_that_is_not_smaller_changes_nothing(kernel_size: int) -> None:
    conv = make_conv(4, 4, 7, padding=3)
    narrow = narrowed(conv, kernel_size)
    assert torch.equal(narrow.weight, conv.weight)
    assert repr(narrow) == repr(conv)
    assert torch.equal(narrow(images(4)), conv(images(4)))


def test_narrowing_a_clone_leaves_the_original_alone_and_shares_its_memory() -> None:
    conv = make_conv(8, 8, 7, padding=3, groups=8)
    before, text = conv(images(8)), repr(conv)
    narrow = narrowed(conv, 3)
    assert torch.equal(conv(images(8)), before)
    assert repr(conv) == text
    with torch.no_grad():
        conv.weight[0, 0, 3, 3] = 42
    assert narrow.weight[0, 0, 1, 1] == 42
    narrow(images(8)).sum().backward()
    assert conv.weight.grad is not None
    touched = conv.weight.grad != 0
    assert touched[:, :, 2:5, 2:5].all()
    assert touched.sum() == 8 * 9


@pytest.mark.parametrize(
    ("module", "is_elastic"),
    [
        (nn.Conv2d(2, 2, 3, padding=1), True),
        (nn.Conv2d(2, 2, 5, padding=2, stride=2, groups=2), True),
        (nn.Conv2d(2, 2, 5, padding=4, dilation=2), True),
        (nn.Conv2d(2, 2, (1, 11), padding=(0, 5)), True),
        (nn.Conv2d(2, 2, (7, 3), padding="same"), True),
        (Conv2dSame(2, 2, 5, stride=2), True),
        (nn.Conv2d(2, 2, 1), False),  # nothing smaller
        (nn.Conv2d(2, 2, 3), False),  # a smaller kernel would give a larger output
        (nn.Conv2d(2, 2, 5, padding=2, dilation=2), False),
        (nn.Conv2d(2, 2, (1, 11), padding=5), False),
        (nn.Conv2d(2, 2, 4, padding=2), False),  # no centre
        (nn.Conv2d(2, 2, (3, 4), padding="same"), False),
        (nn.Conv2d(2, 2, 3, padding="valid"), False),
        (nn.Conv1d(2, 2, 3, padding=1), True),
        (nn.Conv1d(1, 1, 5, padding=2), False),  # over channels
        (nn.Conv3d(2, 2, (3, 5, 3), padding=(1, 2, 1)), True),
        (nn.Conv3d(2, 2, 3, padding=(1, 2, 1)), False),
        (nn.ConvTranspose2d(2, 2, 3, padding=1), False),
        (nn.Linear(2, 2), False),
    ],
    ids=repr,
)
def test_which_kernels_are_elastic(module: nn.Module, is_elastic: bool) -> None:
    assert kernel_is_elastic(module) is is_elastic


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
    assert torch.equal(narrowed(conv, kernel_size).weight, narrowed(plain, kernel_size).weight)


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
        narrow = narrowed(conv, size)
        torch.testing.assert_close(narrow.weight, expected)
        assert not any("transform" in name for name, _ in narrow.named_parameters())


def test_a_chain_may_leave_a_size_out() -> None:
    conv = with_transforms((3, 7), random=True)
    narrow = narrowed(conv, 3)
    torch.testing.assert_close(narrow.weight, transformed(conv.weight, conv.kernel_transform_7to3, 3))


def test_transforms_learn() -> None:
    conv = with_transforms((3, 5, 7), random=True)
    narrow = narrowed(conv, 5)
    narrow(images(4)).square().sum().backward()
    assert conv.kernel_transform_7to5.grad is not None
    assert conv.kernel_transform_7to5.grad.abs().min() > 0
    assert conv.kernel_transform_5to3.grad is None


def test_transforms_can_be_removed_from_a_clone() -> None:
    model = nn.Sequential(with_transforms((3, 5), random=True), nn.ReLU())
    plain = remove_kernel_transforms(clone_structure(model))
    assert [name for name, _ in plain.named_parameters()] == ["0.weight", "0.bias"]
    assert len(list(model.parameters())) == 3
