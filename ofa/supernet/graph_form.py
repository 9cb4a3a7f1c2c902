"""Modules whose code computes with fixed sizes, as graphs whose sizes follow the channels that are kept.

``view(n, t, 8, 64)`` in an attention's code stays what it is however few heads are left. Such a module is written down
once as a graph of operators (``make_fx``), its tensors are labelled as those of the whole model are
(:mod:`ofa.supernet.channels`), and every number in the graph that is the size of a labelled axis, or a place on one,
becomes an input: how many of its atoms are kept. Layers and parameters stay the module's own, under their names; only
narrowed subnets run the graph, the largest runs the code.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import CodeType, MethodType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ofa.errors import UsageError
from ofa.nn.structure import clone_structure, digest_of, own_hooks
from ofa.supernet.channels.groups import Groups, components
from ofa.supernet.channels.labels import FIXED, AtomGraph, Atoms, Labels, axes_of
from ofa.supernet.channels.tracer import Tracer, attention, quiet

Kept = npt.NDArray[np.bool_]
Mode = Literal["fake", "symbolic"]
_Shape = tuple[int | torch.SymInt, ...]
_NodeLabels = dict[fx.Node, list[tuple[tuple[int, ...], Labels]]]
aten = torch.ops.aten

NUM_PLAIN = 16  # graphs for one size of the inputs each, before one for all, which takes ten times as long to write
MAX_VARIANTS = 64
PLAIN = (Tensor, int, float, str, type(None), torch.dtype, torch.device)
"""What a graph can be for; other objects, such as the caches of language models, change while it is written."""


@dataclass(frozen=True)
class Size:
    """A number in a graph: how many indices of a labelled axis there are, or before a place on it.

    Args:
        atoms: What labels the axis, moved to the front: shape ``(size, other axes ...)``.
    """

    atoms: Atoms

    def value(self, is_kept: Callable[[Atoms], Kept]) -> int:
        """An index is there if anything of it is."""
        return int(is_kept(self.atoms).reshape(len(self.atoms), -1).any(axis=1).sum())


@dataclass(frozen=True, eq=False)
class _Variant:
    """A graph for one way to call a module.

    Args:
        code: Takes parameters and buffers, the tensors among the arguments, the device, and sizes.
        shapes: Of the tensors among the arguments: a number for a size that must be that, a text for one that must be
            the same wherever it stands, ``None`` for any.
        spec: How arguments are nested, with what is no tensor.
    """

    code: fx.GraphModule
    shapes: tuple[tuple[int | str | None, ...], ...]
    spec: tuple[Any, ...]
    output_spec: TreeSpec
    sizes: tuple[Size, ...]

    def fits(self, spec: tuple[Any, ...], shapes: Sequence[_Shape]) -> bool:
        if spec != self.spec or list(map(len, shapes)) != list(map(len, self.shapes)):
            return False
        found: dict[str, int | torch.SymInt] = {}
        for given, shape in zip(shapes, self.shapes, strict=True):
            for size, wanted in zip(given, shape, strict=True):
                if isinstance(wanted, str):
                    if size != found.setdefault(wanted, size):
                        return False
                elif wanted is not None and (not isinstance(size, int) or size != wanted):
                    return False
        return True


@dataclass(frozen=True)
class _Written:
    """A module as a graph of operators, before sizes become inputs.

    Args:
        shapes: Of the tensors among the arguments, as they are in the graph: numbers, or symbols.
    """

    code: fx.GraphModule
    shapes: tuple[Sequence[Any], ...]
    output_spec: TreeSpec


def _written(
    module: nn.Module,
    named: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    leaves: Sequence[Any],
    tree: TreeSpec,
    *,
    mode: Mode,
) -> _Written:
    output_spec: list[TreeSpec] = []

    def run(*every: Tensor) -> list[Any]:
        given = iter(every[len(named) :])
        args, kwargs = tree_unflatten([next(given) if isinstance(x, Tensor) else x for x in leaves], tree)
        output = functional_call(module, dict(zip(named, every, strict=False)), args, kwargs)
        outputs, found = tree_flatten(output)
        output_spec[:] = [found]
        return outputs

    every = [*(tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in named.values()), *inputs]
    with torch.enable_grad():  # without it attention would take another way, which nothing can follow
        code = make_fx(run, tracing_mode=mode, pre_dispatch=True)(*every)
    placeholders = [node for node in code.graph.nodes if node.op == "placeholder"]
    shapes = tuple(tuple(node.meta["val"].shape) for node in placeholders[len(named) :])
    return _Written(code, shapes, output_spec[0])


@dataclass
class GraphForm:
    """One module of a model as graphs, one for each way in which it is called.

    Args:
        module: Without values, whole.
        labels: Of its parameters and buffers, by their names in it.
        input_labels: Of the tensors among its arguments, by position or name.
        groups: Of the model.
        written: What was written down before of a model's modules: many are alike.
    """

    module: nn.Module
    labels: Mapping[str, Labels]
    input_labels: Mapping[int | str, Labels]
    groups: Groups
    written: dict[Any, _Written] = field(default_factory=dict)
    variants: list[_Variant] = field(default_factory=list)
    numbers: frozenset[int] = field(init=False)
    """Of the groups that narrow it."""

    def __post_init__(self) -> None:
        every = [*self.labels.values(), *self.input_labels.values()]
        atoms = [np.unique(array) for labels in every for array in labels]
        self.numbers = (
            frozenset(np.unique(self.groups.group_of[np.concatenate(atoms)]).tolist()) if atoms else frozenset()
        )

    def enter(self, clone: nn.Module, units: Mapping[int, int]) -> None:
        """Let a clone run the graph if it is narrowed.

        Args:
            units: Of each narrowed group of the model those that are kept, by its number.
        """
        own = {number: units[number] for number in self.numbers if number in units}
        if own:
            clone.__dict__["forward"] = MethodType(_Code(self, own), clone)

    def variant(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], module: nn.Module) -> _Variant:
        """The graph for such a call, made if there is none."""
        if (unfit := other_than_plain(args, kwargs)) is not None:
            raise UsageError(
                f"{type(self.module).__name__} runs as a graph in narrowed subnets and is called with a "
                f"{type(unfit).__name__}; call it with tensors, numbers and text (use_cache=False in transformers)"
            )
        tensors, spec = _spec(args, kwargs, module)
        given = [_shape_of(tensor) for tensor in tensors]
        for variant in self.variants:
            if variant.fits(spec, given):
                return variant
        # An exporter that leaves sizes free asks with symbols, of which it is to learn nothing.
        has_symbols = not all(isinstance(size, int) for shape in given for size in shape)
        mode: Mode = "symbolic" if has_symbols or len(self.variants) >= NUM_PLAIN else "fake"
        with _unseen():
            made = self._made(args, kwargs, spec, tensors, mode=mode)
        self.variants = [*self.variants, made][-MAX_VARIANTS:]
        return made

    def _made(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        spec: tuple[Any, ...],
        tensors: Sequence[Tensor],
        *,
        mode: Mode,
    ) -> _Variant:
        labels = [self.input_labels.get(key, ()) if key is not None else () for key in _keys(args, kwargs)]
        labels = [
            each if all(atoms.ndim == x.ndim for atoms in each) else () for each, x in zip(labels, tensors, strict=True)
        ]
        whole = [_whole(tensor, each) for tensor, each in zip(tensors, labels, strict=True)]
        own = _as(self.module, spec[1]).train(spec[0])
        named = {**dict(own.named_parameters()), **dict(own.named_buffers())}
        leaves, tree = tree_flatten((args, dict(kwargs)))
        rates = [getattr(child, name, None) for child in own.modules() for name in ("p", "drop_prob")]
        key = (mode, type(own), digest_of(own), repr([spec, rates]), tuple(tensor.shape for tensor in whole))
        if key not in self.written:
            self.written[key] = _written(own, named, whole, leaves, tree, mode=mode)
        written = self.written[key]
        code = fx.GraphModule(written.code, copy.deepcopy(written.code.graph))
        shapes = tuple(_promised(shape, each) for shape, each in zip(written.shapes, labels, strict=True))
        known = [*(self.labels.get(name, ()) for name in named), *labels]
        labelled = _labelled(code, [tensor.detach() for tensor in (*named.values(), *whole)], known)
        return _Variant(code, shapes, spec, written.output_spec, tuple(_with_sizes(code, labelled, self.groups)))


class _Code:
    """The forward method of a clone: the graph at its sizes."""

    def __init__(self, form: GraphForm, units: Mapping[int, int]) -> None:
        self.form, self.units = form, dict(units)
        self._sizes: dict[_Variant, list[int]] = {}

    # An exporter asks the method of a whole model for its arguments.

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.form.module).forward)

    @property
    def __code__(self) -> CodeType:
        return type(self.form.module).forward.__code__

    def is_kept(self, atoms: Atoms) -> Kept:
        groups, unit_of = self.form.groups.group_of[atoms], self.form.groups.unit_of[atoms]
        kept = np.ones(atoms.shape, dtype=bool)
        for number, units in self.units.items():
            kept &= (groups != number) | (unit_of < units)
        return kept

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        variant = self.form.variant(args, kwargs, module)
        if variant not in self._sizes:
            self._sizes[variant] = [size.value(self.is_kept) for size in variant.sizes]
        tensors, _ = _spec(args, kwargs, module)
        own = [*(tensor for _, tensor in module.named_parameters()), *(tensor for _, tensor in module.named_buffers())]
        device = tensors[0].device if tensors else own[0].device
        outputs = variant.code(*own, *tensors, device, *self._sizes[variant])
        return tree_unflatten(outputs, variant.output_spec)


def other_than_plain(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The first of the arguments that a graph cannot be for, or ``None``."""
    return next((leaf for leaf in tree_flatten((args, dict(kwargs)))[0] if not isinstance(leaf, PLAIN)), None)


@contextmanager
def _unseen() -> Iterator[None]:
    """Whoever traces a call is not to see how its graph is made; and in inference mode operators stay in one piece."""
    tracing = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    is_inferring = torch.is_inference_mode_enabled()
    try:
        inference = torch.inference_mode(False) if is_inferring else nullcontext()
        with _disable_current_modes(), torch._guards.tracing(None), inference:
            yield
    finally:
        torch._C._set_tracing_state(tracing)  # type: ignore[attr-defined]


def _spec(args: tuple[Any, ...], kwargs: Mapping[str, Any], module: nn.Module) -> tuple[list[Tensor], tuple[Any, ...]]:
    """The tensors among the arguments, and all else that a graph is for."""
    leaves, tree = tree_flatten((args, dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
    others = tuple(leaf.dtype if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return tensors, (module.training, dtype, others, tree)


def arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[int | str, Any]]:
    """By position or name."""
    return [*enumerate(args), *kwargs.items()]


def _keys(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int | str | None]:
    """For each tensor among the arguments its position or name; ``None`` for those that lie deeper."""
    keys: list[int | str | None] = []
    for key, value in arguments(args, kwargs):
        leaves = [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
        keys += [key if isinstance(value, Tensor) else None] * len(leaves)
    return keys


def _shape_of(tensor: Tensor) -> _Shape:
    """Numbers, and symbols; where torch's older exporter traces, sizes are tensors."""
    return tuple(int(size) if isinstance(size, Tensor) else size for size in tensor.shape)


def _whole(tensor: Tensor, labels: Labels) -> Tensor:
    """Without values, with its labelled axes as they are in the whole model."""
    shape = [int(size if isinstance(size, int) else size.node.hint) for size in _shape_of(tensor)]  # type: ignore[arg-type]
    for atoms in labels:
        for axis in axes_of(atoms):
            shape[axis] = atoms.shape[axis]
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


def _as(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A clone without values, its numbers in another type; ``Module.to`` would change the original's too."""
    clone = clone_structure(module)
    own_hooks(clone)
    converted: dict[int, Tensor] = {}
    for child in clone.modules():
        for tensors in (child._parameters, child._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_floating_point():
                    new = converted.setdefault(id(tensor), type(tensor)(tensor.detach().to(dtype)))
                    tensors[name] = new  # type: ignore[assignment]
    return clone


def _promised(shape: Sequence[Any], labels: Labels) -> tuple[int | str | None, ...]:
    labelled = {axis for atoms in labels for axis in axes_of(atoms)}
    return tuple(
        None if axis in labelled else int(size) if isinstance(size, int) or str(size).isdecimal() else str(size)
        for axis, size in enumerate(shape)
    )


class _Labelled(fx.Interpreter):
    """Runs a graph without values and keeps the labels of what its nodes give."""

    def __init__(self, code: fx.GraphModule, tracer: Tracer) -> None:
        super().__init__(code)
        self.tracer = tracer
        self.labels: _NodeLabels = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        tensors = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
        self.labels[n] = [
            (tuple(tensor.shape), (*self.tracer.labels(tensor), *self.tracer.uniform(tensor))) for tensor in tensors
        ]
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is aten.scaled_dot_product_attention.default:
            return attention(*args, **kwargs)
        return super().call_function(target, args, kwargs)


_FIRST_NEW = 1 << 60
"""Atoms from here on are of axes along which all entries are alike; what is tied of others is tied there already."""


def _labelled(code: fx.GraphModule, flat: Sequence[Tensor], known: Sequence[Labels]) -> _NodeLabels:
    tracer = Tracer({})
    tracer.graph.num_atoms = _FIRST_NEW
    for tensor, labels in zip(flat, known, strict=True):
        tracer.set_labels(tensor, labels)
    interpreter = _Labelled(code, tracer)
    with quiet(), tracer:
        interpreter.run(*flat)
    twins = _twins(tracer.graph)
    return {
        node: [(shape, tuple(map(twins, labels))) for shape, labels in found]
        for node, found in interpreter.labels.items()
    }


def _twins(graph: AtomGraph) -> Callable[[Atoms], Atoms]:
    """Puts in the place of new atoms those of the model that they are tied to, or what must stay if there are none."""
    edges = [np.stack(pair) for pair in graph.edges if any((atoms >= _FIRST_NEW).any() for atoms in pair)]
    numbers, ends = np.unique(np.concatenate([np.full((2, 1), FIXED), *edges], 1), return_inverse=True)
    component = components(len(numbers), [tuple(ends.reshape(2, -1))])  # type: ignore[list-item]
    first = np.full(len(numbers), _FIRST_NEW)
    np.minimum.at(first, component, numbers)  # the model's own atoms have the lower numbers

    def twin(atoms: Atoms) -> Atoms:
        is_new = atoms >= _FIRST_NEW
        if not is_new.any():
            return atoms
        tied = np.isin(atoms, numbers)
        found = np.where(tied, first[component[np.searchsorted(numbers, np.where(tied, atoms, numbers[:1]))]], FIXED)
        return np.where(is_new, np.where(found < _FIRST_NEW, found, FIXED), atoms)

    return twin


# -- numbers that become inputs ----------------------------------------------------------------------------------------

_SIZES_AT = {  # operator -> where in its arguments the sizes of all axes of its result are
    **dict.fromkeys((aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.expand.default), 1),
    **dict.fromkeys((aten.new_zeros.default, aten.new_empty.default, aten.new_ones.default), 1),
    **dict.fromkeys((aten.new_full.default, aten.repeat.default), 1),
    **dict.fromkeys((aten.zeros.default, aten.ones.default, aten.full.default), 0),
}


_GROUPS_AT = {  # operator -> where in its arguments it is how many groups the channels of its result are in
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), 6),
    **dict.fromkeys((aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding), 6),
    aten.group_norm.default: 1,
}


def _axis_atoms(labels: Labels, axis: int) -> Atoms | None:
    """What labels an axis, with that axis in front; ``None`` if nothing does."""
    return next((np.moveaxis(atoms, axis, 0) for atoms in labels if atoms.shape[axis] > 1), None)


class _Writer:
    """Puts inputs in the place of numbers."""

    def __init__(self, code: fx.GraphModule, labels: _NodeLabels, groups: Groups) -> None:
        self.graph, self.labels, self.groups = code.graph, labels, groups
        self.sizes: list[Size] = []
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        with self.graph.inserting_after(placeholders[-1]):
            self.last = self.device = self.graph.placeholder("device")

    def size(self, atoms: Atoms) -> fx.Node:
        """An input that says how many indices of the first axis are kept."""
        with self.graph.inserting_after(self.last):
            self.last = self.graph.placeholder(f"size{len(self.sizes)}")
        self.sizes.append(Size(atoms))
        return self.last

    def scaled(self, value: Any, atoms: Atoms | None, node: fx.Node) -> Any:
        """A size of an axis in the graph, as it is when it is narrowed."""
        if atoms is None or self._is_fixed(atoms) or (isinstance(value, int) and value < 0):
            return value
        if isinstance(value, int):
            return self.size(atoms) if value == len(atoms) else value
        followed = self._followed(value)
        if followed is None:  # such as batch × heads: in proportion
            kept = self.size(atoms)
            with self.graph.inserting_before(node):
                product = self.graph.call_function(operator.mul, (value, kept))
                return self.graph.call_function(operator.floordiv, (product, len(atoms)))
        # The size of another axis that is as long in the whole model, such as the width of what enters.
        is_another = value.target is aten.sym_size.int and len(followed) == len(atoms) and self._differ(followed, atoms)
        return self.size(atoms) if is_another else value

    def place(self, value: Any, atoms: Atoms | None) -> Any:
        """A place on an axis: as many indices before it as are kept."""
        if atoms is None or not isinstance(value, int) or not 0 < value < len(atoms):
            return (
                self.size(atoms) if atoms is not None and value == len(atoms) and not self._is_fixed(atoms) else value
            )
        return self.size(atoms[:value])

    @staticmethod
    def _is_fixed(atoms: Atoms) -> bool:
        return not atoms.any()

    def _differ(self, first: Atoms, second: Atoms) -> bool:
        """Whether two axes are narrowed by different groups."""
        numbers = (np.unique(self.groups.group_of[atoms]).tolist() for atoms in (first, second))
        return next(numbers) != next(numbers)

    def _followed(self, value: fx.Node) -> Atoms | None:
        """What labels the axis whose size a number is computed from, if one of these is labelled."""
        if value.target is aten.sym_size.int:
            source, axis = value.args
            assert isinstance(source, fx.Node) and isinstance(axis, int)
            return next((_axis_atoms(labels, axis) for _, labels in self.labels.get(source, [])[:1]), None)
        found = (self._followed(node) for node in value.all_input_nodes)
        return next((atoms for atoms in found if atoms is not None), None)


def _with_sizes(code: fx.GraphModule, labels: _NodeLabels, groups: Groups) -> list[Size]:
    """Replace numbers in a graph, in place; the sizes that it takes then."""
    writer = _Writer(code, labels, groups)
    for node in list(code.graph.nodes):
        if node.op != "call_function":
            continue
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": writer.device}
        args = list(node.args)
        if node.target in _SIZES_AT and labels.get(node):
            at, found = _SIZES_AT[node.target], labels[node][0][1]
            args[at] = [writer.scaled(value, _axis_atoms(found, axis), node) for axis, value in enumerate(args[at])]
        elif node.target is aten.repeat_interleave.self_int and labels.get(node):
            shape, found = labels[node][0]
            atoms = _axis_atoms(found, args[2] % len(shape)) if len(args) > 2 else None
            args[1] = writer.scaled(args[1], None if atoms is None else atoms[: args[1]], node)
        elif node.target is aten.unflatten.int:
            shape, found = labels[node][0]
            axis = args[1] % (len(shape) - len(args[2]) + 1)
            args[2] = [writer.scaled(value, _axis_atoms(found, axis + i), node) for i, value in enumerate(args[2])]
        elif node.target is aten.split.Tensor:
            shape, found = labels[node][0]
            axis = (args[2] if len(args) > 2 else node.kwargs.get("dim", 0)) % len(shape)
            args[1] = writer.scaled(args[1], _axis_atoms(found, axis), node)
        elif node.target is aten.split_with_sizes.default:
            axis = (args[2] if len(args) > 2 else node.kwargs.get("dim", 0)) % len(labels[node][0][0])
            args[1] = [
                writer.scaled(value, _axis_atoms(found, axis), node)
                for value, (_, found) in zip(args[1], labels[node], strict=True)
            ]
        elif node.target in (aten.slice.Tensor, aten.select.int) and labels.get(args[0]):
            shape, found = labels[args[0]][0]
            atoms = _axis_atoms(found, (args[1] if len(args) > 1 else 0) % len(shape))
            args[2:4] = [writer.place(value, atoms) for value in args[2:4]]
        elif node.target is aten.narrow.default and labels.get(args[0]):
            shape, found = labels[args[0]][0]
            atoms = _axis_atoms(found, args[1] % len(shape))
            start, length = args[2], args[3]
            args[2] = writer.place(start, atoms)
            args[3] = writer.scaled(length, _axis_atoms(labels[node][0][1], args[1] % len(shape)), node)
        elif node.target in _GROUPS_AT and labels.get(node):
            at, atoms = _GROUPS_AT[node.target], _axis_atoms(labels[node][0][1], 1)
            if len(args) > at and args[at] > 1 and atoms is not None:
                args[at] = writer.scaled(args[at], atoms.reshape(args[at], -1), node)
        elif node.target in (aten.layer_norm.default, aten.rms_norm.default):
            shape, found = labels[args[0]][0]
            first = len(shape) - len(args[1])
            args[1] = [writer.scaled(value, _axis_atoms(found, first + i), node) for i, value in enumerate(args[1])]
        node.args = tuple(args)
    code.graph.eliminate_dead_code()
    code.recompile()
    return writer.sizes
