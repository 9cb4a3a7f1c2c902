"""ExecuTorch programs for its XNNPACK kernels."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ofa.optional import extra, require

EXTRA = extra("executorch")


def export_executorch(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> bytes:
    """A module as a ``.pte`` program, all that XNNPACK knows delegated to it.

    Args:
        module: In eval mode, on the CPU.
        shape: Of the input, with the batch.
        dtype: Of the input.

    Raises:
        NotInstalledError: If ExecuTorch is not there.
    """
    with quiet(), torch.random.fork_rng(devices=[]):  # it draws numbers
        exir = require("executorch.exir", EXTRA)
        partitioners = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", EXTRA)
        images = torch.zeros(shape, dtype=dtype)
        program = torch.export.export(fold_bn(module, images), (images,), strict=False)
        lowered = exir.to_edge_transform_and_lower(
            program,
            partitioner=[partitioners.XnnpackPartitioner()],
            compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),  # two thirds of the time
        )
        data: bytes = lowered.to_executorch().buffer
    return bytes(data)


def fold_bn(module: nn.Module, images: Tensor) -> nn.Module:
    """A copy in which batch normalisation after a convolution is part of its weights.

    XNNPACK folds them too, but late: its exporter takes twice as long over a graph with all of their tensors.

    Args:
        module: In eval mode; runs once on ``images``, which shows what follows what.
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
        module(images)
    for hook in hooks:
        hook.remove()
    num_uses = Counter(id(layer) for pair in pairs for layer in pair)
    for convolution, norm in pairs:
        if num_uses[id(convolution)] == num_uses[id(norm)] == 1:
            fused = fuse_conv_bn_eval(convolution, norm)
            convolution.weight, convolution.bias = fused.weight, fused.bias
            # What else the layer does, timm's activation for one, stays.
            rest = [child for child in norm.children() if not isinstance(child, nn.Identity)]
            _replace(module, norm, nn.Sequential(*rest))
    return module


def _replace(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in module.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters note about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
