"""Batch normalisation of several processes, with the statistics of the images of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class SyncBatchNorm(TorchFunctionMode):
    """Inside the block, batch normalisation in training mode is that of the mini-batch over all processes.

    All of them make the same calls in the same order. What layers call is exchanged, not the layers, as
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` would: these are the user's, some with code of their own, and a
    subnet's hold slices of shared tensors. It is computed by plain operators, and so on a CPU too.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        call = batch_norm if func is functional.batch_norm else func
        return call(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.batch_norm`, in training over all processes, each of which calls it.

    Shape:
        - input, output: ``(N, C, ...)``; ``N`` and what follows ``C`` may differ between processes
    """
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    num_channels = input.shape[1]
    values = input.to(torch.promote_types(input.dtype, torch.float32))
    var, mean = torch.var_mean(values, [axis for axis in range(input.ndim) if axis != 1], correction=0)
    own = torch.cat([mean, var, mean.new_full((1,), input.numel() // num_channels)])
    means, variances, counts = _of_all(own).split([num_channels, num_channels, 1], dim=1)
    shares, total = counts / counts.sum(), counts.sum()
    mean = (shares * means).sum(0)
    var = (shares * (variances + (means - mean).square())).sum(0)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * total / (total - 1)).to(running_var.dtype), momentum)
    scale = torch.rsqrt(var + eps) if weight is None else torch.rsqrt(var + eps) * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (1, num_channels, *(1 for _ in input.shape[2:]))
    return (values * scale.view(shape) + shift.view(shape)).to(input.dtype)


class _Gathered(torch.autograd.Function):
    """A vector ``(K,)`` of each process, as the rows of ``(processes, K)`` in all of them."""

    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        rows = own.new_zeros(distributed.get_world_size(), len(own))
        rows[distributed.get_rank()] = own
        distributed.all_reduce(rows)  # the sum of one row from each: the one call that all versions and backends have
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient[distributed.get_rank()]


def _of_all(own: Tensor) -> Tensor:
    rows: Tensor = _Gathered.apply(own)
    return rows
