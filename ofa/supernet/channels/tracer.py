"""Running a model once, to learn which channels belong together and what its modules do.

Without values, on the meta device, where its code allows that. What looks at values (boxes that are sorted by their
scores, sentences as long as their mask) runs with those of its example.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from ofa.inputs import Inputs, tensors_in
from ofa.nn.layer_choice import LayerChoice
from ofa.nn.query_key_value import QueryKeyValue
from ofa.nn.structure import clone_structure, is_identity, own_hooks
from ofa.nn.structure import without_values as module_without_values
from ofa.supernet.channels.labels import AtomGraph, Atoms, Labels
from ofa.supernet.channels.rules import RULES, Operation, flat, pointwise, uniform, unknown

_PASSES_SHORTCUTS = {
    *("add", "sub", "clone", "detach", "alias", "_to_copy", "contiguous", "view", "_unsafe_view", "reshape", "flatten"),
    *("permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "roll", "constant_pad_nd"),
}


_NORMALISATIONS = {"native_layer_norm", "native_batch_norm", "native_group_norm", "rms_norm", "_fused_rms_norm"}
Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """Atoms ``first .. first + num`` are the indices of one axis of a parameter or buffer."""

    tensor: str
    axis: int
    first: int
    num: int


@dataclass
class Call:
    """The first call of a module: what went in and out, without values.

    Args:
        output: Shape of its output, the first of several; ``output_shapes`` are those of all tensors in it.
        has_shortcut: Whether its first input reaches the output by nothing but additions, copies and activations.
        has_normalised_shortcut: The same if a normalisation may lie between, as in BERT, which adds, then normalises.
    """

    args: Args
    kwargs: Kwargs
    inputs: list[tuple[tuple[int, ...], Labels]]
    input_ids: list[int]
    order: int
    output: Shape | None = None
    output_shapes: tuple[Shape, ...] = ()
    output_labels: Labels = ()
    output_id: int = 0
    has_shortcut: bool = False
    has_normalised_shortcut: bool = False
    num_calls: int = 1

    @property
    def first(self) -> Any:
        """What it is called with first, by position or else by name."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()), None)


@dataclass(frozen=True)
class Contraction:
    """A matrix product or convolution: its cost, and which atoms decide the cost of a narrower one.

    All products with one weight are one, such as the steps of a recurrent layer, of which a larger image has more.

    Args:
        module: Path of the module that computes it.
        macs: Multiply-accumulates of the traced run.
        labels: What labels the axes of the product, summed ones included.
    """

    module: str
    macs: int
    labels: Labels


Kind: TypeAlias = Literal["view", "elementwise", "other"]


@dataclass(frozen=True)
class Step:
    """An operation on what comes from the image. The first step makes the image.

    Args:
        module: Path of the module that computes it.
        kind: ``view`` if the result is the operand; ``elementwise`` if each of its elements needs one of each operand.
        reads: Numbers of the tensors that it reads.
        writes: Number and size of each tensor that it makes.
    """

    module: str
    kind: Kind
    reads: tuple[int, ...]
    writes: tuple[tuple[int, int], ...]


# Runtimes keep tensors contiguous: they copy where torch looks at memory in another order (a transpose), not later.
_VIEWS = {
    *("view", "_unsafe_view", "reshape", "flatten", "squeeze", "unsqueeze", "alias", "detach", "clone", "contiguous"),
    *("_to_copy", "lift_fresh"),
}


@dataclass
class Trace:
    """What one run of a model showed.

    Args:
        output_type: The class of what the model gives: ``Tensor``, ``dict``.
        output_shapes: Of all tensors in it.
        tensor_labels: Labels of the tensors that its steps number.
        has_values: Whether it ran with values, because its code looks at them.
    """

    graph: AtomGraph
    sources: list[Source]
    calls: dict[str, Call]
    contractions: list[Contraction]
    unknown_operations: set[str]
    output_type: str
    output_shapes: tuple[Shape, ...]
    tensor_labels: list[Labels]
    has_values: bool = False


_CHUNKS = {torch.chunk, Tensor.chunk, torch.tensor_split, Tensor.tensor_split}


class _Functions(TorchFunctionMode):
    """What only a function's name tells, not the operations that it consists of.

    Attention runs as its two products, since fused kernels hide which heads belong together. Chunks keep equal sizes
    when there are fewer channels, which a split at fixed places does not: they are handed to ``on_chunks``.
    """

    def __init__(self, on_chunks: Callable[[Sequence[Tensor]], None]) -> None:
        super().__init__()
        self.on_chunks = on_chunks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        output = func(*args, **kwargs)
        if func in _CHUNKS and not any(isinstance(value, (list, tuple)) for value in (*args, *kwargs.values())):
            self.on_chunks(output)
        return output


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    scores = query @ key.transpose(-2, -1)
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


# Operations whose result has the shape of their first operand. Their kernels for tensors without values are written in
# Python, in many small operations; skipping them saves most of the time of a run.
_KEEPS_SHAPE = {
    *("native_batch_norm", "relu", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "mish"),
    *("elu", "leaky_relu", "_softmax"),
}


class QuickMeta(TorchDispatchMode):
    """Runs a model without values, only to see what fits; without the detours that torch takes to a result's shape."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        plain = name.removesuffix("_")
        if plain not in _KEEPS_SHAPE or kwargs or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        x = args[0]
        if name != plain:
            return x
        if plain != "native_batch_norm":
            return torch.empty_like(x)
        for vector in args[1:5]:
            if vector is not None and vector.shape[0] != x.shape[1]:
                raise RuntimeError(f"batch norm of {vector.shape[0]} channels on {x.shape[1]}")
        nothing = torch.empty(0, device="meta")
        return torch.empty_like(x), nothing, nothing


def operands_of(args: Args, kwargs: Kwargs | None) -> list[Any]:
    return list(flat((*args, *(kwargs or {}).values())))


class _Run(QuickMeta):
    """A run whose steps and products are noted, in their order.

    Args:
        weights: Every product with one of them, such as a recurrent layer's steps, is one; parts of a tensor are
            weights of their own.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.stack: list[str] = [""]
        self.inputs: dict[str, list[tuple[int, ...]]] = {}
        self.steps: list[Step] = []
        self.tensors: list[Tensor] = []  # by number
        self.macs: dict[Any, int] = {}  # by weight, or by number
        self._numbers: dict[Tensor, int] = {}
        self._storages = {tensor.untyped_storage()._cdata for tensor in weights}

    def run(self, model: nn.Module, inputs: Inputs) -> Any:
        for path, module in model.named_modules():
            module.register_forward_pre_hook(partial(self.enter, path), with_kwargs=True)
            module.register_forward_hook(partial(self.leave, path), with_kwargs=True)
        self._add_step("other", (), inputs.tensors)
        with quiet(), _Functions(self.on_chunks), self:
            return inputs.call(model)

    def enter(self, path: str, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        self.stack.append(path)
        tensors = (value for value in flat((*args, *kwargs.values())) if isinstance(value, Tensor))
        self.inputs.setdefault(path, [tuple(tensor.shape) for tensor in tensors])

    def leave(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.stack.pop()

    def on_chunks(self, chunks: Sequence[Tensor]) -> None:
        """Equal parts were made."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = super().__torch_dispatch__(func, types, args, kwargs)
        name = func.overloadpacket.__name__
        operands = operands_of(args, kwargs)
        reads = tuple(self._numbers[x] for x in operands if isinstance(x, Tensor) and x in self._numbers)
        if reads:
            # The first alone: statistics of a normalisation, indices of a pooling are for training only.
            first = output[0] if isinstance(output, tuple) else output
            made = [x for x in flat([first]) if isinstance(x, Tensor) and x not in self._numbers]
            kind: Kind = "other"
            if name in _VIEWS or (name == "expand" and first.numel() == self.tensors[reads[0]].numel()):
                kind = "view"
            elif torch.Tag.pointwise in func.tags or name == "native_batch_norm":
                kind = "elementwise"
            self._add_step(kind, reads, made)
        if name == "convolution":
            positions = prod((args[0] if args[6] else output).shape[2:]) * args[0].shape[0]
            self._add_product(args[1].numel() * positions, args[1:2])
        elif name in ("mm", "bmm", "addmm", "baddbmm", "linear", "_grouped_mm"):
            factors = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
            self._add_product(output.numel() * factors[0].shape[-1], factors)
        elif (count_flops := flop_registry.get(func.overloadpacket)) is not None:
            flops = count_flops(*args, **(kwargs or {}), out_val=output)
            self._add_product(flops // 2, [x for x in operands_of(args, kwargs) if isinstance(x, Tensor)])
        return output

    def _add_step(self, kind: Kind, reads: tuple[int, ...], made: Sequence[Tensor]) -> None:
        writes = []
        for tensor in made:
            self._numbers[tensor] = len(self.tensors)
            writes.append((len(self.tensors), tensor.numel()))
            self.tensors.append(tensor)
        self.steps.append(Step(self.stack[-1], kind, reads, tuple(writes)))

    def _add_product(self, macs: int, factors: Sequence[Tensor]) -> None:
        weight: Any = len(self.macs)
        for tensor in factors:
            storage = tensor.untyped_storage()._cdata
            if storage in self._storages:
                weight = (storage, tensor.storage_offset(), tensor.shape, tensor.stride())
                break
        self.macs[weight] = self.macs.get(weight, 0) + macs


class Tracer(_Run):
    """A run that follows channels through every operation; :func:`trace` does it.

    Args:
        tensors: Parameters and buffers by name.
        convolution_weights: Names of those whose first two axes alone are channels.
        bias_units: Name -> for each place on its one axis, which entry stands for it when it is narrowed.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        convolution_weights: Set[str] = frozenset(),
        bias_units: Mapping[str, Atoms] | None = None,
    ) -> None:
        super().__init__(tensors.values())
        self.graph = AtomGraph()
        self.sources: list[Source] = []
        self.calls: dict[str, Call] = {}
        self.products: list[tuple[str, Labels]] = []
        self.unknown_operations: set[str] = set()
        self._names = {tensor: name for name, tensor in tensors.items()}
        self._convolution_weights, self._bias_units = convolution_weights, bias_units or {}
        self._labels: dict[Tensor, Labels] = {}
        self._uniform: dict[Tensor, tuple[Labels, int]] = {}  # and how often it had been written into by then
        self._num_writes: Counter[int] = Counter()  # by storage
        self._sharing: dict[int, list[Tensor]] = {}  # those with uniform axes, by storage
        self._shortcuts: dict[Tensor, frozenset[Tensor]] = {}
        self._normalised_shortcuts: dict[Tensor, frozenset[Tensor]] = {}

    def set_labels(self, tensor: Tensor, labels: Labels) -> None:
        self._labels[tensor] = labels

    def labels(self, tensor: Tensor) -> Labels:
        if tensor not in self._labels:
            name = self._names.get(tensor)
            self._labels[tensor] = () if name is None else self._of_parameter(name, tensor)
        return self._labels[tensor]

    def uniform(self, tensor: Tensor) -> Labels:
        """What labels the axes along which all entries are alike; none once something was written into the tensor."""
        labels, num_writes = self._uniform.get(tensor, ((), 0))
        return labels if labels and num_writes == self._num_writes[tensor.untyped_storage()._cdata] else ()

    def _of_parameter(self, name: str, tensor: Tensor) -> Labels:
        if not tensor.is_floating_point():
            return ()
        axes = range(min(2, tensor.ndim)) if name in self._convolution_weights else range(tensor.ndim)
        labels = []
        for axis in axes:
            num = tensor.shape[axis]
            if num > 1:
                atoms = self.graph.new_atoms(num)
                self.sources.append(Source(name, axis, int(atoms[0]), num))
                if name in self._bias_units:
                    self.graph.ordered.append(atoms)  # which head has which entry depends on how many there are
                    atoms = atoms[self._bias_units[name]]
                labels.append(atoms.reshape([num if other == axis else 1 for other in range(tensor.ndim)]))
        return tuple(labels)

    def on_chunks(self, chunks: Sequence[Tensor]) -> None:
        """Equal parts that stay equal; other parts must stay as they are."""
        first = chunks[0]
        for chunk in chunks[1:]:
            for mine, theirs in zip(self.labels(first), self.labels(chunk), strict=True):
                if mine.shape == theirs.shape:
                    self.graph.tie(mine, theirs)
                else:
                    self.graph.fix(mine, "chunks of unequal size")
                    self.graph.fix(theirs, "chunks of unequal size")

    def enter(self, path: str, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        super().enter(path, module, args, kwargs)
        if path in self.calls:
            self.calls[path].num_calls += 1
            return
        tensors = [value for value in flat((*args, *kwargs.values())) if isinstance(value, Tensor)]
        inputs = [(tuple(tensor.shape), self.labels(tensor)) for tensor in tensors]
        self.calls[path] = Call(args, kwargs, inputs, [id(tensor) for tensor in tensors], len(self.calls))
        for tensor in tensors:  # from here on it is known whether a shortcut hands it on
            for shortcuts in (self._shortcuts, self._normalised_shortcuts):
                shortcuts.setdefault(tensor, frozenset({tensor}))

    def leave(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        super().leave(path, module, args, kwargs, output)
        call = self.calls[path]
        call.output_shapes = call.output_shapes or tuple(tuple(tensor.shape) for tensor in tensors_in(output))
        if isinstance(output, (list, tuple)) and output:  # the first is what flows on: (tokens, their grid)
            output = output[0]
        if call.output is None and isinstance(output, Tensor):
            call.output, call.output_labels = tuple(output.shape), self.labels(output)
            call.output_id = id(output)
            first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            if first is not None and first is not output and first.shape == output.shape:
                call.has_shortcut = first in self._shortcuts.get(output, ())
                call.has_normalised_shortcut = first in self._normalised_shortcuts.get(output, ())
            if isinstance(module, LayerChoice):  # each needs one of its own; in their sum one would do for all
                calls = [self.calls[f"{path}.{name}"] for name, it in module.named_children() if not is_identity(it)]
                call.has_shortcut &= all(each.has_shortcut for each in calls)
                call.has_normalised_shortcut &= all(each.has_normalised_shortcut for each in calls)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = super().__torch_dispatch__(func, types, args, kwargs)
        op = Operation(func, args, kwargs or {}, output, self.graph, self.labels, self.uniform)
        plain = op.name.removesuffix("_")
        rule = RULES.get(op.name) or RULES.get(plain)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = pointwise
        if rule is None and any(self.labels(tensor) for tensor in op.tensors):
            self.unknown_operations.add(op.name)
        labels = (rule or unknown)(op)
        outputs = [output] if isinstance(output, Tensor) else output if isinstance(output, (list, tuple)) else []
        for tensor, each in zip(outputs, labels if isinstance(labels, list) else [labels] * len(outputs), strict=False):
            if isinstance(tensor, Tensor):
                self._labels[tensor] = each
        self._note_uniform(op, outputs)
        if isinstance(output, Tensor):
            passes = plain in _PASSES_SHORTCUTS
            self._pass_shortcuts(self._shortcuts, args, output, passes=passes, is_pointwise=rule is pointwise)
            self._pass_shortcuts(
                self._normalised_shortcuts, args, output, passes=passes, is_pointwise=rule is pointwise
            )
        elif plain in _NORMALISATIONS:
            self._pass_shortcuts(self._normalised_shortcuts, args, output[0], passes=True, is_pointwise=False)
        if len(self.products) < len(self.macs):
            self.products.append((self.stack[-1], op.product))
        return output

    def _note_uniform(self, op: Operation, outputs: Sequence[Any]) -> None:
        if op.func._schema.is_mutable and isinstance(op.args[0], Tensor):
            self._note_write(op.args[0])
        found = uniform(op)
        for tensor, each in zip(outputs, found if isinstance(found, list) else [found], strict=False):
            if each and isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()._cdata
                self._uniform[tensor] = each, self._num_writes[storage]
                self._sharing.setdefault(storage, []).append(tensor)

    def _note_write(self, target: Tensor) -> None:
        """Uniform axes of a tensor are so no longer; where what was written has channels, they are these channels."""
        storage = target.untyped_storage()._cdata
        written = [atoms.ravel() for atoms in self.labels(target)]
        for tensor in self._sharing.pop(storage, []) if written else []:
            met = (atoms for atoms in self.uniform(tensor) if np.isin(atoms, np.concatenate(written)).any())
            self._labels[tensor] = (*self.labels(tensor), *met)
        self._num_writes[storage] += 1

    @staticmethod
    def _pass_shortcuts(
        shortcuts: dict[Tensor, frozenset[Tensor]],
        args: Sequence[Any],
        output: Tensor,
        *,
        passes: bool,
        is_pointwise: bool,
    ) -> None:
        """Which earlier tensors reach ``output`` by nothing but additions, copies, scaling and activations."""
        activations = [tensor for tensor in args if isinstance(tensor, Tensor) and tensor in shortcuts]
        reached = frozenset({output})
        if passes or (is_pointwise and len(activations) == 1):
            reached = reached.union(*(shortcuts[tensor] for tensor in activations))
        shortcuts[output] = reached


def without_values(value: Any) -> Any:
    """A pytree with its tensors on the meta device; packed sequences, which cannot be there, as they are."""

    def is_packed(value: Any) -> bool:
        return isinstance(value, PackedSequence)

    return tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), value, is_leaf=is_packed)


def stand_in(model: nn.Module, *, has_values: bool = False) -> nn.Module:
    """The model's structure in eval mode, its tensors without values, or the very same tensors.

    All candidates of a choice run in it.
    """
    clone = clone_structure(model) if has_values else module_without_values(model)
    own_hooks(clone)
    for module in clone.modules():
        if isinstance(module, LayerChoice):
            module.runs_all = True
    return clone.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and gradients, and without kernels of attention that stand for all its operators."""
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Run a model once and follow its channels.

    Args:
        inputs: On the meta device, or with values where the model needs them.

    Raises:
        Whatever the model raises on such inputs.
    """
    has_values = not all(tensor.is_meta for tensor in inputs.tensors)
    clone = stand_in(model, has_values=has_values)
    tensors = {**dict(clone.named_parameters()), **dict(clone.named_buffers())}
    convolutions = {  # or what their weights are computed from
        f"{path}.{name}".removeprefix(".")
        for path, module in clone.named_modules()
        if isinstance(module, _ConvNd)
        for name, parameter in module.named_parameters()
        if parameter.ndim > 2
    }
    bias_units = {
        f"{path}.bias".removeprefix("."): module.bias_units()
        for path, module in clone.named_modules()
        if isinstance(module, QueryKeyValue)
    }
    tracer = Tracer(tensors, convolutions, bias_units)
    outputs = tensors_in(output := tracer.run(clone, inputs))
    if not outputs:
        raise TypeError(f"its output is a {type(output).__name__} without tensors")
    for tensor in outputs:
        for atoms in tracer.labels(tensor):
            tracer.graph.fix(atoms, "the output of the model")
    _fix_what_projections_narrow(clone, tracer)
    if has_values:
        for call in tracer.calls.values():
            call.args, call.kwargs = without_values((call.args, call.kwargs))
    products = zip(tracer.products, tracer.macs.values(), strict=True)
    return Trace(
        tracer.graph,
        tracer.sources,
        tracer.calls,
        [Contraction(module, macs, labels) for (module, labels), macs in products],
        tracer.unknown_operations,
        type(output).__name__,
        tuple(tuple(tensor.shape) for tensor in outputs),
        [tracer.labels(tensor) for tensor in tracer.tensors],
        has_values,
    )


def _fix_what_projections_narrow(model: nn.Module, tracer: Tracer) -> None:
    """The hidden width of an LSTM with a projection: torch tells such a layer by its being wider than that."""
    for module in model.modules():
        for name, weight in module._parameters.items() if isinstance(module, nn.LSTM) and module.proj_size else ():
            for atoms in tracer.labels(weight) if weight is not None and name.startswith("weight_hr") else ():
                if atoms.shape[1] > 1:
                    tracer.graph.fix(atoms, "must stay wider than its projection")


@dataclass(frozen=True)
class Sizes:
    """What a run at one size of the inputs costs.

    Args:
        macs: Of each of :attr:`Trace.contractions`.
        inputs: Path of a module -> shapes of the tensors in its arguments, or in a list that is one, in their order.
        outputs: Shapes of all tensors that the model gives.
    """

    macs: list[int]
    inputs: dict[str, list[Shape]]
    outputs: tuple[Shape, ...]
    steps: list[Step]


def sizes_at(model: nn.Module, inputs: Inputs) -> Sizes:
    """Run a model without following its channels; ``inputs`` are on the meta device, or have values."""
    clone = stand_in(model, has_values=not all(tensor.is_meta for tensor in inputs.tensors))
    run = _Run((*clone.parameters(), *clone.buffers()))
    outputs = tensors_in(run.run(clone, inputs))
    shapes = tuple(tuple(tensor.shape) for tensor in outputs)
    return Sizes(list(run.macs.values()), run.inputs, shapes, run.steps)
