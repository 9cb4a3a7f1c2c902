"""Supernets whose outputs tell architectures apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ofa.space import Arch
from ofa.supernet import PRESETS, Supernet, create_supernet
from ofa.supernet.channels import Trace
from ofa.supernet.channels.groups import Groups, components
from ofa.supernet.channels.labels import FIXED

CLASSIFIERS = sorted(name for name in PRESETS if not name.startswith(("autoformer", "edsr", "keyword", "ecapa")))
"""Presets of timm's own modules; others are in test_autoformer_nets.py and test_other_presets.py."""


def create_without_weights(name: str, **options: Any) -> Supernet:
    with torch.device("meta"):
        return create_supernet(name, **options)


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    return [child for child in module.modules() if isinstance(child, _BatchNorm)]


@torch.no_grad()
def randomise(model: nn.Module, *, size: int) -> None:
    """Give batch normalisation scales, shifts and statistics that are not trivial, yet keep activations near 1."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "kernel_transform" in name:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    norms = batch_norms(model)
    for norm in norms:
        norm.weight.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
        norm.bias.copy_(0.5 * torch.randn(norm.num_features, generator=generator))
        norm.momentum = 1.0
    model.train()
    model(torch.randn(4, 3, size, size, generator=generator))
    for norm in norms:
        norm.momentum = 0.1
        assert norm.running_mean is not None and norm.running_var is not None
        # A channel that hardly varied would be blown up by other images.
        norm.running_var.clamp_(min=norm.running_var.mean().item())
        norm.running_mean += 0.1 * torch.randn(norm.num_features, generator=generator)
        norm.running_var *= torch.rand(norm.num_features, generator=generator) + 0.5
    model.eval()


def make_images(supernet: Supernet, arch: Arch, *, num: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, *supernet.input_shape(arch), generator=generator)


def blocks_of(supernet: Supernet, extracted: nn.Module) -> dict[str, nn.Module]:
    """Slot name -> block, as timm's own module tree has them."""
    modules = dict(extracted.named_modules())
    blocks = (block for stage in supernet.stages for block in stage.blocks)
    return {block.name: modules[block.path] for block in blocks if block.path in modules}


Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@contextmanager
def _hooked(modules: Mapping[str, nn.Module], hook: Callable[[str], Hook]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def input_shapes(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes, without the batch, that modules are called with inside the block."""
    shapes: dict[str, tuple[int, ...]] = {}
    with _hooked(modules, lambda name: lambda _, inputs, __: shapes.update({name: tuple(inputs[0].shape[1:])})):
        yield shapes


@contextmanager
def tensor_sizes(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, int]]:
    """Numbers that modules take and give inside the block, added up."""
    sizes: dict[str, int] = {}
    with _hooked(
        modules, lambda name: lambda _, inputs, output: sizes.update({name: inputs[0].numel() + output.numel()})
    ):
        yield sizes


def disagreement(full: Trace, groups: Groups, units: Mapping[int, int], narrow: Trace) -> str | None:
    """Where a narrowed model ties other channels than the full one does, ``None`` if nowhere.

    Code that runs with fewer channels can still do something else with them: eight channels in four pairs become four
    channels in four groups of one if the code says *four groups*. Its shapes are right and its weights are not.

    Args:
        full, groups: The model's trace and groups.
        units: Group number -> units kept; other groups are whole.
        narrow: Trace of the narrowed model, which holds tensors of its own (:func:`~ofa.nn.structure.own_tensors`).
    """
    sources = {(source.tensor, source.axis): source for source in full.sources}
    # As operations tie them: what code that splits axes ties besides was a guess, which is to be confirmed here.
    expected, found = (components(graph.num_atoms, graph.edges) for graph in (full.graph, narrow.graph))
    found_for: dict[int, int] = {}
    expected_for: dict[int, int] = {}
    for source in narrow.sources:
        original = sources[source.tensor, source.axis]
        atoms = np.arange(original.first, original.first + original.num)
        number = groups.group_of[atoms]
        limits = np.array([units.get(n, atoms.size) for n in number.tolist()])
        kept = (number < 0) | (groups.unit_of[atoms] < limits)
        if kept.sum() != source.num:
            return f"{source.tensor} has {source.num} entries on axis {source.axis} instead of {kept.sum()}"
        now = found[source.first : source.first + source.num]
        # What shrank to one unit has axes of size 1, which nothing follows.
        followed = (number[kept] >= 0) & (limits[kept] > 1) & (now != found[FIXED])
        for before, after in zip(expected[atoms][kept][followed].tolist(), now[followed].tolist(), strict=True):
            if found_for.setdefault(before, after) != after or expected_for.setdefault(after, before) != before:
                return f"the channels of {source.tensor} (axis {source.axis}) belong together in another way"
    return None
