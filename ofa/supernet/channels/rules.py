"""What each operation does to the channels of its operands.

One function per kind of operation and one line in :data:`RULES` per operator. Pointwise operators need no line: torch
tags them. An operator without a rule fixes the channels that enter it, which is safe: nothing is narrowed that it saw.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ofa.supernet.channels.labels import FIXED, AtomGraph, Atoms, Labels, Operand, align, axes_of, covers, reshape


class Context(Protocol):
    """What a rule needs of the tracer."""

    graph: AtomGraph

    def labels(self, tensor: Tensor) -> Labels: ...

    def record(
        self, macs: int, labels: Sequence[Labels], inputs: Sequence[Tensor], output: Tensor, *operands: Tensor
    ) -> None:
        """Note a contraction: a matrix product or convolution."""
        ...


Rule = Callable[[Context, tuple[Any, ...], Mapping[str, Any], Any], Any]
"""``(context, args, kwargs, output) -> labels`` of the output, or a list of labels where there are several outputs."""


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], index: int, name: str, default: Any = None) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


def axis_of(axis: int, tensor: Tensor) -> int:
    return axis % max(tensor.ndim, 1)


# -- elementwise -----------------------------------------------------------------------------------------------------


def pointwise(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Labels:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    num_axes = max((tensor.ndim for tensor in tensors), default=0)
    operands = [align(context.labels(tensor), tensor.shape, num_axes) for tensor in tensors]
    return context.graph.join(operands, "combined elementwise with a constant of fixed size") if operands else ()


def prelu(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    x, weight = args[0], args[1]
    if weight.ndim == 1:
        channels_first = [1] * x.ndim
        channels_first[min(1, x.ndim - 1)] = weight.numel()
        labels = tuple(atoms.reshape(channels_first) for atoms in context.labels(weight))
        operands = [Operand(context.labels(x), tuple(x.shape)), Operand(labels, tuple(channels_first))]
        return context.graph.join(operands, "PReLU")
    return pointwise(context, args, kwargs, output)


def same(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    """A copy, or a new tensor of the same shape."""
    labels = context.labels(args[0])
    return labels if isinstance(output, Tensor) else [labels for _ in output]


def unlabelled(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Labels:
    return ()


def copy_into(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    source = context.labels(args[1])
    for atoms in source:  # the target may be a view of something larger
        context.graph.fix(atoms, "written into another tensor")
    return context.labels(args[0])


# -- moving data -----------------------------------------------------------------------------------------------------


def view(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    return reshape(context.graph, context.labels(args[0]), args[0].shape, output.shape, "flattened together")


def permute(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    order = [axis_of(axis, args[0]) for axis in argument(args, kwargs, 1, "dims")]
    return tuple(atoms.transpose(order) for atoms in context.labels(args[0]))


def transpose(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    first, second = axis_of(args[1], args[0]), axis_of(args[2], args[0])
    return tuple(np.swapaxes(atoms, first, second) for atoms in context.labels(args[0]))


def matrix_transpose(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    return tuple(atoms.T for atoms in context.labels(args[0]))


def expand(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    return align(context.labels(args[0]), args[0].shape, output.ndim).labels


def unsqueeze(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    axis = args[1] % output.ndim
    return tuple(np.expand_dims(atoms, axis) for atoms in context.labels(args[0]))


def squeeze(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    x = args[0]
    wanted = argument(args, kwargs, 1, "dim")
    wanted = range(x.ndim) if wanted is None else [wanted] if isinstance(wanted, int) else wanted
    axes = tuple(axis_of(axis, x) for axis in wanted if x.shape[axis_of(axis, x)] == 1)
    return tuple(np.squeeze(atoms, axes) for atoms in context.labels(x))


def _pick(graph: AtomGraph, labels: Labels, axis: int, indices: Sequence[int] | Atoms) -> Labels:
    """Labels where some ascending indices of one axis are taken."""
    result = []
    for atoms in labels:
        if atoms.shape[axis] > 1:
            atoms = atoms.take(indices, axis)
            if atoms.size == 1:
                graph.fix(atoms, "a channel that is picked by its number")
                continue
        result.append(atoms)
    return tuple(result)


def _cut(graph: AtomGraph, labels: Labels, axis: int, places: Iterable[int]) -> None:
    """Note where code cuts an axis."""
    for atoms in labels:
        size = atoms.shape[axis]
        graph.boundaries += [(atoms, axis, place) for place in places if 0 < place < size]


def _at(graph: AtomGraph, labels: Labels, axis: int, index: int) -> Labels:
    """Labels of one index of an axis, which is gone."""
    graph.parts += [atoms.take([index], axis) for atoms in labels if atoms.shape[axis] > 1]
    return tuple(np.squeeze(atoms, axis) for atoms in _pick(graph, labels, axis, [index]))


def select(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    axis, index, labels = axis_of(args[1], args[0]), int(args[2]), context.labels(args[0])
    if index < 0:
        _from_the_end(context.graph, labels, axis, index)
    return _at(context.graph, labels, axis, index)


def _from_the_end(graph: AtomGraph, labels: Labels, axis: int, index: int) -> None:
    """A narrower axis ends elsewhere."""
    for atoms in labels:
        if atoms.shape[axis] > 1:
            graph.fix(atoms.take(range(atoms.shape[axis] + index, atoms.shape[axis]), axis), "counted from the end")


def slice_(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    x, graph = args[0], context.graph
    axis, labels = axis_of(argument(args, kwargs, 1, "dim", 0), x), context.labels(x)
    start, end, step = (argument(args, kwargs, i + 2, n) for i, n in enumerate(("start", "end", "step")))
    for place in (start or 0, end or 0):
        if place < 0:
            _from_the_end(graph, labels, axis, max(place, -x.shape[axis]))
        else:
            _cut(graph, labels, axis, [place])
    return _pick(graph, labels, axis, np.arange(x.shape[axis])[slice(start, end, step or 1)])


def split(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Sequence[Tensor]) -> list[Labels]:
    axis, labels = axis_of(argument(args, kwargs, 2, "dim", 0), args[0]), context.labels(args[0])
    bounds = np.cumsum([0] + [part.shape[axis] for part in output]).tolist()
    _cut(context.graph, labels, axis, bounds)
    return [_pick(context.graph, labels, axis, range(a, b)) for a, b in itertools.pairwise(bounds)]


def unbind(
    context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Sequence[Tensor]
) -> list[Labels]:
    axis, labels = axis_of(argument(args, kwargs, 1, "dim", 0), args[0]), context.labels(args[0])
    return [_at(context.graph, labels, axis, index) for index in range(len(output))]


def glu(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    """The first half of an axis times the sigmoid of the second."""
    axis, labels = axis_of(argument(args, kwargs, 1, "dim", -1), args[0]), context.labels(args[0])
    half = output.shape[axis]
    halves = (_pick(context.graph, labels, axis, range(a, a + half)) for a in (0, half))
    return context.graph.join([Operand(each, tuple(output.shape)) for each in halves], "gated")


def cat(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    tensors = [tensor for tensor in args[0] if tensor.ndim == output.ndim]
    axis = axis_of(argument(args, kwargs, 1, "dim", 0), output)
    return _concatenated(context, [context.labels(t) for t in tensors], [tuple(t.shape) for t in tensors], axis)


def stack(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    axis = argument(args, kwargs, 1, "dim", 0) % output.ndim
    labels = [tuple(np.expand_dims(atoms, axis) for atoms in context.labels(tensor)) for tensor in args[0]]
    sizes = [(*tensor.shape[:axis], 1, *tensor.shape[axis:]) for tensor in args[0]]
    return _concatenated(context, labels, sizes, axis)


def _concatenated(context: Context, labels: Sequence[Labels], sizes: Sequence[tuple[int, ...]], axis: int) -> Labels:
    graph, reason = context.graph, "concatenated with something of fixed size"
    arrays: list[Atoms | None] = []  # what labels the axis, one array per tensor
    others: list[Labels] = []
    for each in labels:
        along = [atoms for atoms in each if atoms.shape[axis] > 1]
        if along and len(axes_of(along[0])) > 1:  # heads × head size after another: keep what is common
            each = graph.whole(each, [axis], reason)
            along = []
        arrays.append(along[0] if along else None)
        others.append(tuple(atoms for atoms in each if atoms.shape[axis] == 1))
    flat = [tuple(1 if i == axis else size for i, size in enumerate(shape)) for shape in sizes]
    result = graph.join([Operand(other, size) for other, size in zip(others, flat, strict=True)], reason)
    if any(array is not None for array in arrays):
        pieces = []
        for array, shape in zip(arrays, sizes, strict=True):
            size = [1] * len(shape)
            size[axis] = shape[axis]
            pieces.append(np.full(size, FIXED, dtype=np.int64) if array is None else array)
        result = (*result, np.concatenate(pieces, axis))
    return result


def index(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    """Advanced indexing with constants: indexed axes are fixed, the others move along."""
    x, indices = args[0], list(args[1])
    labels = context.labels(x)
    places = [axis for axis, entry in enumerate(indices) if entry is not None]
    adjacent = places == list(range(places[0], places[-1] + 1)) if places else True
    if any(entry is not None and entry.dtype in (torch.bool, torch.uint8) for entry in indices) or not adjacent:
        return unknown(context, args, kwargs, output)
    labels = context.graph.whole(labels, places, "picked by constant indices")
    num_new = output.ndim - (x.ndim - len(places))
    start = places[0] if places else 0
    return tuple(
        atoms.reshape(atoms.shape[:start] + (1,) * num_new + atoms.shape[start + len(places) :]) for atoms in labels
    )


def index_axis(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    return _without_axis(context, args[0], axis_of(args[1], args[0]), "picked by constant indices")


def gather(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    labels = index_axis(context, args, kwargs, output)
    fewer = [axis for axis, size in enumerate(output.shape) if size < args[0].shape[axis]]
    return context.graph.whole(labels, fewer, "picked by constant indices")


def _without_axis(context: Context, x: Tensor, axis: int, reason: str) -> Labels:
    return context.graph.whole(context.labels(x), [axis], reason)


def embedding(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    labels = _without_axis(context, args[0], 0, "picked by constant indices")
    return align(tuple(atoms.reshape(atoms.shape[1:]) for atoms in labels), output.shape[-1:], output.ndim).labels


def pad(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    x, amounts = args[0], list(args[1])
    width = [(0, 0)] * (x.ndim - len(amounts) // 2) + list(zip(amounts[-2::-2], amounts[::-2], strict=True))

    def padded(atoms: Atoms) -> Atoms:
        for axis in axes_of(atoms):
            before, after = width[axis]
            if before < 0 or after < 0:
                atoms = atoms.take(range(max(0, -before), atoms.shape[axis] - max(0, -after)), axis)
        own = [pair if atoms.shape[axis] > 1 else (0, 0) for axis, pair in enumerate(width)]
        return np.pad(atoms, [(max(0, a), max(0, b)) for a, b in own], constant_values=FIXED)

    return tuple(padded(atoms) for atoms in context.labels(x))


def repeat(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    labels = align(context.labels(args[0]), args[0].shape, output.ndim).labels
    return tuple(
        np.tile(atoms, [n if atoms.shape[axis] > 1 else 1 for axis, n in enumerate(args[1])]) for atoms in labels
    )


def roll(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    """What leaves at the end enters in front, and a narrower axis ends elsewhere: it must be whole."""
    axes = [axis_of(axis, args[0]) for axis in argument(args, kwargs, 2, "dims", [])] or range(output.ndim)
    return context.graph.whole(context.labels(args[0]), axes, "rolled")


def flip(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    axes = tuple(axis_of(axis, args[0]) for axis in args[1])
    return tuple(np.flip(atoms, axes) for atoms in context.labels(args[0]))


def sliding_window(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    labels = _without_axis(context, args[0], axis_of(args[1], args[0]), "cut into windows")
    return tuple(atoms[..., None] for atoms in labels)


def im2col(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    """``(N, C, H, W)`` to ``(N, C * k * k, positions)``."""
    labels = _spatial_free(context, args[0], 2, "cut into patches")
    times = prod(args[1])
    return tuple((np.repeat(atoms, times, axis=1) if atoms.shape[1] > 1 else atoms)[..., 0] for atoms in labels)


def pixel_shuffle(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    """``(N, C * r * r, H, W)`` to ``(N, C, H * r, W * r)``: the ``r * r`` channels of an output channel are tied."""
    factor = int(args[1])
    result = []
    for atoms in _spatial_free(context, args[0], 2, "pixels shuffled"):
        if atoms.shape[1] > 1:
            grouped = atoms.reshape(atoms.shape[0], -1, factor * factor, 1)
            context.graph.tie(grouped, grouped[:, :, :1])
            if grouped.shape[:2] == (1, 1):
                context.graph.fix(grouped, "pixels shuffled into one channel")
            atoms = grouped[:, :, :1]
        result.append(atoms)
    return tuple(atoms for atoms in result if atoms.size > 1)


def as_strided(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    """The same tensor, or something that no rule can follow."""
    if args[0].shape == output.shape and args[0].stride() == output.stride():
        return context.labels(args[0])
    return unknown(context, args, kwargs, output, "as_strided")


# -- reductions and normalisation ------------------------------------------------------------------------------------


def _axes(x: Tensor, axes: Any) -> list[int]:
    if axes is None or axes == [] or isinstance(axes, bool):  # ``var(x, unbiased)`` has no axes
        return list(range(x.ndim))
    return [axis_of(axis, x) for axis in ([axes] if isinstance(axes, int) else axes)]


def reduction(dim: int, keepdim: int) -> Rule:
    """Rule of an operator whose arguments at these positions are ``dim`` and ``keepdim``."""

    def rule(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        axes = _axes(args[0], argument(args, kwargs, dim, "dim"))
        labels = context.graph.reduce(context.labels(args[0]), axes)
        if not argument(args, kwargs, keepdim, "keepdim", False):
            labels = tuple(np.squeeze(atoms, tuple(axes)) for atoms in labels)
        return labels if isinstance(output, Tensor) else [labels for _ in output]

    return rule


def along_axis(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    """Softmax: the shape stays, elements along one axis mix."""
    x = args[0]
    axis = axis_of(argument(args, kwargs, 1, "dim", -1), x)
    labels = context.labels(x)
    for atoms in labels:
        if atoms.shape[axis] > 1 and len(axes_of(atoms)) > 1:
            context.graph.tie(atoms, atoms.take([0], axis))
    return labels


def cumulative(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    """Sums of what comes before, so that the last can go but none can change places."""
    axis = axis_of(argument(args, kwargs, 1, "dim", -1), args[0])
    context.graph.ordered += [atoms for atoms in context.labels(args[0]) if axes_of(atoms) == (axis,)]
    return along_axis(context, args, kwargs, output)


def sort(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Sequence[Tensor]) -> list[Labels]:
    axis = axis_of(argument(args, kwargs, 1, "dim", -1), args[0])
    labels = _without_axis(context, args[0], axis, "sorted")
    return [labels for _ in output]


def batch_norm(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> list[Labels]:
    x = args[0]
    operands = [Operand(context.labels(x), tuple(x.shape))]
    for vector in (argument(args, kwargs, i, "") for i in range(1, 5)):
        if isinstance(vector, Tensor):
            operands.append(_per_channel(context, vector, x, 1))
    return [context.graph.join(operands, "batch normalisation"), *[()] * (len(output) - 1)]


def _per_channel(context: Context, vector: Tensor, x: Tensor, axis: int) -> Operand:
    shape = [1] * x.ndim
    shape[axis] = vector.numel()
    return Operand(tuple(atoms.reshape(shape) for atoms in context.labels(vector)), tuple(shape))


def layer_norm(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    x, normalised = args[0], args[1]
    axes = range(x.ndim - len(normalised), x.ndim)
    labels = context.labels(x)
    for atoms in labels:
        mixed = [axis for axis in axes_of(atoms) if axis in axes]
        for axis in mixed if len(mixed) < len(axes_of(atoms)) else []:
            context.graph.tie(atoms, atoms.take([0], axis))
    operands = [Operand(labels, tuple(x.shape))]
    vectors = [value for value in args[2:4] if isinstance(value, Tensor)]
    operands += [align(context.labels(vector), vector.shape, x.ndim) for vector in vectors]
    if not vectors:  # its size is a number in the module: nothing says how to narrow it
        operands.append(Operand((), tuple(x.shape[a] if a in axes else 1 for a in range(x.ndim))))
    result = context.graph.join(operands, "layer normalisation without weights")
    return result if isinstance(output, Tensor) else [result, *[()] * (len(output) - 1)]


def group_norm(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> list[Labels]:
    x, num_groups = args[0], int(args[6])
    operands = [Operand(context.labels(x), tuple(x.shape))]
    operands += [_per_channel(context, vector, x, 1) for vector in args[1:3] if isinstance(vector, Tensor)]
    labels = context.graph.join(operands, "group normalisation")
    if num_groups > 1 and len(operands) == 1:  # their number is in the module: nothing says how to narrow it
        labels = context.graph.whole(labels, [1], "group normalisation without weights")
    if num_groups > 1:
        labels = tuple(_whole_groups(context.graph, atoms, num_groups) for atoms in labels)
    return [labels, (), ()]


def _whole_groups(graph: AtomGraph, atoms: Atoms, num_groups: int) -> Atoms:
    if atoms.shape[1] > 1:
        grouped = atoms.reshape(atoms.shape[0], num_groups, -1, *atoms.shape[2:])
        graph.tie(grouped, grouped[:, :, :1])
    return atoms


# -- spatial ---------------------------------------------------------------------------------------------------------


def _spatial_free(context: Context, x: Tensor, first: int, reason: str) -> Labels:
    return context.graph.whole(context.labels(x), range(first, x.ndim), reason)


def spatial(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    """Pooling and resizing of the trailing axes, channel by channel."""
    first = output if isinstance(output, Tensor) else output[0]
    num_spatial = 1 if first.ndim == 2 else min(first.ndim - 1, 2)
    labels = _spatial_free(context, args[0], args[0].ndim - num_spatial, "pooled over channels")
    return labels if isinstance(output, Tensor) else [labels for _ in output]


# -- contractions ----------------------------------------------------------------------------------------------------


def contract(context: Context, equation: str, first: Tensor, second: Tensor, output: Tensor) -> Labels:
    """A product of two tensors, summed over what the result lacks.

    Args:
        equation: As in ``einsum``, for two operands: ``bmk,bkn->bmn``.
    """
    graph = context.graph
    inputs, out = equation.split("->")
    a, b = inputs.split(",")
    letters = "".join(dict.fromkeys(a + b))
    sizes = {**dict(zip(a, first.shape, strict=True)), **dict(zip(b, second.shape, strict=True))}

    def spread(labels: Labels, own: str, tensor: Tensor) -> Operand:
        """The operand on one axis per letter."""
        order = [own.index(letter) for letter in letters if letter in own]
        where = tuple(index for index, letter in enumerate(letters) if letter not in own)
        arrays = tuple(np.expand_dims(atoms.transpose(order), where) for atoms in labels)
        return Operand(arrays, tuple(sizes[letter] if letter in own else 1 for letter in letters))

    left, right = spread(context.labels(first), a, first), spread(context.labels(second), b, second)
    summed = [index for index, letter in enumerate(letters) if letter not in out]
    free = [i for i, letter in enumerate(letters) if letter in out and (letter in a) != (letter in b)]
    reason = "multiplied with something of fixed size"
    both: list[list[Atoms]] = [list(left.labels), list(right.labels)]
    whole: list[Atoms] = []  # labels of summed axes that can be narrowed alone
    for axis in summed:
        mine, theirs = ([atoms for atoms in side if atoms.shape[axis] > 1] for side in both)
        alone = [bool(found) and axes_of(found[0]) == (axis,) for found in (mine, theirs)]
        if all(alone):
            graph.tie(mine[0], theirs[0])
            whole.append(mine[0])
        elif mine and theirs and axes_of(mine[0]) == axes_of(theirs[0]) and not set(axes_of(mine[0])) & set(free):
            graph.tie(mine[0], theirs[0])
        for side, found in zip(both, (mine, theirs), strict=True):
            for atoms in found:
                side[:] = [other for other in side if other is not atoms]
                if not all(alone):
                    side.extend(graph.collapse(atoms, axis, reason))
    # Two sides that label a common axis together with different free ones keep only what is common.
    operands = [
        Operand(tuple(side), tuple(1 if i in summed else size for i, size in enumerate(operand.sizes)))
        for side, operand in zip(both, (left, right), strict=True)
    ]
    for axis, letter in enumerate(letters):
        if letter in a and letter in b and letter in out:
            heads = [atoms for side in both for atoms in side if atoms.shape[axis] > 1]
            graph.heads += heads
    labels = graph.join(operands, reason)
    order = [letters.index(letter) for letter in out]
    drop = tuple(i for i in range(len(letters)) if letters[i] not in out)
    result = tuple(np.squeeze(atoms, drop).transpose(_ranks(order)) for atoms in labels)
    context.record(prod(sizes.values()), [labels, tuple(whole)], [first, second], output, first, second)
    return result


def _ranks(order: Sequence[int]) -> list[int]:
    """``order`` counted among itself: axes after others were dropped."""
    return [sorted(order).index(axis) for axis in order]


def mm(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    return contract(context, "mk,kn->mn", args[0], args[1], output)


def bmm(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    return contract(context, "bmk,bkn->bmn", args[0], args[1], output)


def addmm(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    equation = "mk,kn->mn" if output.ndim == 2 else "bmk,bkn->bmn"
    product = Operand(contract(context, equation, args[1], args[2], output), tuple(output.shape))
    added = align(context.labels(args[0]), args[0].shape, output.ndim)
    return context.graph.join([product, added], "combined elementwise with a constant of fixed size")


def linear(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    x, weight, bias = args[0], args[1], argument(args, kwargs, 2, "bias")
    rows = "abcdefg"[: x.ndim - 1]
    labels = contract(context, f"{rows}y,zy->{rows}z", x, weight, output)
    if bias is None:
        return labels
    operands = [Operand(labels, tuple(output.shape)), align(context.labels(bias), bias.shape, output.ndim)]
    return context.graph.join(operands, "linear layer")


def convolution(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Labels:
    x, weight, bias, stride, _, _, transposed, _, groups = args[:9]
    graph = context.graph
    labels = context.labels(x)
    weights = graph.whole(context.labels(weight), range(2, weight.ndim), "the window of a convolution")
    for atoms in weights:
        if len(axes_of(atoms)) > 1:
            graph.fix(atoms, "a convolution whose weight is computed")
    if any(covers(labels, axis) for axis in range(2, x.ndim)):
        if _slides_over_channels(labels, x, output, stride):
            graph.ordered.extend(labels)
            for atoms in weights:
                graph.fix(atoms, "slides over channels")
            return labels
        labels = _spatial_free(context, x, 2, "convolved over channels")
    if any(len(axes_of(atoms)) > 1 for atoms in labels):  # heads as part of the batch
        labels = graph.whole(labels, [1], "convolved over channels")
    of_batch = tuple(atoms for atoms in labels if atoms.shape[1] == 1)
    inputs = next((atoms.reshape(-1) for atoms in labels if atoms.shape[1] > 1), None)
    by_axis = {axes_of(atoms)[0]: atoms.reshape(-1) for atoms in weights if len(axes_of(atoms)) == 1}
    outputs, summed = _tie_convolution(graph, inputs, by_axis, groups, transposed)
    result: Labels = ()
    if outputs is not None and outputs.size > 1:
        result = (outputs.reshape(1, -1, *[1] * (output.ndim - 2)),)
    if isinstance(bias, Tensor) and result:
        result = graph.join(
            [Operand(result, tuple(output.shape)), _per_channel(context, bias, output, 1)], "a convolution's bias"
        )
    result = (*of_batch, *result)
    window = prod(weight.shape[2:])
    positions = prod((x if transposed else output).shape[2:])
    macs = x.shape[1] * output.shape[1] // groups * window * positions * x.shape[0]
    context.record(macs, [result, summed], [x], output, weight)
    return result


def _tie_convolution(
    graph: AtomGraph, inputs: Atoms | None, by_axis: Mapping[int, Atoms], groups: int, transposed: bool
) -> tuple[Atoms | None, Labels]:
    """Tie what enters a convolution to the axes of its weight: the atoms of its output, and of what is summed over."""
    outputs = by_axis.get(1 if transposed else 0)
    if groups == 1:
        own = by_axis.get(0 if transposed else 1)
        if inputs is not None and own is not None:
            graph.tie(inputs, own)
            return outputs, (own,)
        _fix_lone(graph, inputs, own)
        return outputs, ()
    if transposed:
        for atoms in by_axis.values():
            graph.fix(atoms, "a transposed convolution in groups")
        outputs = None
    elif 1 in by_axis:
        graph.fix(by_axis[1], "the width of a convolution's groups")
    if inputs is None or outputs is None:
        _fix_lone(graph, inputs, outputs)
    else:
        entering, leaving = inputs.reshape(groups, -1), outputs.reshape(groups, -1)
        graph.tie(entering, entering[:, :1])
        graph.tie(leaving, entering[:, :1])
    return outputs, ()


def _fix_lone(graph: AtomGraph, *sides: Atoms | None) -> None:
    for atoms in sides:
        if atoms is not None:
            graph.fix(atoms, "a convolution of something of fixed size")


def _slides_over_channels(labels: Labels, x: Tensor, output: Tensor, stride: Sequence[int]) -> bool:
    """A one-dimensional convolution along the channel axis that keeps its length: efficient channel attention."""
    return x.ndim == 3 and x.shape == output.shape and x.shape[1] == 1 and list(stride) == [1] and len(labels) == 1


def unknown(context: Context, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, name: str = "") -> Any:
    """An operation that no rule knows: what enters it must stay as it is."""
    flat = [
        entry
        for value in (*args, *kwargs.values())
        for entry in (value if isinstance(value, (list, tuple)) else [value])
    ]
    for value in flat:
        if isinstance(value, Tensor):
            for atoms in context.labels(value):
                context.graph.fix(atoms, f"operation {name or 'unknown'}")
    return () if isinstance(output, Tensor) else [() for _ in output] if isinstance(output, (list, tuple)) else ()


RULES: dict[str, Rule] = {
    # copies and constants
    **dict.fromkeys(("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "native_dropout"), same),
    **dict.fromkeys(
        ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "fill_", "zero_"), same
    ),
    **dict.fromkeys(
        ("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "scalar_tensor"), unlabelled
    ),
    **dict.fromkeys(("zeros", "ones", "full", "empty", "arange", "linspace", "eye"), unlabelled),
    "copy_": copy_into,
    # activations that torch does not tag as pointwise
    **dict.fromkeys(("hardswish", "hardsigmoid", "hardtanh", "silu", "gelu", "elu", "leaky_relu", "mish"), pointwise),
    # moving data
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten"), view),
    "as_strided": as_strided,
    "permute": permute,
    "transpose": transpose,
    "t": matrix_transpose,
    "expand": expand,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "select": select,
    "slice": slice_,
    "split": split,
    "split_with_sizes": split,
    "unbind": unbind,
    "glu": glu,
    "cat": cat,
    "stack": stack,
    "index": index,
    "index_select": index_axis,
    "gather": gather,
    "embedding": embedding,
    "constant_pad_nd": pad,
    **dict.fromkeys(("reflection_pad2d", "replication_pad2d"), spatial),
    "repeat": repeat,
    "roll": roll,
    "flip": flip,
    "unfold": sliding_window,
    "im2col": im2col,
    "pixel_shuffle": pixel_shuffle,
    # reductions and normalisation
    **dict.fromkeys(("mean", "sum", "amax", "amin", "logsumexp", "max", "min"), reduction(1, 2)),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), reduction(1, 3)),
    **dict.fromkeys(("linalg_vector_norm", "norm"), reduction(2, 3)),
    **dict.fromkeys(("_softmax", "_log_softmax"), along_axis),
    "cumsum": cumulative,
    "sort": sort,
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training"), batch_norm),
    "native_layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "_fused_rms_norm": layer_norm,
    "native_group_norm": group_norm,
    # spatial
    **dict.fromkeys(("avg_pool2d", "max_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d"), spatial),
    **dict.fromkeys(("adaptive_max_pool2d", "avg_pool1d", "upsample_nearest2d", "upsample_bilinear2d"), spatial),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"), spatial),
    "prelu": prelu,
    "_prelu_kernel": prelu,
    # contractions
    "mm": mm,
    "bmm": bmm,
    "addmm": addmm,
    "baddbmm": addmm,
    "linear": linear,
    "convolution": convolution,
}
