"""Running a model once, on the meta device, to learn which channels belong together and what its modules do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ofa.inputs import Inputs
from ofa.nn.structure import clone_structure, own_hooks
from ofa.supernet.channels.labels import AtomGraph, Labels
from ofa.supernet.channels.rules import RULES, pointwise, unknown

_PASSES_SHORTCUTS = {
    *("add", "sub", "clone", "detach", "alias", "_to_copy", "contiguous", "view", "_unsafe_view", "reshape", "flatten"),
    *("permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "roll", "constant_pad_nd"),
}


@dataclass(frozen=True)
class Source:
    """Atoms ``first .. first + num`` are the indices of one axis of a parameter or buffer."""

    tensor: str
    axis: int
    first: int
    num: int


@dataclass
class Call:
    """The first call of a module: what went in and out, without values."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[tuple[tuple[int, ...], Labels]]
    output: tuple[int, ...] | None = None
    output_labels: Labels = ()
    input_ids: list[int] = field(default_factory=list)
    output_id: int = 0
    has_shortcut: bool = False
    num_calls: int = 1
    order: int = 0


@dataclass(frozen=True)
class Contraction:
    """A matrix product or convolution: its cost, and which atoms decide the cost of a narrower one.

    All products with one weight are one, such as the steps of a recurrent layer, of which a larger image has more.

    Args:
        module: Path of the module that computes it.
        macs: Multiply-accumulates of the traced run.
        labels: What labels the axes of the product, summed ones included.
        inputs: Which operands come from the image (the others from parameters), and their labels.
        output: Labels of the result.
    """

    module: str
    macs: int
    labels: Labels
    inputs: tuple[tuple[int, Labels], ...]
    output: Labels


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


class _Steps:
    """Records the steps of one run."""

    def __init__(self) -> None:
        self.all: list[Step] = []
        self.tensors: list[Tensor] = []  # by number; alive, so that an id is not used again
        self._numbers: dict[int, int] = {}

    def start(self, *inputs: Tensor) -> None:
        self._add("", "other", (), list(inputs))

    def record(self, module: str, func: Any, operands: Iterable[Any], output: Any) -> None:
        reads = tuple(self._numbers[id(value)] for value in _flat(operands) if id(value) in self._numbers)
        if not reads:
            return
        if isinstance(output, tuple):  # statistics of a normalisation, indices of a pooling: only training needs them
            output = output[0]
        made = [x for x in _flat([output]) if isinstance(x, Tensor) and id(x) not in self._numbers]
        name = func.overloadpacket.__name__
        kind: Kind = "other"
        if name in _VIEWS or (name == "expand" and output.numel() == self.tensors[reads[0]].numel()):
            kind = "view"
        elif torch.Tag.pointwise in func.tags or name == "native_batch_norm":
            kind = "elementwise"
        self._add(module, kind, reads, made)

    def _add(self, module: str, kind: Kind, reads: tuple[int, ...], made: Sequence[Tensor]) -> None:
        writes = []
        for tensor in made:
            self._numbers[id(tensor)] = len(self.tensors)
            writes.append((len(self.tensors), tensor.numel()))
            self.tensors.append(tensor)
        self.all.append(Step(module, kind, reads, tuple(writes)))


@dataclass
class Trace:
    """What one run of a model showed.

    Args:
        tensor_labels: Labels of the tensors that its steps number.
    """

    graph: AtomGraph
    sources: list[Source]
    calls: dict[str, Call]
    contractions: list[Contraction]
    unknown_operations: set[str]
    output_shape: tuple[int, ...]
    tensor_labels: list[Labels]


_CHUNKS = {torch.chunk, Tensor.chunk, torch.tensor_split, Tensor.tensor_split}


class _Functions(TorchFunctionMode):
    """What only a function's name tells, not the operations that it consists of.

    Attention runs as its two products, since fused kernels hide which heads belong together. Chunks keep equal sizes
    when there are fewer channels, which a split at fixed places does not: they are handed to ``on_chunks``.
    """

    def __init__(self, on_chunks: Callable[[Sequence[Tensor]], None] = lambda chunks: None) -> None:
        super().__init__()
        self.on_chunks = on_chunks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is nn.functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        output = func(*args, **kwargs)
        if func in _CHUNKS and not any(isinstance(value, (list, tuple)) for value in (*args, *kwargs.values())):
            self.on_chunks(output)
        return output


def _attention(
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


def run_operation(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operation on tensors without values: its result, without the detours that torch takes to its shape."""
    name = func.overloadpacket.__name__
    plain = name.removesuffix("_")
    if plain not in _KEEPS_SHAPE or kwargs or not args[0].is_meta:
        return func(*args, **kwargs)
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


class QuickMeta(TorchDispatchMode):
    """Runs a model without values, only to see what fits."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return run_operation(func, args, kwargs or {})


class _Products:
    """Numbers products in their order; every product with one weight, such as a recurrent layer's steps, is one."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._storages = {tensor.untyped_storage()._cdata for tensor in tensors}
        self._known: dict[tuple[Any, ...], int] = {}
        self._num = 0

    def number(self, operands: Iterable[Tensor]) -> tuple[int, bool]:
        """The number of a product, and whether it is new."""
        for tensor in operands:
            storage = tensor.untyped_storage()._cdata
            if storage in self._storages:  # parts of a tensor are weights of their own
                weight = (storage, tensor.storage_offset(), tensor.shape, tensor.stride())
                number = self._known.setdefault(weight, self._num)
                break
        else:
            number = self._num
        is_new = number == self._num
        self._num += is_new
        return number, is_new


class _Shapes(TorchDispatchMode):
    """Only steps and the cost of contractions, in their order: the same run at another resolution."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._products = _Products((*model.parameters(), *model.buffers()))
        self.contractions: list[tuple[int, tuple[int, ...], int]] = []
        self.stack: list[str] = [""]
        self.steps = _Steps()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = run_operation(func, args, kwargs or {})
        self.steps.record(self.stack[-1], func, (*args, *(kwargs or {}).values()), output)
        name = func.overloadpacket.__name__
        if name == "convolution":
            x, weight = args[0], args[1]
            positions = prod((x if args[6] else output).shape[2:]) * x.shape[0]
            self._record(weight.numel() * positions, (x,), output, weight)
        elif name in ("mm", "bmm", "addmm", "baddbmm", "linear"):
            first, second = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
            macs = output.numel() * first.shape[-1]
            self._record(macs, (first, second), output, first, second)
        return output

    def _record(self, macs: int, inputs: Sequence[Tensor], output: Tensor, *operands: Tensor) -> None:
        sizes, num = tuple(x.numel() for x in inputs), output.numel()
        number, is_new = self._products.number(operands)
        if is_new:
            self.contractions.append((macs, sizes, num))
        else:
            before, largest, most = self.contractions[number]
            self.contractions[number] = (before + macs, tuple(map(max, largest, sizes)), max(most, num))


class Tracer(TorchDispatchMode):
    """Follows channels through every operation; :func:`trace` runs it."""

    def __init__(self, tensors: Mapping[str, Tensor], convolution_weights: set[str]) -> None:
        super().__init__()
        self.graph = AtomGraph()
        self.sources: list[Source] = []
        self.contractions: list[Contraction] = []
        self.unknown_operations: set[str] = set()
        self.stack: list[str] = [""]
        self.steps = _Steps()
        self._products = _Products(tensors.values())
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._convolution_weights = convolution_weights
        self._labels: dict[int, Labels] = {}
        self._shortcuts: dict[int, frozenset[int]] = {}
        self._from_image: set[int] = set()
        self._alive: list[Any] = list(tensors.values())  # an id must not be used again

    # -- what rules ask for -------------------------------------------------------------------------------------------

    def labels(self, tensor: Tensor) -> Labels:
        known = self._labels.get(id(tensor))
        if known is None:
            name = self._names.get(id(tensor))
            known = () if name is None else self._of_parameter(name, tensor)
            self._labels[id(tensor)] = known
            self._alive.append(tensor)
        return known

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
                shape = [1] * tensor.ndim
                shape[axis] = num
                labels.append(atoms.reshape(shape))
        return tuple(labels)

    def tie_chunks(self, chunks: Sequence[Tensor]) -> None:
        """Equal parts that stay equal; other parts must stay as they are."""
        first = chunks[0]
        for chunk in chunks[1:]:
            for mine, theirs in zip(self.labels(first), self.labels(chunk), strict=True):
                if mine.shape == theirs.shape:
                    self.graph.tie(mine, theirs)
                else:
                    self.graph.fix(mine, "chunks of unequal size")
                    self.graph.fix(theirs, "chunks of unequal size")

    def record(
        self, macs: int, labels: Sequence[Labels], inputs: Sequence[Tensor], output: Tensor, *operands: Tensor
    ) -> None:
        """A product: its cost, what labels it, what comes from the image, the result, and where a weight may be."""
        number, is_new = self._products.number(operands)
        if not is_new:
            known = self.contractions[number]
            self.contractions[number] = replace(known, macs=known.macs + macs)
            return
        flat = tuple(atoms for each in labels for atoms in each)
        of_inputs = tuple((i, self.labels(x)) for i, x in enumerate(inputs) if id(x) in self._from_image)
        self.contractions.append(Contraction(self.stack[-1], macs, flat, of_inputs, labels[0]))

    # -- dispatch -----------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        output = run_operation(func, args, kwargs)
        self.steps.record(self.stack[-1], func, (*args, *kwargs.values()), output)
        self._alive.append(output)
        if any(id(value) in self._from_image for value in _flat((*args, *kwargs.values()))):
            self._from_image.update(id(value) for value in _flat([output]))
        name = func.overloadpacket.__name__
        rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = pointwise
        if rule is not None:
            labels = rule(self, tuple(args), kwargs, output)
        else:
            if any(self.labels(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)):
                self.unknown_operations.add(name)
            labels = unknown(self, tuple(args), kwargs, output, name)
        if isinstance(output, Tensor):
            self._labels[id(output)] = labels
            self._pass_shortcuts(name.removesuffix("_"), args, output, is_pointwise=rule is pointwise)
        elif isinstance(output, (list, tuple)):
            for tensor, each in zip(output, labels, strict=False):
                if isinstance(tensor, Tensor):
                    self._labels[id(tensor)] = each
        return output

    def _pass_shortcuts(self, name: str, args: Sequence[Any], output: Tensor, *, is_pointwise: bool) -> None:
        """Which earlier tensors reach ``output`` by nothing but additions, copies, scaling and activations."""
        activations = [tensor for tensor in args if isinstance(tensor, Tensor) and id(tensor) in self._shortcuts]
        reached = frozenset({id(output)})
        if name in _PASSES_SHORTCUTS or (is_pointwise and len(activations) == 1):
            reached = reached.union(*(self._shortcuts[id(tensor)] for tensor in activations))
        self._shortcuts[id(output)] = reached

    def shortcuts(self, tensor: Tensor) -> frozenset[int]:
        return self._shortcuts.get(id(tensor), frozenset())

    def start(self, tensor: Tensor) -> None:
        """A tensor enters a module: from here on it is known whether a shortcut hands it on."""
        self._from_image.add(id(tensor))
        self._shortcuts[id(tensor)] = frozenset({id(tensor)})
        self._alive.append(tensor)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def on_meta(model: nn.Module) -> nn.Module:
    """The model's structure in eval mode, its tensors without values."""
    clone = clone_structure(model).to("meta").eval()
    own_hooks(clone)
    return clone


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Run a model once and follow its channels.

    Args:
        inputs: On the meta device.

    Raises:
        Whatever the model raises on such inputs.
    """
    clone = on_meta(model)
    tensors = {**dict(clone.named_parameters()), **dict(clone.named_buffers())}
    convolutions = {
        f"{path}.weight".removeprefix(".")
        for path, module in clone.named_modules()
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d))
    }
    tracer = Tracer(tensors, convolutions)
    calls: dict[str, Call] = {}

    def enter(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tracer.stack.append(path)
        if path in calls:
            calls[path].num_calls += 1
            return
        flat = [value for value in _flat((*args, *kwargs.values())) if isinstance(value, Tensor)]
        calls[path] = Call(args, kwargs, [(tuple(t.shape), tracer.labels(t)) for t in flat], order=len(calls))
        calls[path].input_ids = [id(tensor) for tensor in flat]
        for tensor in flat:
            if not tracer.shortcuts(tensor):
                tracer.start(tensor)

    def leave(path: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        tracer.stack.pop()
        call = calls[path]
        if isinstance(output, (list, tuple)) and output:  # the first is what flows on: (tokens, their grid)
            output = output[0]
        if call.output is None and isinstance(output, Tensor):
            call.output, call.output_labels = tuple(output.shape), tracer.labels(output)
            call.output_id = id(output)
            first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            if first is not None and first is not output and first.shape == output.shape:
                call.has_shortcut = id(first) in tracer.shortcuts(output)

    for path, module in clone.named_modules():
        module.register_forward_pre_hook(
            lambda module, args, kwargs, path=path: enter(path, module, args, kwargs), with_kwargs=True
        )
        module.register_forward_hook(
            lambda module, args, kwargs, output, path=path: leave(path, args, kwargs, output), with_kwargs=True
        )
    tracer.steps.start(*inputs.tensors)
    with quiet(), _Functions(tracer.tie_chunks), tracer:
        output = inputs.call(clone)
    if not isinstance(output, Tensor):
        raise TypeError(f"its output is a {type(output).__name__}, not one tensor")
    for atoms in tracer.labels(output):
        tracer.graph.fix(atoms, "the output of the model")
    return Trace(
        tracer.graph,
        tracer.sources,
        calls,
        tracer.contractions,
        tracer.unknown_operations,
        tuple(output.shape),
        [tracer.labels(tensor) for tensor in tracer.steps.tensors],
    )


@dataclass(frozen=True)
class Sizes:
    """What a run at one size of the inputs costs.

    Args:
        contractions: In the order of :attr:`Trace.contractions`: MACs, elements of each input, elements of the output.
        inputs: Path of a module -> shapes of the tensors in its first argument: one, or those of a list.
        output: Shape of the logits.
        steps: In their order.
    """

    contractions: list[tuple[int, tuple[int, ...], int]]
    inputs: dict[str, list[tuple[int, ...]]]
    output: tuple[int, ...]
    steps: list[Step]


def sizes_at(model: nn.Module, inputs: Inputs) -> Sizes:
    """Run a model without values, without following its channels; ``inputs`` are on the meta device."""
    clone = on_meta(model)
    run = _Shapes(clone)
    shapes_in: dict[str, list[tuple[int, ...]]] = {}

    def enter(path: str, args: tuple[Any, ...]) -> None:
        run.stack.append(path)
        shapes = [tuple(value.shape) for value in _flat(args[:1]) if isinstance(value, Tensor)]
        shapes_in.setdefault(path, shapes)

    def leave(*_: Any) -> None:
        run.stack.pop()

    for path, module in clone.named_modules():
        module.register_forward_pre_hook(lambda module, args, path=path: enter(path, args))
        module.register_forward_hook(leave)
    run.steps.start(*inputs.tensors)
    with quiet(), _Functions(), run:
        output = inputs.call(clone)
    return Sizes(run.contractions, shapes_in, tuple(output.shape), run.steps.all)
