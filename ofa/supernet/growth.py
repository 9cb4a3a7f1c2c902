"""Growth: a larger supernet that begins from a smaller trained one.

An architecture selects slices of a model's tensors, so a smaller supernet is a part of a larger one of its family: its
model is one architecture there, and its tensors go where this architecture has its own. Every architecture of the
smaller one then computes in the larger one what it did, as it reads the same numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ofa.errors import OfaError
from ofa.inputs import Inputs, tensors_in
from ofa.nn.conv import CONVOLUTIONS
from ofa.nn.structure import is_identity
from ofa.space import Arch, SpaceError, Value
from ofa.supernet.channels import ChannelGroup
from ofa.supernet.choices import Choices
from ofa.supernet.dims import ElasticDim, Narrowing
from ofa.supernet.dims.elastic import Scope
from ofa.supernet.elasticize import kinds_of
from ofa.supernet.stages import Block, is_within
from ofa.supernet.supernet import Supernet

Init: TypeAlias = Literal["preserving", "linear"]


class GrowthError(OfaError, ValueError):
    """One supernet is not a smaller one of another's family."""


def grow(old: Supernet, new: Supernet, *, init: Init = "preserving") -> None:
    """Let a supernet begin from a smaller trained one, in place: weights and statistics of ``new`` change.

    With ``preserving``, every architecture of ``old`` computes in ``new`` (as :func:`grown_arch` has it) what it did,
    and what is new begins such that the largest architecture of ``new`` computes what that of ``old`` did:

    - outputs that were there read nothing of what is new: weights from new hidden units, heads and channels, and those
      at the new rims of kernels, are 0. New units keep what they begin with themselves, so that they learn;
    - new blocks begin as the identity: of each of their branches the last normalisation or scale is 0, or else the
      convolution or linear layer.

    It holds, to rounding, where units are computed each for itself: with batch normalisation, and with normalisation by
    groups of fixed size. Not where others are computed with them: in a wider stream under layer normalisation, whose
    mean and variance are over all its channels; under normalisations over hidden channels (ConvNeXt V2's); between new
    blocks that normalise behind their shortcut (BERT's) or have a branch without such a layer (PoolFormer's pooling);
    and not for wider queries and keys, by whose width products are scaled.

    With ``linear``, of stages that become deeper every block is new: parameters of block ``l`` of ``L`` are ``A + B l /
    L``. Nothing is preserved then.

    Args:
        new: Untrained; asked for with a space that holds every architecture of ``old``.

    Raises:
        SpaceError: If the space of ``new`` lacks something; it names the dim, and what to pass.
        GrowthError: If the two are not of one family; or, with ``linear``, if there is no line to be fitted.

    References:
        Chen et al., Net2Net, arXiv:1511.05641, and Cai et al., EAS, arXiv:1707.04873, where new units are copies of old
        ones that share what these gave: a copy of a unit would take half of the old unit's weight, and change every
        architecture that has the one and not the other. Identity blocks are Net2Net's, sec. 2.3.
        Xia et al., TLEG, arXiv:2312.05614: there ``A`` and ``B`` are learnt by distilling an auxiliary network of such
        layers; here they are fitted to the trained blocks by least squares.
    """
    growth = _Growth(old, new)
    growth.check()
    growth.fill(init)
    if init == "preserving":
        growth.confirm()


def grown_arch(old: Supernet, new: Supernet, arch: Arch | Mapping[str, Value]) -> Arch:
    """The architecture of the larger space that has the sizes of one of the smaller; raises what :func:`grow` does."""
    return _Growth(old, new).arch(arch)


def check_growth(old: Supernet, new: Supernet, *, init: Init = "preserving") -> None:
    """Raise what :func:`grow` would as far as sizes tell; both may be on the meta device."""
    growth = _Growth(old, new)
    growth.check()
    if init == "linear":
        growth.deeper()


class _Growth:
    """A smaller supernet as a part of a larger one."""

    def __init__(self, old: Supernet, new: Supernet) -> None:
        self.old, self.new = old, new
        whole = old.subnet(old.space.largest())  # not the model where the space is that of one subnet
        self.old_modules, self.new_modules = dict(whole.named_modules()), new.analysis.modules
        self.old_tensors, self.new_tensors = whole.state_dict(), new.model.state_dict()
        self._check_structure()
        self.counterparts = self._counterparts()
        old_dims, self.new_dims = _all_dims(old), _all_dims(new)
        self.old_values, self.new_values = _values(old, old_dims), _values(new, self.new_dims)
        self.added = [block.path for block in _blocks(new) if block.path not in self.old_modules]

    def _check_structure(self) -> None:
        """Whether all of the smaller model is there in the larger one, whatever its sizes."""
        for path, module in self.old_modules.items():
            found = self.new_modules.get(path)
            types = [type(each).__name__ if each is not None else "nothing" for each in (module, found)]
            if types[0] != types[1] and not (found is not None and is_identity(module) and is_identity(found)):
                raise self._strangers(f"{path or 'the model'!r} is {types[0]} there and {types[1]} here")
        for name in self.old_tensors:
            if name not in self.new_tensors:
                hint = "; pass kernel_transforms=True" if "kernel_transform_" in name else ""
                raise self._strangers(f"{name!r} is missing here{hint}")

    def _strangers(self, reason: str) -> GrowthError:
        names = [type(each.model).__name__ for each in (self.new, self.old)]
        return GrowthError(f"this {names[0]} is not a larger one of the family of that {names[1]}: {reason}")

    def _counterparts(self) -> dict[int, ChannelGroup]:
        """Number of a group of the larger model -> that of the smaller: in the same place along the same axis."""
        found: dict[int, ChannelGroup] = {}
        ours, theirs = _groups_along(self.new), _groups_along(self.old)
        for place, groups in ours.items():
            others = theirs.get(place, [])
            if others and len(others) != len(groups):
                raise self._strangers(
                    f"axis {place[1]} of {place[0]!r} has {len(others)} groups of channels there, not {len(groups)}"
                )
            for group, other in zip(groups, others, strict=False):
                if found.setdefault(group.number, other) is not other:
                    raise self._strangers(f"channels of {place[0]!r} belong together with others there")
        return found

    # -- which architecture is which ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Whether the larger space holds the smaller one, and tensors fit."""
        for arch in _telling(self.old):
            self.arch(arch)
        self.places()

    def arch(self, arch: Arch | Mapping[str, Value]) -> Arch:
        """See :func:`grown_arch`."""
        arch, space = self.old.space.arch(arch), self.new.space
        sizes = self._sizes(arch)
        chosen: dict[str, Value] = {name: value for name, value in arch.items() if "." not in name}
        for name, value in chosen.items():
            if value not in self.new_values.get(name, ()):
                raise self._lacks(name, arch)
        for name, dim in self.new_dims.items():
            requires = space[name].requires if name in space.names else None
            if requires is not None and chosen.get(requires[0]) not in requires[1]:
                continue
            fitting = [v for v in self.new_values[name] if self._fits(dim, {**chosen, name: v}, sizes)]
            if not fitting:
                raise self._lacks(name, arch)
            if name in space.names:
                chosen[name] = arch[name] if name in arch and arch[name] in fitting else fitting[-1]
        self._check_rest(chosen, sizes)
        return space.arch(chosen)

    def _check_rest(self, chosen: Mapping[str, Value], sizes: Narrowing) -> None:
        """Whether channels that no dim of the larger space narrows are as many as in the smaller."""
        made = Narrowing.of(self.new.dims, chosen)
        for number, units in sizes.units.items():
            group = self.new.analysis.groups.all[number]
            kept = made.units.get(number, group.num_units)
            if kept != units:
                raise SpaceError(
                    f"the space does not hold the smaller one: {group.sites[0].tensor!r} has {units} units there and "
                    f"{kept} here, where they do not vary; take a model in which they are as many, or can vary"
                )

    def _sizes(self, arch: Arch) -> Narrowing:
        """What an architecture of the smaller space leaves of the larger model: all sizes, the whole ones too."""
        narrowing = Narrowing.of(self.old.dims, arch)
        sizes = Narrowing(removed={*self.added, *narrowing.removed})
        for number, group in self.counterparts.items():
            if all(any(is_within(path, block) for block in narrowing.removed) for path in group.modules):
                continue
            sizes.units[number] = narrowing.units.get(group.number, group.num_units)
        for path, module in self.old_modules.items():
            if isinstance(module, CONVOLUTIONS):
                sizes.kernels[path] = narrowing.kernels.get(path, max(module.kernel_size))
        return sizes

    def _fits(self, dim: ElasticDim, arch: Mapping[str, Value], sizes: Narrowing) -> bool:
        """Whether a dim leaves just these sizes of what it has a say in."""
        made = Narrowing.of([dim], arch)
        least = Narrowing.of([dim], {**arch, dim.name: dim.values[0] if isinstance(dim.values[0], str) else 1})
        kernels = {path: max(self.new_modules[path].kernel_size) for path in least.kernels} | made.kernels  # type: ignore[arg-type]
        units = {number: self.new.analysis.groups.all[number].num_units for number in dim.groups} | made.units
        return (
            all(sizes.units.get(number, kept) == kept for number, kept in units.items())
            and all(sizes.kernels.get(path, kept) == kept for path, kept in kernels.items())
            and made.removed == least.removed & sizes.removed
        )

    def _lacks(self, name: str, arch: Arch) -> SpaceError | GrowthError:
        """What to say of a dim that cannot have the value that it has in an architecture of the smaller space."""
        if name not in self.old_values:  # one head alone is none that could vary
            return self._strangers(f"there is no {name} there")
        dim = self.new_dims.get(name)
        kind = name if dim is None else dim.kind
        by_place: dict[str, set[Value]] = {}
        for each in [name] if dim is None else [n for n, other in self.new_dims.items() if other.kind == kind]:
            place = each.rpartition(".")[0] if dim is not None and dim.scope == "stream" else "*"
            by_place.setdefault(place, set()).update(self.old_values.get(each, ()), self.new_values.get(each, ()))
        lists = {place: sorted(values) for place, values in by_place.items()}
        asked = lists.get("*") or "{" + ", ".join(f"{place}: {values}" for place, values in lists.items()) + "}"
        there = arch.get(name, self.old_values[name][-1])
        here = self.new_values.get(name, ())
        if there in here:  # a ratio to a width that varies, of a hidden width that does not, for one
            return SpaceError(
                f"the space does not hold the smaller one: {name}={there} is another size there than here in "
                f"{dict(arch)}; let {kind}, and what it refers to, vary in both or in neither"
            )
        return SpaceError(
            f"the space does not hold the smaller one: {name} is {there} there, and one of {list(here)} here; "
            f"pass {kind}={asked}"
        )

    # -- what it begins from -----------------------------------------------------------------------------------------

    def places(self) -> dict[str, tuple[Tensor, ...]]:
        """For each tensor of the smaller model, along each axis the indices that it has in the larger one's."""
        places = self.new.places(self.arch(self.old.space.largest()))
        for name, tensor in self.new_tensors.items():
            if "kernel_transform_" in name and name in self.old_tensors:
                places[name] = tuple(torch.arange(size, device="cpu") for size in tensor.shape)
        for name in dict.fromkeys([*self.old_tensors, *(name for name in places if name in self.new_tensors)]):
            there = tuple(self.old_tensors[name].shape) if name in self.old_tensors else "nothing"
            here = tuple(map(len, places[name])) if name in places else "nothing"
            if there != here:
                raise self._strangers(f"{name!r} is {there} there, and {here} in the subnet of its sizes here")
        return places

    @torch.no_grad()
    def fill(self, init: Init) -> None:
        """Write the smaller model's tensors, and what else :func:`grow` says, into the larger model's."""
        tensors, places = dict(self.old_tensors), self.places()
        if init == "preserving":
            for path in self.added:
                self._silence(path)
        else:
            for before, after in self.deeper():
                for name in [name for name in tensors if is_within(name, before[-1])]:
                    role = name.removeprefix(before[-1])
                    values = _line(torch.stack([tensors[path + role] for path in before]), len(after))
                    tensors |= {path + role: value for path, value in zip(after, values, strict=True)}
                    places |= {path + role: places[name] for path in after}
        for name, tensor in tensors.items():
            target, place = self.new_tensors[name], places[name]
            outputs = _output_axis(self.new_modules[name.rpartition(".")[0]])
            if outputs is not None and target.ndim > 1:  # of what was there nothing comes from what is new
                target.index_fill_(outputs, place[outputs].to(target.device), 0)
            target[tuple(torch.meshgrid(*place, indexing="ij")) if place else ()] = tensor.to(target)

    def _silence(self, block: str) -> None:
        """Let a new block begin as the identity, as far as its branches end with a layer that mixes channels."""
        sites = [site for group in self.new.analysis.streams for site in group.sites if is_within(site.tensor, block)]
        for site in sites:
            path = site.tensor.rpartition(".")[0]
            weight, outputs = self.new_tensors[site.tensor], _output_axis(self.new_modules[path])
            if site.axis == outputs and weight.ndim > 1 and weight.shape[1 - outputs] > 1:
                for parameter in self.new_modules[self._behind(path, block)].parameters(recurse=False):
                    parameter.zero_()

    def _behind(self, path: str, block: str) -> str:
        """The normalisation or scale that directly follows a layer, the last of several, or else the layer itself.

        A weight of 0 before batch normalisation would have gradients that are hundreds of times too large.
        """
        calls = self.new.analysis.trace.calls
        for other, module in self.new_modules.items():
            sizes = [parameter.ndim for parameter in module.parameters(recurse=False)]
            is_scale = sizes and max(sizes) == 1 and is_within(other, block) and {path, other} <= calls.keys()
            if is_scale and calls[other].input_ids[:1] == [calls[path].output_id]:
                return self._behind(other, block)
        return path

    def deeper(self) -> list[tuple[list[str], list[str]]]:
        """Of each stage that has more blocks now, those that were there and are alike, and the same with the new ones.

        Raises:
            GrowthError: If through a stage's blocks no line can be fitted.
        """
        found = []
        for stage in self.new.stages:
            paths = [block.path for block in stage.blocks]
            there = [path for path in paths if path not in self.added]
            if len(there) == len(paths):
                continue
            inside = [module for path, module in self.old_modules.items() if is_within(path, there[-1])]
            if any(isinstance(module, _BatchNorm) for module in inside):
                raise GrowthError(
                    f"{stage.name} has batch normalisation, whose statistics are of one depth; {PRESERVE}"
                )
            before = [path for path in there if self._shapes(path) == self._shapes(there[-1])]
            if len(before) < 2:
                raise GrowthError(f"{stage.name} has {len(before)} block to fit a line to, which takes two; {PRESERVE}")
            found.append((before, [*before, *paths[len(there) :]]))
        if not found:
            raise GrowthError(f"no stage is deeper than before, and a line is for depth; {PRESERVE}")
        return found

    def _shapes(self, path: str) -> dict[str, tuple[int, ...]]:
        named = {name.removeprefix(path): tensor for name, tensor in self.old_tensors.items() if is_within(name, path)}
        return {name: tuple(tensor.shape) for name, tensor in named.items()}

    @torch.no_grad()
    def confirm(self) -> None:
        """Whether the two compute the same, which settings of layers decide too.

        Raises:
            GrowthError: If they do not; the larger model has the smaller one's weights all the same.
        """
        largest = self.old.space.largest()
        inputs = self.old.inputs.with_values(self.old.inputs.sizes(largest))
        before, after = (
            _outputs(supernet, inputs, arch) for supernet, arch in ((self.old, largest), (self.new, self.arch(largest)))
        )
        for expected, found in zip(before, after, strict=True):
            atol = 1e-3 * expected.abs().max().item() if expected.numel() else 0.0
            if found.shape != expected.shape or not torch.allclose(
                found, expected, rtol=1e-3, atol=atol, equal_nan=True
            ):
                raise self._strangers("the same weights compute something else; are settings of layers others?")


PRESERVE = "use the initialisation `preserving`"


def _outputs(supernet: Supernet, inputs: Inputs, arch: Arch) -> list[Tensor]:
    """What a subnet gives in eval mode, on the CPU in double precision."""
    like = next(supernet.model.parameters())
    inputs = inputs.map(lambda each: each.to(like) if each.is_floating_point() else each.to(like.device))
    was_training = supernet.training
    outputs = supernet.eval()(*inputs.args, arch=arch, **inputs.kwargs)
    supernet.train(was_training)
    return [tensor.cpu().double() for tensor in tensors_in(outputs)]


def _blocks(supernet: Supernet) -> Iterator[Block]:
    return (block for stage in supernet.stages for block in stage.blocks)


def _groups_along(supernet: Supernet) -> dict[tuple[str, int], list[ChannelGroup]]:
    """Tensor and axis -> the groups that have channels there, in their order along it."""
    found: dict[tuple[str, int], list[tuple[int, ChannelGroup]]] = {}
    for group in supernet.analysis.groups.all:
        for site in group.sites:
            found.setdefault((site.tensor, site.axis), []).append((int(site.indices.min()), group))
    return {place: [group for _, group in sorted(each, key=lambda e: e[0])] for place, each in found.items()}


def _all_dims(supernet: Supernet) -> dict[str, ElasticDim]:
    """By name, the dims that vary, and those that could with their one value; those of streams and stages first."""
    analysis = dataclasses.replace(supernet.analysis, notes={})
    kinds = kinds_of(supernet.model)
    whole = Choices({name: ("100%",) for name, kind in kinds.items() if not kind.of_stitched})
    varying = {dim.name: dim for dim in supernet.dims}
    found: dict[str, ElasticDim] = {}
    for scope in get_args(Scope):
        for kind in kinds.values():
            if kind.scope == scope:
                found |= {dim.name: varying.get(dim.name, dim) for dim in kind.find(analysis, whole, 1, found)}
    return found | varying


def _values(supernet: Supernet, dims: Mapping[str, ElasticDim]) -> dict[str, tuple[Value, ...]]:
    """Choices by the name of a dim, with those that do not vary and axes of the inputs."""
    return {name: dim.values for name, dim in dims.items()} | {dim.name: dim.values for dim in supernet.space.dims}


def _telling(supernet: Supernet) -> list[Arch]:
    """Architectures that together have every value of every dim, with each of the dims that decide with it."""
    space, reads = supernet.space, {dim.name: dim.reads for dim in supernet.dims}
    rows = []
    for dim in space.dims:
        columns = [space.column(name) for name in (dim.name, *reads.get(dim.name, ())) if name in space.names]
        for values in itertools.product(*(range(space.num_values[column]) for column in columns)):
            row = space.to_population(space.largest())[0]
            row[columns] = values
            rows.append(row)
    return list(dict.fromkeys(space.to_archs(space.canonical(np.stack(rows)))))


def _output_axis(module: nn.Module) -> int | None:
    """The axis of a layer's weights along which its outputs are; ``None`` for what is no layer of products."""
    if isinstance(module, _ConvNd):
        return 1 if module.transposed and module.groups == 1 else 0
    return 0 if isinstance(module, (nn.Linear, nn.RNNBase, nn.MultiheadAttention)) else None


def _line(values: Tensor, num: int) -> Tensor:
    """Points of the line that is fitted through some, as many as are wanted from one end to the other.

    Shapes: ``(L, ...)`` to ``(num, ...)``, at ``l / L`` and ``l / num`` for ``l`` from 1. Whole numbers are the last's.
    """
    if not values.is_floating_point():
        return values[-1:].expand(num, *values.shape[1:])
    known, wanted = (torch.arange(1, n + 1, dtype=torch.float64, device=values.device) / n for n in (len(values), num))
    known, wanted = (torch.stack([torch.ones_like(at), at], 1) for at in (known, wanted))
    line = torch.linalg.pinv(known) @ values.double().flatten(1)
    return (wanted @ line).view(num, *values.shape[1:]).to(values.dtype)
