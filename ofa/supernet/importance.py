"""Sorting channels and heads by importance, so that narrow subnets begin with the best ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ofa.inputs import Inputs
from ofa.supernet.channels import ChannelGroup, Site
from ofa.supernet.supernet import Supernet


@torch.no_grad()
def sort_channels(supernet: Supernet, *, inputs: Iterable[Any] | None = None) -> None:
    """Reorder the units of every elastic group, the most important first, in place.

    A group's units are permuted in every tensor that carries them, so the largest subnet computes what it did (sums run
    in another order: 1e-6 apart). Groups whose order matters, such as those of efficient channel attention, stay.

    Args:
        inputs: Batches of what the supernet takes. Without them, a unit's importance is the L1 norm of the weights that
            read it (Once-for-All, arXiv:1908.09791, sec. 3.3); with them, the norm of each channel's weights times the
            mean absolute value of the channel (Wanda, arXiv:2306.11695, eq. 1, with L1 norms). Norms are divided by
            their mean over the layer, so that each of several layers that read a stream counts the same.
    """
    activations = _mean_absolute_inputs(supernet, inputs) if inputs is not None else {}
    numbers = {number for dim in supernet.dims for number in dim.groups}
    orders: dict[tuple[str, int], list[tuple[Site, Tensor]]] = {}
    for number in sorted(numbers):
        group = supernet.analysis.groups.all[number]
        if group.is_ordered:
            continue
        order = importance(supernet.model, group, activations).argsort(descending=True, stable=True)
        for site in group.sites:
            orders.setdefault((site.tensor, site.axis), []).append((site, order))
    tensors = {**dict(supernet.model.named_parameters()), **dict(supernet.model.named_buffers())}
    for (name, axis), entries in orders.items():
        tensor = tensors[name]
        permutation = torch.arange(tensor.shape[axis])
        for site, order in entries:
            indices = torch.from_numpy(site.indices)
            permutation[indices.ravel()] = indices[order].ravel()
        tensor.copy_(tensor.index_select(axis, permutation.to(tensor.device)))


def importance(model: nn.Module, group: ChannelGroup, activations: dict[str, Tensor]) -> Tensor:
    """Importance of each unit, shape ``(num_units,)``."""
    total = torch.zeros(group.num_units)
    for site in _readers(model, group):
        path, _, name = site.tensor.rpartition(".")
        weight = model.get_parameter(site.tensor).detach().float()
        norms = weight.abs().movedim(site.axis, 0).reshape(weight.shape[site.axis], -1).sum(1).cpu()
        if site.axis == 1 and name == "weight" and path in activations and len(activations[path]) == len(norms):
            norms = norms * activations[path]
        total += norms[torch.from_numpy(site.indices)].sum(1) / norms.mean().clamp(min=1e-12)
    return total


def _readers(model: nn.Module, group: ChannelGroup) -> Sequence[Site]:
    """The sites where something reads the group: input axes of layers; failing those, every parameter."""
    layers = {path for path, module in model.named_modules() if isinstance(module, (_ConvNd, nn.Linear))}
    parameters = dict(model.named_parameters())
    sites = [site for site in group.sites if site.tensor in parameters]
    reading = [site for site in sites if site.axis == 1 and site.tensor.removesuffix(".weight") in layers]
    return reading or sites


def _mean_absolute_inputs(supernet: Supernet, inputs: Iterable[Any]) -> dict[str, Tensor]:
    """Path of a convolution or linear layer -> mean absolute value of each input channel."""
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()

    def record(path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].detach().abs()
        axis = 1 if isinstance(module, _ConvNd) else x.ndim - 1
        summed = x.float().sum([other for other in range(x.ndim) if other != axis]).cpu()
        sums[path] = sums[path] + summed if path in sums else summed
        counts[path] += x.numel() // x.shape[axis]

    was_training = supernet.training
    supernet.eval()
    with ExitStack() as hooks:
        for path, module in supernet.model.named_modules():
            if isinstance(module, (_ConvNd, nn.Linear)):
                handle = module.register_forward_pre_hook(lambda m, args, path=path: record(path, m, args))
                hooks.callback(handle.remove)
        largest = supernet.space.largest()
        for batch in map(Inputs.of, inputs):
            supernet(*batch.args, arch=largest, **batch.kwargs)
    supernet.train(was_training)
    return {path: total / counts[path] for path, total in sums.items()}
