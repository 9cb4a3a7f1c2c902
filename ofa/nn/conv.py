"""Elastic kernel: a smaller convolution as the centre of a larger one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa.nn.structure import ModuleT

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSFORM = "kernel_transform_"
"""What the parameters of :func:`add_kernel_transforms` are called, before their sizes."""


def kernel_is_elastic(conv: nn.Module) -> bool:
    """Whether a smaller odd kernel gives an output of the same size: odd sizes, padded by half of them."""
    if not isinstance(conv, CONVOLUTIONS):
        return False
    if isinstance(conv, nn.Conv1d) and conv.in_channels == conv.out_channels == 1:
        return False  # efficient channel attention, which slides over channels
    if any(size % 2 == 0 for size in conv.kernel_size) or max(conv.kernel_size) < 3:
        return False
    if type(conv).__name__ == "Conv2dSame" or conv.padding == "same":
        return True
    halves = tuple(d * (size - 1) // 2 for size, d in zip(conv.kernel_size, conv.dilation, strict=True))
    return not isinstance(conv.padding, str) and tuple(conv.padding) == halves


def narrow_kernel(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, kernel_size: int) -> None:
    """Keep the centre of the kernel, in place on a clone; an axis that is smaller already stays.

    Shapes: the weight goes from ``(O, I, K, L)`` to ``(O, I, min(K, k), min(L, k))``, with one axis or three alike.

    References:
        Cai et al., Once-for-All, arXiv:1908.09791, sec. 3.3: the centre, through the learned matrices of
        :func:`add_kernel_transforms` where the layer has them.
    """
    weight: Tensor = conv.weight
    before = tuple(conv.kernel_size)
    after = tuple(min(size, kernel_size) for size in before)
    if isinstance(conv, nn.Conv2d) and before[0] == before[1]:
        weight = _through_transforms(conv, weight, after[0])
    for axis, (size, smaller) in enumerate(zip(weight.shape[2:], after, strict=True), start=2):
        weight = weight.narrow(axis, (size - smaller) // 2, smaller)
    remove_kernel_transforms(conv)
    shrink = [d * (size - smaller) // 2 for d, size, smaller in zip(conv.dilation, before, after, strict=True)]
    if not isinstance(conv.padding, str) and any(conv.padding):
        conv.padding = tuple(padding - less for padding, less in zip(conv.padding, shrink, strict=True))
    if any(conv._reversed_padding_repeated_twice):  # what modes other than zeros pad with: last axis first, both ends
        conv._reversed_padding_repeated_twice = [
            padding - shrink[-1 - end // 2] for end, padding in enumerate(conv._reversed_padding_repeated_twice)
        ]
    conv.kernel_size = after
    conv._parameters["weight"] = weight  # type: ignore[assignment]


def _through_transforms(conv: nn.Conv2d, weight: Tensor, kernel_size: int) -> Tensor:
    # Each smaller kernel is cut from the next larger one, so that the matrices chain: 7 -> 5 -> 3.
    for smaller in range(conv.kernel_size[0] - 2, kernel_size - 1, -2):
        transform = conv._parameters.get(f"{TRANSFORM}{weight.shape[-1]}to{smaller}")
        if transform is not None:  # without a matrix, cropping twice is cropping once
            margin = (weight.shape[-1] - smaller) // 2
            weight = weight[:, :, margin : margin + smaller, margin : margin + smaller]
            weight = functional.linear(weight.flatten(2), transform).view(*weight.shape[:2], smaller, smaller)
    return weight


def add_kernel_transforms(conv: nn.Conv2d, kernel_sizes: tuple[int, ...]) -> None:
    """Give a convolution one learned matrix per step from a larger to the next smaller kernel.

    Each is ``(k * k, k * k)`` for the smaller ``k``, shared by all channels, and starts as the identity, so nothing
    changes until it is trained (Once-for-All, sec. 3.3). AttentiveNAS and later work do without: the crop alone.
    """
    for larger, smaller in zip(kernel_sizes[:0:-1], kernel_sizes[-2::-1], strict=True):
        identity = torch.eye(smaller * smaller, device=conv.weight.device, dtype=conv.weight.dtype)
        conv.register_parameter(f"{TRANSFORM}{larger}to{smaller}", nn.Parameter(identity))


def remove_kernel_transforms(module: ModuleT) -> ModuleT:
    """Drop the matrices from every convolution of a clone: the largest kernel never uses them."""
    for child in module.modules():
        for name in [name for name in child._parameters if name.startswith(TRANSFORM)]:
            del child._parameters[name]
    return module
