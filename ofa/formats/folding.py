"""Batch normalisation as part of the convolution before it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_bn(module: nn.Module, *inputs: Tensor) -> nn.Module:
    """A copy in which batch normalisation after a convolution is part of its weights.

    XNNPACK folds them too, but late: its exporter takes twice as long over a graph with all of their tensors.

    Args:
        module: In eval mode; runs once on ``inputs``, which shows what follows what.
    """
    module = copy.deepcopy(module)
    made_by: dict[int, nn.Conv2d] = {}
    pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []
    kept: list[Tensor] = []  # alive, so that no other tensor gets their number

    def after(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(layer, nn.Conv2d):
            made_by[id(output)] = layer
            kept.append(output)
        elif isinstance(layer, _BatchNorm) and id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], layer))

    hooks = [layer.register_forward_hook(after) for layer in module.modules()]
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    num_uses = Counter(id(layer) for pair in pairs for layer in pair)
    for convolution, norm in pairs:
        if num_uses[id(convolution)] == num_uses[id(norm)] == 1:
            fused = fuse_conv_bn_eval(convolution, norm)
            convolution.weight, convolution.bias = fused.weight, fused.bias
            # What else the layer does, timm's activation for one, stays.
            rest = [child for child in norm.children() if not isinstance(child, nn.Identity)]
            for path, child in list(module.named_modules(remove_duplicate=False)):
                if child is norm:
                    module.set_submodule(path, nn.Sequential(*rest))
    return module.eval()
