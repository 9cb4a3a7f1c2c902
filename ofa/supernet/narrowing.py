"""Turning what an architecture chooses into narrower modules."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ofa.nn.conv import CONVOLUTIONS, narrow_kernel, remove_kernel_transforms
from ofa.nn.layers import follow_tensors
from ofa.nn.slicing import Selection
from ofa.nn.structure import clone_structure, ties_of
from ofa.supernet.channels import ChannelGroup
from ofa.supernet.channels.groups import Ints
from ofa.supernet.dims import Narrowing
from ofa.supernet.graph_form import GraphForm
from ofa.supernet.stages import ancestors, common_ancestor, is_within

HEAD_COUNTS = {"num_heads", "num_attention_heads", "n_heads", "heads", "nhead", "num_kv_heads", "num_head"}
"""Attributes of attention modules that count heads."""
HEAD_WIDTHS = {"attn_dim", "inner_dim", "all_head_dim", "dim_qkv", "key_attn_dim", "val_attn_dim", "attention_dim"}
"""Attributes of attention modules that hold heads × size of a head."""
HEAD_SHAPES = {"bias_shape"}
"""Attributes that hold a shape whose last entry counts heads."""
SCALES = {"scale"}
"""Attributes of attention modules that hold 1/sqrt(width of a query)."""


class Narrower:
    """Narrows clones of a model's modules. What each group needs at each width is worked out once.

    Args:
        groups: Those that may be narrowed, by number.
        forms: By path, the modules that run as graphs when they are narrowed.
    """

    def __init__(
        self, model: nn.Module, groups: Mapping[int, ChannelGroup], forms: Mapping[str, GraphForm] | None = None
    ) -> None:
        self._forms = dict(forms or {})
        self._axes = {number: [(site.tensor, site.axis) for site in group.sites] for number, group in groups.items()}
        self._modules = dict(model.named_modules())
        # By the first of its full names, which is what traces call it.
        self._places = {".".join(filter(None, places[0])): places for places in ties_of(model)}
        self._sharing: dict[tuple[str, int], list[tuple[int, Ints]]] = {}
        for number, group in groups.items():
            for site in group.sites:
                self._sharing.setdefault((site.tensor, site.axis), []).append((number, site.indices))
        self._selections: dict[tuple[str, int, tuple[int, ...]], Selection] = {}
        self._attributes = {n: list(self._head_attributes(group)) for n, group in groups.items() if group.is_heads}
        self._scales = {number: self._query_scales(group) for number, group in groups.items() if not group.is_heads}

    def _head_attributes(self, group: ChannelGroup) -> Iterator[tuple[str, str, int]]:
        """``(module, attribute, size per head)`` of what counts heads or their channels; size 0 is a shape."""
        owner = self._owner(group)
        nearby = [path for path in self._modules if is_within(path, owner)] + ancestors(owner)[:1]
        sizes = {site.indices.shape[1] for site in group.sites}
        for path in nearby:
            for name, value in vars(self._modules[path]).items():
                if name in HEAD_SHAPES and isinstance(value, tuple) and value[-1:] == (group.num_units,):
                    yield path, name, 0
                if type(value) is not int:
                    continue
                if name in HEAD_COUNTS and value == group.num_units:
                    yield path, name, 1
                elif name in HEAD_WIDTHS and value % group.num_units == 0 and value // group.num_units in sizes:
                    yield path, name, value // group.num_units

    def _owner(self, group: ChannelGroup) -> str:
        """Path of the module that holds all layers of a group."""
        owner = common_ancestor(group.modules)
        return owner.rpartition(".")[0] if owner in group.modules else owner

    def _query_scales(self, group: ChannelGroup) -> list[tuple[str, str]]:
        """``(module, attribute)`` of what scales the products of queries and keys: no layer reads their channels.

        Fused attention takes this scale from the queries' width, so the attribute has to follow it.
        """
        if any(site.axis > 0 for site in group.sites):
            return []
        owner = self._owner(group)
        attributes = vars(self._modules[owner])
        return [(owner, name) for name in SCALES if attributes.get(name) == group.num_units**-0.5]

    def _selection(self, tensor: str, axis: int, units: Mapping[int, int]) -> Selection:
        """What is kept of an axis, on which several groups may have their channels side by side."""
        sharing = self._sharing[tensor, axis]
        kept = tuple(units.get(number, -1) for number, _ in sharing)
        selection = self._selections.get((tensor, axis, kept))
        if selection is None:
            path, _, name = tensor.rpartition(".")
            stays = np.ones(getattr(self._modules[path], name).shape[axis], dtype=bool)
            for (_, indices), num in zip(sharing, kept, strict=True):
                if num >= 0:
                    stays[indices[num:]] = False
            selection = Selection.of(axis, np.flatnonzero(stays))
            self._selections[tensor, axis, kept] = selection
        return selection

    def narrow(self, narrowing: Narrowing, clones: Mapping[int, nn.Module]) -> None:
        """Narrow the clones that are there.

        Args:
            clones: ``id(module of the model) -> its clone``.
        """

        def clone(path: str) -> nn.Module | None:
            return clones.get(id(self._modules[path]))

        touched: dict[str, nn.Module] = {}
        for path, size in narrowing.kernels.items():
            if isinstance(module := clone(path), CONVOLUTIONS):
                narrow_kernel(module, size)
        for tensor, axis in dict.fromkeys(axis for number in narrowing.units for axis in self._axes[number]):
            narrowed = None
            for path, name in self._places[tensor]:
                if (module := clone(path)) is not None:
                    tensors = module._parameters if name in module._parameters else module._buffers
                    if narrowed is None:  # tied layers hold one tensor, and keep to it
                        narrowed = self._selection(tensor, axis, narrowing.units).take(tensors[name])  # type: ignore[arg-type]
                    tensors[name] = narrowed  # type: ignore[assignment]
                    touched[path] = module
        for number, units in narrowing.units.items():
            for path, name, size in self._attributes.get(number, ()):
                if (module := clone(path)) is not None:
                    setattr(module, name, units * size if size else (*getattr(module, name)[:-1], units))
            for path, name in self._scales.get(number, ()):
                if (module := clone(path)) is not None:
                    setattr(module, name, units**-0.5)
        for module in touched.values():
            follow_tensors(module)
        for path, form in self._forms.items():
            if (module := clone(path)) is not None:
                form.enter(module, narrowing.units)


def build(
    model: nn.Module, narrower: Narrower, narrowing: Narrowing, stand_in: Callable[[Tensor], Tensor] | None = None
) -> nn.Module:
    """A clone of the model's structure that holds only what was chosen.

    Args:
        stand_in: What is narrowed in the place of a tensor. Matrices between kernel sizes then have no part in it.
    """
    clones: dict[int, nn.Module] = {}
    subnet = clone_structure(model, clones)
    for path in narrowing.removed:
        if narrowing.removed.isdisjoint(ancestors(path)):  # a block that is gone takes its layers along
            parent, _, name = path.rpartition(".")
            del subnet.get_submodule(parent)._modules[name]
    if stand_in is not None:
        for module in remove_kernel_transforms(subnet).modules():
            for tensors in (module._parameters, module._buffers):
                tensors.update({name: stand_in(each) for name, each in tensors.items() if each is not None})  # type: ignore[misc]
    narrower.narrow(narrowing, clones)
    if not narrowing.in_sequence:
        return subnet
    sequence = nn.Sequential(OrderedDict(subnet.named_children()))
    sequence.training = subnet.training
    return sequence


def places(model: nn.Module, narrower: Narrower, narrowing: Narrowing) -> dict[str, tuple[Tensor, ...]]:
    """Where the tensors of a narrowed model are in those of the whole one.

    Returns:
        By full name, for each axis the indices that are kept of it, in order. Without matrices between kernel sizes.
    """
    found: dict[str, tuple[Tensor, ...]] = {}
    for axis in range(max(tensor.ndim for tensor in (*model.parameters(), *model.buffers()))):
        narrowed = build(model, narrower, narrowing, partial(_numbers, axis))
        held = (narrowed.named_parameters(remove_duplicate=False), narrowed.named_buffers(remove_duplicate=False))
        for name, tensor in itertools.chain(*held):
            before = found.setdefault(name, ())
            if axis < tensor.ndim:
                line = tuple(slice(None) if other == axis else 0 for other in range(tensor.ndim))
                found[name] = (*before, tensor[line])
    return found


def _numbers(axis: int, tensor: Tensor) -> Tensor:
    """The indices along one axis of a tensor, repeated over the others without memory; 0 without such an axis."""
    if axis >= tensor.ndim:
        return torch.zeros((), dtype=torch.int64, device="cpu").expand(tensor.shape)
    along = torch.arange(tensor.shape[axis], device="cpu")
    return along.view(-1, *[1] * (tensor.ndim - axis - 1)).expand(tensor.shape)
