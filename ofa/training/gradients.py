"""What happens to gradients between the backward passes of a step and the optimiser."""

from __future__ import annotations

from collections.abc import Sequence

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
