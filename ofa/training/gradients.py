"""What happens to gradients between the backward passes of a step and the optimiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Gradients = list[Tensor | None]


def take(parameters: Sequence[nn.Parameter]) -> Gradients:
    """The gradients so far, taken off the parameters, which then have none."""
    taken = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return taken


def add(parameters: Sequence[nn.Parameter], gradients: Gradients) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def without_conflict(gradients: Gradients, others: Gradients) -> Gradients:
    """``gradients`` without the part that opposes ``others``; as they are if they do not oppose each other.

    References:
        Gong et al., NASViT, ICLR 2022, sec. 3.2; Yu et al., gradient surgery, arXiv:2001.06782, algorithm 1.
    """
    pairs = [(a, b) for a, b in zip(gradients, others, strict=True) if a is not None and b is not None]
    product = sum(((a * b).sum() for a, b in pairs), torch.zeros(()))
    norm = sum(((b * b).sum() for b in others if b is not None), torch.zeros(()))
    factor = (product.clamp(max=0) / norm.clamp(min=1e-24)).item()
    if factor == 0:
        return gradients
    return [
        a if b is None else (b * -factor if a is None else a.sub(b, alpha=factor))
        for a, b in zip(gradients, others, strict=True)
    ]


def all_reduce_mean(
    gradients: Sequence[Gradients],
    numbers: Tensor,
    reduce: Callable[[Tensor], Tensor],
    num_processes: int,
) -> tuple[list[Gradients], Tensor]:
    """Average several sets of gradients, and a few numbers, over processes in one call.

    A parameter that no subnet of this step used has no gradient in any process, since all draw the same subnets.

    Args:
        numbers: ``(K,)``; losses and flags that all processes must agree on.
        reduce: Sums a tensor over the processes.
    """
    pieces = [gradient for named in gradients for gradient in named if gradient is not None]
    flat = torch.cat([*(piece.reshape(-1).float() for piece in pieces), numbers.float()])
    flat = reduce(flat).div_(num_processes)
    *parts, numbers = flat.split([*(piece.numel() for piece in pieces), len(numbers)])
    fresh = iter(parts)
    return [
        [
            # In the gradient's own layout: fused optimisers step through memory, not through indices.
            None if gradient is None else torch.empty_like(gradient).copy_(next(fresh).view(gradient.shape))
            for gradient in named
        ]
        for named in gradients
    ], numbers
