"""The parts of a supernet, as the cost models and the profiler see them.

A *slot* is a place in the network: stem, one block, head, or what stands between stages. What stands in it depends on a
few dims only, so everything that is to be known of a slot is a dense array over the values of those dims: what its part
is (a *key*; equal keys are the same thing to a runtime), how many MACs and parameters it has, how much memory it needs.

Costs need no narrowed module: the trace says which channels decide each product, so a cost is a ratio of counts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ofa.errors import unknown_name_message
from ofa.inputs import Inputs, as_size
from ofa.nn.conv import CONVOLUTIONS, TRANSFORM, remove_kernel_transforms
from ofa.nn.structure import clone_structure, digest_of, is_identity, own_hooks, own_tensors
from ofa.space import SearchSpace, Value
from ofa.supernet.channels import Call, Step, sizes_at
from ofa.supernet.channels.labels import Atoms, Labels
from ofa.supernet.channels.rules import flat
from ofa.supernet.channels.tracer import Contraction
from ofa.supernet.dims import ElasticDim, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.narrowing import Narrower
from ofa.supernet.stages import Stage, above, ancestors, is_within

BYTES_PER_ACTIVATION = 4

Fields = dict[str, int | str]
EntryT = TypeVar("EntryT")
Alive = frozenset[tuple[int, int]]  # numbers and sizes of tensors

_KEY_PREFIXES = {
    "kind": "",
    "in_channels": "i",
    "out_channels": "o",
    "mid_channels": "m",
    "heads": "h",
    "kernel": "k",
    "stride": "s",
    "digest": "",
    "resolution": "r",
    "width_px": "x",
}


@dataclass(frozen=True)
class Slot:
    """A place in the network.

    Args:
        name: ``stem``, ``stage1.block0``, ``head``; what stands before the dot is the slot's stage.
        dims: Names of the dims that decide what stands here.
        keys: Part keys, one axis per dim; the empty string where nothing stands here.
    """

    name: str
    dims: tuple[str, ...]
    keys: npt.NDArray[np.object_]


@dataclass(frozen=True)
class Part:
    """A piece of network to run on its own: ``module`` (eval mode) takes ``(N, *input_shape)`` of a type."""

    key: str
    fields: Fields
    module: nn.Module
    input_shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def inputs(self) -> tuple[int, ...] | Inputs:
        """What it is timed on: the shape of floats, or a sample of whole numbers, which are tokens or a mask."""
        if self.dtype.is_floating_point:
            return self.input_shape
        return Inputs(torch.ones(1, *self.input_shape, dtype=self.dtype))


@dataclass(frozen=True)
class _Place:
    """A slot before it is tabulated.

    Args:
        paths: Modules that run here one after another.
        dims: The dims that decide what stands here, without the inputs' axes and what leaves it out.
        presence: The dim that can leave it out, a depth or a route, and the values with which it is there.
        runs_alone: Whether it can be measured as a part; what cannot (a block that takes tensors of several sizes) has
            costs but no slot.
    """

    name: str
    paths: tuple[str, ...]
    dims: tuple[ElasticDim, ...] = ()
    presence: tuple[str, tuple[Value, ...]] | None = None
    runs_alone: bool = True


class PartIndex:
    """All slots, parts and cost tables of one supernet. It reads the model's structure once."""

    def __init__(
        self,
        model: nn.Module,
        space: SearchSpace,
        stages: Sequence[Stage],
        dims: Sequence[ElasticDim],
        analysis: GraphAnalysis,
        narrower: Narrower,
    ) -> None:
        self.space = space
        self._model, self._analysis, self._narrower = model, analysis, narrower
        self._counts = _Counts(analysis)
        self._calls = analysis.trace.calls
        self._places = _find_places(analysis, stages, dims)
        axes = [axis.name for axis in analysis.inputs.axes]
        self._axes = {name: len(space[name].values) for name in axes}
        of_axes = itertools.product(*(map(as_size, space[name].values) for name in axes))
        examples = (analysis.example(dict(zip(axes, sizes, strict=True))) for sizes in of_axes)
        self._sizes = [sizes_at(model, example) for example in examples]
        assert all(len(sizes.macs) == len(analysis.trace.contractions) for sizes in self._sizes)
        self._num_tensors = [sum(len(step.writes) for step in sizes.steps) for sizes in self._sizes]
        self._contractions = self._by_place(
            (contraction.module, (number, contraction))
            for number, contraction in enumerate(analysis.trace.contractions)
        )
        self._parameters = self._by_place(_parameters(model, analysis))
        self._alive: dict[frozenset[str], list[dict[str, list[Alive]]]] = {}
        self._sources: dict[str, tuple[_Place, Narrowing, int]] = {}

    def _by_place(self, entries: Iterable[tuple[str, EntryT]]) -> dict[str, list[EntryT]]:
        """Entries gathered by the place of their module; what lies in none goes to the first."""
        owners = {path: place.name for place in self._places for path in place.paths}
        gathered: dict[str, list[EntryT]] = {}
        for path, entry in entries:
            place = next((owners[above] for above in (path, *ancestors(path)) if above in owners), self._places[0].name)
            gathered.setdefault(place, []).append(entry)
        return gathered

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The places that can be measured; costs do not need them."""
        return tuple(self._slot(place) for place in self._places if place.runs_alone)

    @cached_property
    def measurable_share(self) -> float:
        """Of the MACs of the largest subnet, what share parts compute that can be measured, each in its one call."""
        paths = {
            path
            for place in self._places
            if place.runs_alone and all(self._calls[path].num_calls == 1 for path in place.paths)
            for path in place.paths
        }
        contractions, macs = self._analysis.trace.contractions, self._sizes[-1].macs
        measured = (
            number
            for number, contraction in enumerate(contractions)
            if not paths.isdisjoint((contraction.module, *ancestors(contraction.module)))
        )
        return sum(macs[number] for number in measured) / max(sum(macs), 1)

    def part(self, key: str) -> Part:
        assert self.slots  # they name the parts
        try:
            place, narrowing, index = self._sources[key]
        except KeyError:
            raise LookupError(unknown_name_message("part", key, list(self._sources)[:20])) from None
        module = self._narrowed(place, narrowing)
        fields = {**self._fields(place, module, narrowing), **self._sides(place, narrowing, index)}
        own_hooks(module)
        own_tensors(module)
        call, shapes = self._calls[place.paths[0]], self._input_shapes(place, narrowing, index)
        if len(call.args) + len(call.kwargs) > 1 or len(shapes) > 1 or not call.args:
            others = self._shapes(place, narrowing, index)[len(shapes) :]
            module = _Called(module, call, [shape[1] for shape in shapes] if len(shapes) > 1 else None, others)
        dtype = next(value.dtype for value in flat([call.first]) if isinstance(value, Tensor))
        return Part(key, fields, module.eval(), self._input_shape(place, narrowing, index), dtype)

    def factors(self, cost: str) -> list[tuple[tuple[str, ...], npt.NDArray[np.float64]]]:
        functions: dict[str, Callable[[_Place, Narrowing, int], float]] = {
            "macs": self._macs,
            "params": lambda place, narrowing, index: self._params(place, narrowing),
            "weights": lambda place, narrowing, index: self._params(place, narrowing, kinds=("weight",)),
            "biases": lambda place, narrowing, index: self._params(place, narrowing, kinds=("bias",)),
            "layers": lambda place, narrowing, index: float(sum(1 for _ in self._products(place, narrowing))),
            "peak_activation_bytes": self._peak_activation_bytes,
        }
        if cost not in functions:
            raise LookupError(unknown_name_message("cost", cost, functions))
        return [self._tabulate(place, functions[cost], np.float64) for place in self._places]

    # -- tables --------------------------------------------------------------------------------------------------------

    def _slot(self, place: _Place) -> Slot:
        known: dict[tuple[Any, ...], Fields] = {}

        def key(place: _Place, narrowing: Narrowing, index: int) -> str:
            choice = (tuple(narrowing.units.items()), tuple(narrowing.kernels.items()), frozenset(narrowing.removed))
            if choice not in known:
                known[choice] = self._fields(place, self._narrowed(place, narrowing), narrowing)
            found = part_key({**known[choice], **self._sides(place, narrowing, index)})
            self._sources.setdefault(found, (place, narrowing, index))
            return found

        return Slot(place.name, *self._tabulate(place, key, np.object_, absent=""))

    def _tabulate(
        self, place: _Place, value: Callable[[_Place, Narrowing, int], Any], dtype: type[Any], absent: Any = 0
    ) -> tuple[tuple[str, ...], npt.NDArray[Any]]:
        """``value`` of every choice of a place: an array over the inputs' axes, its presence, its own dims."""
        names = [dim.name for dim in place.dims]
        choices = [self.space[name].values for name in names]
        table: npt.NDArray[Any] = np.empty((len(self._sizes), *map(len, choices)), dtype=dtype)
        for values, indices in zip(itertools.product(*choices), np.ndindex(table.shape[1:]), strict=True):
            narrowing = Narrowing.of(place.dims, dict(zip(names, values, strict=True)))
            for r in range(len(self._sizes)):
                table[r, *indices] = value(place, narrowing, r)
        table = table.reshape((*self._axes.values(), *map(len, choices)))
        if place.presence is None:
            return (*self._axes, *names), table
        name, present = place.presence
        gone, axis = np.full_like(table, absent), len(self._axes)
        table = np.stack([table if value in present else gone for value in self.space[name].values], axis)
        return (*self._axes, name, *names), table

    # -- what stands at a place ----------------------------------------------------------------------------------------

    def _narrowed(self, place: _Place, narrowing: Narrowing) -> nn.Module:
        clones: dict[int, nn.Module] = {}
        modules = [clone_structure(self._model.get_submodule(path), clones) for path in place.paths]
        for path in narrowing.removed:
            parent, _, name = path.rpartition(".")
            del clones[id(self._model.get_submodule(parent))]._modules[name]
        self._narrower.narrow(narrowing, clones)
        module = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
        return remove_kernel_transforms(module)

    def _input_shapes(self, place: _Place, narrowing: Narrowing, index: int) -> list[tuple[int, ...]]:
        """Shapes, with the batch, of the tensors in the first argument."""
        first = [value for value in flat([self._calls[place.paths[0]].first]) if isinstance(value, Tensor)]
        return self._shapes(place, narrowing, index)[: len(first)]

    def _shapes(self, place: _Place, narrowing: Narrowing, index: int) -> list[tuple[int, ...]]:
        """Of the tensors in all arguments."""
        shapes, inputs = self._sizes[index].inputs[place.paths[0]], self._calls[place.paths[0]].inputs
        return [
            self._counts.shape(shape, labels, narrowing) for shape, (_, labels) in zip(shapes, inputs, strict=False)
        ]

    def _input_shape(self, place: _Place, narrowing: Narrowing, index: int) -> tuple[int, ...]:
        """Shape, without the batch, of what the part takes: tensors of a list stand side by side in one."""
        first, *others = self._input_shapes(place, narrowing, index)
        if others:
            return (first[1] + sum(shape[1] for shape in others), *first[2:])
        return first[1:]

    def _sides(self, place: _Place, narrowing: Narrowing, index: int) -> Fields:
        """Height of the input, its tokens or frames; and its width where that is another and varies of its own."""
        shape = self._input_shape(place, narrowing, index)
        first = self._side(place, len(shape))
        fields: Fields = {"resolution": shape[first]}
        return fields if len(self._axes) < 2 or len(shape) < 3 else {**fields, "width_px": shape[first + 1]}

    def _side(self, place: _Place, num_axes: int) -> int:
        """Which axis of the input, without the batch, grows with the model's; or would, where there is one size."""
        shapes = [sizes.inputs[place.paths[0]][0] for sizes in self._sizes]
        for axis in range(1, min(num_axes + 1, *map(len, shapes))):
            if len({shape[axis] for shape in shapes}) > 1:
                return axis - 1
        is_channels_last = any(atoms.shape[-1] > 1 for atoms in self._calls[place.paths[0]].inputs[0][1])
        return 0 if num_axes < 3 or is_channels_last else 1

    def _fields(self, place: _Place, module: nn.Module, narrowing: Narrowing) -> Fields:
        """What a runtime sees of a part, the resolution excepted: readable sizes, and a digest of everything."""
        first, last = self._calls[place.paths[0]], self._calls[place.paths[-1]]
        single = len(place.paths) == 1 and "." in place.name
        fields: Fields = {"kind": type(module).__name__.lower() if single else place.name.partition(".")[0]}
        for name, labels in (("in_channels", first.inputs[0][1]), ("out_channels", last.output_labels)):
            counts = [self._counts.kept(atoms, narrowing) for atoms in labels]
            if counts:
                fields[name] = max(counts)
        for dim in place.dims:
            fields |= dim.sizes(narrowing)
        convolutions = [child for child in module.modules() if isinstance(child, CONVOLUTIONS)]
        if convolutions:
            fields["kernel"] = max(max(conv.kernel_size) for conv in convolutions)
            fields["stride"] = max(max(conv.stride) for conv in convolutions)
        split = len(first.first) if isinstance(first.first, (list, tuple)) else 1
        shapes = [self._counts.shape(shape, labels, narrowing)[1:] for shape, labels in first.inputs]
        constants = [shape[:1] for shape in shapes[:split]] * (split > 1) + shapes[split:]
        fields["digest"] = digest_of(module, constants)
        return fields

    # -- costs ---------------------------------------------------------------------------------------------------------

    def _products(self, place: _Place, narrowing: Narrowing) -> Iterator[tuple[int, Contraction]]:
        """What is computed at a place, with its numbers."""
        for number, contraction in self._contractions.get(place.name, ()):
            if _is_there(contraction.module, narrowing.removed):
                yield number, contraction

    def _macs(self, place: _Place, narrowing: Narrowing, index: int) -> float:
        return float(
            sum(
                self._counts.scaled(self._sizes[index].macs[number], contraction.labels, narrowing)
                * self._kernel_share(contraction.module, narrowing)
                for number, contraction in self._products(place, narrowing)
            )
        )

    def _kernel_share(self, path: str, narrowing: Narrowing) -> float:
        """How much of a layer's weight, and of its products, a smaller kernel leaves."""
        if path not in narrowing.kernels:
            return 1
        own: tuple[int, ...] = self._analysis.modules[path].kernel_size  # type: ignore[assignment]
        return prod(min(size, narrowing.kernels[path]) for size in own) / prod(own)

    def _params(
        self, place: _Place, narrowing: Narrowing, kinds: tuple[str, ...] = ("weight", "bias", "norm scale")
    ) -> float:
        return float(
            sum(
                round(
                    self._counts.scaled(numel, labels, narrowing)
                    * (self._kernel_share(path, narrowing) if name == "weight" else 1)
                )
                for path, name, numel, labels, kind in self._parameters.get(place.name, ())
                if kind in kinds and _is_there(path, narrowing.removed)
            )
        )

    def _peak_activation_bytes(self, place: _Place, narrowing: Narrowing, index: int) -> float:
        """Most that is in memory in one step of the place."""
        labels = self._analysis.trace.tensor_labels
        # A model that takes other steps at this resolution than where it was traced is taken at its full width.
        is_traced = self._num_tensors[index] == len(labels)

        @cache
        def size_here(number: int, size: int) -> int:
            return self._counts.scaled(size, labels[number], narrowing) if is_traced else size

        steps = self._alive_without(frozenset(narrowing.removed))[index].get(place.name, ())
        peak = max((sum(itertools.starmap(size_here, alive)) for alive in steps), default=0)
        return float(peak * BYTES_PER_ACTIVATION)

    def _alive_without(self, removed: frozenset[str]) -> list[dict[str, list[Alive]]]:
        """For each resolution and place, what is in memory in its steps; what is a part of another is left out.

        Args:
            removed: Paths of modules that are not there.
        """
        if removed not in self._alive:
            self._alive[removed] = []
            for sizes in self._sizes:
                steps = _without(sizes.steps, removed)
                gathered = self._by_place(zip((step.module for step in steps), _alive(steps), strict=True))
                self._alive[removed].append(
                    {
                        place: [alive for alive in dict.fromkeys(every) if not any(alive < other for other in every)]
                        for place, every in gathered.items()
                    }
                )
        return self._alive[removed]


def _is_there(path: str, removed: Iterable[str]) -> bool:
    """Whether a module is in none of those that were left out."""
    return not any(is_within(path, gone) for gone in removed)


def _without(steps: Sequence[Step], removed: Set[str]) -> Sequence[Step]:
    """Steps that are left, reading what is left."""
    if not removed:
        return steps
    left = [step for step in steps if _is_there(step.module, removed)]
    written = {number for step in left for number, _ in step.writes}
    return [dataclasses.replace(step, reads=tuple(n for n in step.reads if n in written)) for step in left]


def _alive(steps: Sequence[Step]) -> list[Alive]:
    """What is in memory during each step; ``tests/cost/memory_plan.py`` says the same of an exported graph.

    An elementwise step writes over an operand that nobody needs any more. If only elementwise steps read its result, it
    writes nothing: they compute it.
    """
    readers: dict[int, list[Step]] = {}
    for step in steps:
        for number in step.reads:
            readers.setdefault(number, []).append(step)
    sizes = {number: size for step in steps for number, size in step.writes}
    holder: dict[int, int] = {}  # the tensor that is in memory where this one is read
    last: dict[int, int] = {}
    for at, step in enumerate(steps):
        read = {holder[number] for number in step.reads}
        last.update(dict.fromkeys(read, at))
        for number, size in step.writes:
            alike = [other for other in read if sizes[other] == size]
            is_read_elementwise = number in readers and all(r.kind == "elementwise" for r in readers[number])
            is_held = step.kind == "view" or (step.kind == "elementwise" and is_read_elementwise)
            holder[number] = alike[0] if is_held and len(alike) == 1 else number
            last[holder[number]] = at

    place: dict[int, int] = {}  # the tensor whose memory this one has taken over
    spans: dict[int, tuple[int, int]] = {}
    for at, step in enumerate(steps):
        for number, size in step.writes:
            if holder[number] == number:
                given = [holder[other] for other in step.reads] if step.kind == "elementwise" else []
                heirloom = next((other for other in given if last[other] == at and sizes[other] == size), None)
                place[number] = number if heirloom is None else place[heirloom]
                first, _ = spans.get(place[number], (at, at))
                spans[place[number]] = first, last[number]
    alive: list[list[tuple[int, int]]] = [[] for _ in steps]
    for number, (first, end) in spans.items():
        for each in alive[first : end + 1]:
            each.append((number, sizes[number]))
    return [frozenset(each) for each in alive]


def part_key(fields: Fields) -> str:
    """A readable name that two parts share exactly if all their fields agree."""
    return "_".join(f"{_KEY_PREFIXES.get(name, name)}{value}" for name, value in fields.items())


def _parameters(model: nn.Module, analysis: GraphAnalysis) -> Iterator[tuple[str, tuple[str, str, int, Labels, str]]]:
    """Module and, of every parameter, the module again, its name there, size, labels, and kind.

    Its kind says what becomes of it in a deployed network: a ``weight`` (a matrix or more), a ``bias`` (a vector), or
    the ``norm scale`` of a batch normalisation, which is folded into the weights before it. The matrices of elastic
    kernels are left out.
    """
    labels: dict[str, list[Atoms]] = {}
    for source in analysis.trace.sources:
        labels.setdefault(source.tensor, []).append(np.arange(source.first, source.first + source.num))
    for name, parameter in model.named_parameters():
        path, _, own = name.rpartition(".")
        if not own.startswith(TRANSFORM):
            kind = "weight" if parameter.ndim > 1 else "bias"
            if own == "weight" and isinstance(analysis.modules[path], _BatchNorm):
                kind = "norm scale"
            yield path, (path, own, parameter.numel(), tuple(labels.get(name, ())), kind)


class _Counts:
    """How many of some atoms a narrowing keeps."""

    def __init__(self, analysis: GraphAnalysis) -> None:
        self._group_of, self._unit_of = analysis.groups.group_of, analysis.groups.unit_of
        self._num_units = [group.num_units for group in analysis.groups.all]
        self._known: dict[int, tuple[Atoms, int, dict[int, npt.NDArray[np.int64]]]] = {}

    def kept(self, atoms: Atoms, narrowing: Narrowing) -> int:
        known = self._known.get(id(atoms))
        if known is None:
            groups = self._group_of[atoms].ravel()
            units = self._unit_of[atoms].ravel()
            cumulative = {
                int(g): np.bincount(units[groups == g], minlength=self._num_units[g]).cumsum()
                for g in np.unique(groups[groups >= 0])
            }
            known = (atoms, int((groups < 0).sum()), cumulative)
            self._known[id(atoms)] = known
        _, fixed, cumulative = known
        return fixed + sum(
            int(counts[narrowing.units.get(group, self._num_units[group]) - 1]) for group, counts in cumulative.items()
        )

    def scaled(self, amount: int, labels: Labels, narrowing: Narrowing) -> int:
        """An amount that is proportional to the size of every labelled axis."""
        kept = prod(self.kept(atoms, narrowing) for atoms in labels)
        return amount * kept // prod(atoms.size for atoms in labels)

    def shape(self, shape: Sequence[int], labels: Labels, narrowing: Narrowing) -> tuple[int, ...]:
        sizes = list(shape)
        for atoms in labels:
            axes = [axis for axis, size in enumerate(atoms.shape) if size > 1]
            if len(axes) == 1:
                sizes[axes[0]] = self.kept(atoms, narrowing)
        return tuple(sizes)


class _Called(nn.Module):
    """A block as it is called, on one tensor.

    What else it takes (its grid, a position encoding, a mask) is kept, tensors as zeros of their shapes at this size; a
    list is split off the one.
    """

    def __init__(
        self, module: nn.Module, call: Call, split: list[int] | None, others: Sequence[tuple[int, ...]]
    ) -> None:
        super().__init__()
        self.module = module
        self.split = split
        shapes = iter(others)
        self.args = [_real(value, shapes) for value in call.args[1:]]
        self.first = None if call.args else next(iter(call.kwargs))
        self.kwargs = {name: _real(value, shapes) for name, value in call.kwargs.items() if name != self.first}

    def forward(self, x: Tensor) -> Tensor:
        first = x if self.split is None else list(x.split(self.split, 1))
        args, named = ([first], {}) if self.first is None else ([], {self.first: first})
        output = self.module(*args, *self.args, **named, **self.kwargs)
        return output[0] if isinstance(output, (list, tuple)) else output


def _real(value: Any, shapes: Iterator[tuple[int, ...]]) -> Any:
    if isinstance(value, Tensor):
        return torch.zeros(next(shapes, tuple(value.shape)), dtype=value.dtype)
    return type(value)(_real(each, shapes) for each in value) if type(value) in (list, tuple) else value


# -- finding places ----------------------------------------------------------------------------------------------------


def _find_places(analysis: GraphAnalysis, stages: Sequence[Stage], dims: Sequence[ElasticDim]) -> list[_Place]:
    """Blocks, and between them the modules outside blocks, chained where one hands its output to the next."""
    calls = analysis.trace.calls
    places = []
    for stage in stages:
        for block in stage.blocks:
            if block.path in calls:
                places.append(_Place(block.name, (block.path,), runs_alone=_runs_alone(calls[block.path])))
    blocks = {block.path for stage in stages for block in stage.blocks}
    starts = sorted((min(calls[b.path].order for b in s.blocks if b.path in calls), s.name) for s in stages)
    used: Counter[str] = Counter()
    for chain in _chains_outside(analysis, blocks):
        order = calls[chain[0]].order
        following = [name for start, name in starts if start > order]
        region = f"{following[0]}.entry" if following else "head"
        if (stages and order < starts[0][0]) or (not stages and not used):
            region = "stem"
        number = f"{'' if '.' in region else '.'}{used[region]}" if used[region] else ""
        used[region] += 1
        places.append(_Place(region + number, tuple(chain)))
    places.sort(key=lambda place: calls[place.paths[0]].order)
    places += [_Place(path, (path,), runs_alone=False) for path in _layers_elsewhere(analysis, places)]
    leaving = {  # whole places; what a block's own dims leave out is inside it
        dim.name: {value: dim.left_out(value) for value in dim.values}
        for dim in dims
        if dim.scope != "block" and any(map(dim.left_out, dim.values))
    }
    others = [dim for dim in dims if dim.name not in leaving]
    return [
        dataclasses.replace(
            place,
            dims=_deciding(analysis, place, others, is_first=number == 0),
            presence=_presence(place.paths, leaving),
        )
        for number, place in enumerate(places)
    ]


def _layers_elsewhere(analysis: GraphAnalysis, places: Iterable[_Place]) -> list[str]:
    """Paths of the layers that are in no place, such as those that are called several times."""
    taken = {path for place in places for path in place.paths}
    return [
        path
        for path in analysis.trace.calls
        if path and analysis.modules[path]._parameters and taken.isdisjoint((path, *ancestors(path)))
    ]


def _presence(
    paths: Sequence[str], leaving: Mapping[str, Mapping[Value, Set[str]]]
) -> tuple[str, tuple[Value, ...]] | None:
    """The first dim at some of whose values modules are left out, and its other values.

    Args:
        leaving: Name of a dim -> what it leaves out at each value.
    """
    within = {above for path in paths for above in (path, *ancestors(path))}
    for name, left_out in leaving.items():
        present = tuple(value for value, gone in left_out.items() if within.isdisjoint(gone))
        if len(present) < len(left_out):
            return name, present
    return None


def _deciding(
    analysis: GraphAnalysis, place: _Place, dims: Sequence[ElasticDim], *, is_first: bool
) -> tuple[ElasticDim, ...]:
    """The dims, depths excepted, that change what stands at a place, and the widths that ratios there refer to."""

    def is_here(path: str) -> bool:
        # What lies in no place, such as bare parameters of the model, is counted in the first.
        return any(is_within(path, own) for own in place.paths) or (is_first and not path)

    here = {group.number for group in analysis.groups.all if any(map(is_here, group.modules))}
    here |= {n for _, labels in analysis.trace.calls[place.paths[0]].inputs for n in analysis.numbers_in(labels)}
    stage, is_block, _ = place.name.partition(".block")
    direct = {
        dim.name
        for dim in dims
        if dim.name.startswith(place.name + ".")
        or (dim.scope == "stream" and here & set(dim.groups))
        or (dim.scope == "stage" and is_block and dim.name.rpartition(".")[0] == stage)
    }
    read = {name for dim in dims if dim.name in direct for name in dim.reads}
    return tuple(dim for dim in dims if dim.name in direct | read)


def _runs_alone(call: Call | None) -> bool:
    """Whether a module can be run on one tensor, if need be one that holds several side by side."""
    if call is None or call.output is None:
        return False
    first = call.first
    if isinstance(first, (list, tuple)):
        shapes = {(*value.shape[:1], *value.shape[2:]) for value in first if isinstance(value, Tensor)}
        return len(shapes) == 1 and all(isinstance(value, Tensor) for value in first)
    return isinstance(first, Tensor)


def _chains_outside(analysis: GraphAnalysis, blocks: set[str]) -> list[list[str]]:
    """Runs of modules outside blocks: the largest ones that hold no block, each fed by the one before."""
    calls = analysis.trace.calls
    holding = above(blocks)

    def outside(path: str) -> Iterable[str]:
        if path in blocks:
            return
        if path and path not in holding:
            leaves = [child for child in analysis.modules[path].modules() if not any(True for _ in child.children())]
            if all(is_identity(leaf) for leaf in leaves):
                return
            if _runs_alone(calls.get(path)) and calls[path].num_calls == 1:
                yield path
                return
        # What does not run alone, such as a head that takes a mapping, may be made of modules that do.
        for name, _ in analysis.modules[path].named_children():
            yield from outside(f"{path}.{name}".removeprefix("."))

    islands = sorted(outside(""), key=lambda path: calls[path].order)
    chains: list[list[str]] = []
    for path in islands:
        call = calls[path]
        if (
            chains
            and call.input_ids[:1] == [calls[chains[-1][-1]].output_id]
            and len(call.args) == 1
            and not call.kwargs
        ):
            chains[-1].append(path)
        else:
            chains.append([path])
    return chains
