"""BN calibration: statistics of batch normalisation for one subnet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Reset the statistics and average them over the batches that follow (``momentum=None``)."""
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.train(training)
            norm.momentum = momentum


@torch.inference_mode()
def calibrate_bn(module: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Recompute a network's batch-norm statistics, in place, in one forward pass over the images.

    Only the batch-norm layers are in training mode meanwhile; dropout and stochastic depth stay off.

    Args:
        module: An extracted subnet, not the supernet, whose statistics are shared.
        batches: Images ``(N, C, H, W)``; batches should be of equal size, since each counts the same.

    Returns:
        ``module``.

    Raises:
        ValueError: If there are no batches: the statistics would be lost.

    References:
        Yu and Huang, Universally Slimmable Networks, arXiv:1903.05134, sec. 3.3; BigNAS, arXiv:2003.11142, sec. 3.4.
    """
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm) and child.track_running_stats]
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("BN calibration needs at least one batch of images")
    with _averaging(norms):
        module(first)
        for images in batches:
            module(images)
    return module
