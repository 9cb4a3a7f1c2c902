"""BN calibration: statistics of batch normalisation for one subnet."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ofa.errors import UsageError
from ofa.inputs import Inputs


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Reset the statistics and average them over the calls that follow.

    torch does that by itself with ``momentum=None``, but reads the number of calls from a tensor, for which a GPU stops
    at every layer.
    """
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    calls: dict[nn.Module, Iterator[int]] = {norm: itertools.count(1) for norm in norms}

    def weigh_alike(norm: Any, _: Any) -> None:
        norm.momentum = 1.0 / next(calls[norm])

    hooks = [norm.register_forward_pre_hook(weigh_alike) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.train(training)
            norm.momentum = momentum


@torch.inference_mode()
def calibrate_bn(modules: nn.Module | Sequence[nn.Module], batches: Iterable[Any]) -> None:
    """Recompute batch-norm statistics, in place, in one forward pass over the images.

    Only the batch-norm layers are in training mode meanwhile; dropout and stochastic depth stay off.

    Args:
        modules: An extracted subnet, or several, which share the pass; not the supernet or its views, whose statistics
            are shared.
        batches: Inputs; batches should be of equal size, since each counts the same.

    Raises:
        ValueError: If there are no batches: the statistics would be lost.

    References:
        Yu and Huang, Universally Slimmable Networks, arXiv:1903.05134, sec. 3.3; BigNAS, arXiv:2003.11142, sec. 3.4.
    """
    networks = [modules] if isinstance(modules, nn.Module) else list(modules)
    children = itertools.chain(*(network.modules() for network in networks))
    norms = list(dict.fromkeys(each for each in children if isinstance(each, _BatchNorm) and each.track_running_stats))
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise UsageError("BN calibration needs at least one batch of inputs")
    with _averaging(norms):
        for inputs in map(Inputs.of, itertools.chain([first], batches)):
            for network in networks:
                inputs.call(network)
