"""Elastic convolution: fewer input channels, fewer output channels, a smaller kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa.nn.structure import ModuleT

_TRANSFORM = "kernel_transform_{}to{}"


def narrow_conv2d(
    conv: nn.Conv2d,
    *,
    in_channels: int | None = None,
    out_channels: int | None = None,
    kernel_size: int | None = None,
) -> None:
    """Keep the first channels and the centre of the kernel, in place on a clone.

    Shapes: the weight goes from ``(O, I / groups, K, K)`` to ``(out, in / groups', k, k)``. Grouped convolutions keep
    their group size and lose whole groups, so in a depthwise one ``in_channels`` and ``out_channels`` are equal.

    Args:
        in_channels, out_channels, kernel_size: New sizes; ``None`` leaves one as it is.

    References:
        Cai et al., Once-for-All, arXiv:1908.09791, sec. 3.3: kernel centre crop, through the learned matrices of
        :func:`add_kernel_transforms` where the layer has them.
    """
    weight: Tensor = conv.weight
    group_size = conv.in_channels // conv.groups
    if kernel_size is not None:
        weight = _smaller_kernel(conv, weight, kernel_size)
    for name in [name for name in conv._parameters if name.startswith("kernel_transform_")]:
        del conv._parameters[name]  # a narrowed convolution is a plain one
    if out_channels is not None and out_channels != conv.out_channels:
        weight = weight.narrow(0, 0, out_channels)
        if conv.bias is not None:
            conv._parameters["bias"] = conv.bias.narrow(0, 0, out_channels)  # type: ignore[assignment]
        conv.out_channels = out_channels
    if in_channels is not None and in_channels != conv.in_channels:
        if conv.groups == 1:
            weight = weight.narrow(1, 0, in_channels)
        else:
            conv.groups = in_channels // group_size
        conv.in_channels = in_channels
    conv._parameters["weight"] = weight  # type: ignore[assignment]


def _smaller_kernel(conv: nn.Conv2d, weight: Tensor, kernel_size: int) -> Tensor:
    # Each smaller kernel is cut from the next larger one, so that the matrices chain: 7 -> 5 -> 3.
    size = conv.kernel_size[0]
    if kernel_size == size:
        return weight
    stop_sizes = [other for other in range(size - 2, kernel_size - 1, -2)]
    for smaller in stop_sizes:
        transform = conv._parameters.get(_TRANSFORM.format(weight.shape[-1], smaller))
        if transform is None and smaller != kernel_size:
            continue  # without a matrix, cropping twice is cropping once
        margin = (weight.shape[-1] - smaller) // 2
        weight = weight[:, :, margin : margin + smaller, margin : margin + smaller]
        if transform is not None:
            weight = functional.linear(weight.flatten(2), transform).view(*weight.shape[:2], smaller, smaller)
    if not isinstance(conv.padding, str) and conv.padding[0]:
        padding = conv.padding[0] - conv.dilation[0] * (size - kernel_size) // 2
        conv.padding = (padding, padding)
        conv._reversed_padding_repeated_twice = [padding] * 4
    conv.kernel_size = (kernel_size, kernel_size)
    return weight


def add_kernel_transforms(conv: nn.Conv2d, kernel_sizes: tuple[int, ...]) -> None:
    """Give a convolution one learned matrix per step from a larger to the next smaller kernel.

    Each is ``(k * k, k * k)`` for the smaller ``k``, shared by all channels, and starts as the identity, so nothing
    changes until it is trained (Once-for-All, sec. 3.3). AttentiveNAS and later work do without: the crop alone.
    """
    for larger, smaller in zip(kernel_sizes[:0:-1], kernel_sizes[-2::-1], strict=True):
        identity = torch.eye(smaller * smaller, device=conv.weight.device, dtype=conv.weight.dtype)
        conv.register_parameter(_TRANSFORM.format(larger, smaller), nn.Parameter(identity))


def remove_kernel_transforms(module: ModuleT) -> ModuleT:
    """Drop the matrices from every convolution of a clone: the largest kernel never uses them."""
    for child in module.modules():
        for name in [name for name in child._parameters if name.startswith("kernel_transform_")]:
            del child._parameters[name]
    return module
