"""Blocks that begin as the identity."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ofa.supernet import Supernet


@torch.no_grad()
def zero_init(supernet: Supernet) -> list[str]:
    """Set the scale that ends a residual branch to 0 in every block that its shortcut passes unchanged, in place.

    These are the blocks that an elastic depth can leave out: with a residual branch of zero, a network begins as its
    own shallow subnets. The branch still learns, since the gradient of the scale is not zero.

    A branch that ends with neither a layer scale nor batch normalisation (PoolFormer's, a plain ViT's) stays as it is;
    where several layers make its end together (GhostNet's halves), only the last begins at 0.

    Returns:
        Names of the parameters that were set.

    References:
        Goyal et al., arXiv:1706.02677, sec. 5.1; BigNAS, arXiv:2003.11142, sec. 3.2.
    """
    changed = []
    for stage in supernet.stages:
        for position in stage.removable:
            path = stage.blocks[position].path
            for name, parameter in _last_scales(supernet.model.get_submodule(path)):
                parameter.zero_()
                changed.append(f"{path}.{name}")
    return changed


def _last_scales(block: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Layer scales, of which each residual branch ends with one; failing those, the last batch normalisation's."""
    layer_scales = [
        (name, parameter)
        for name, parameter in block.named_parameters()
        if name.rpartition(".")[2].startswith("gamma") and parameter.ndim == 1
    ]
    norms = [
        (f"{name}.weight", module.weight)
        for name, module in block.named_modules()
        if isinstance(module, _BatchNorm) and isinstance(module.weight, nn.Parameter) and "downsample" not in name
    ]
    return layer_scales or norms[-1:]
