"""What each operation does to the channels of its operands.

One function per kind of operation and one line in :data:`RULES` per operator. Pointwise operators need no line: torch
tags them. An operator without a rule fixes the channels that enter it, which is safe: nothing is narrowed that it saw.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ofa.supernet.channels.labels import FIXED, AtomGraph, Atoms, Labels, Operand, align, axes_of, covers, reshape

CONSTANT = "combined elementwise with a constant of fixed size"


@dataclass
class Operation:
    """A call of an operator.

    Args:
        output: What it gave: a tensor, or several.
        labels_of: Labels of any operand.
        uniform_of: What labels the axes of an operand along which all entries are alike.
        product: What labels the axes of a matrix product or convolution, summed ones included; set by its rule.
    """

    func: torch._ops.OpOverload
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    output: Any
    graph: AtomGraph
    labels_of: Callable[[Tensor], Labels]
    uniform_of: Callable[[Tensor], Labels] = lambda tensor: ()
    product: Labels = ()

    @property
    def name(self) -> str:
        return str(self.func.overloadpacket.__name__)

    def __getitem__(self, name: str) -> Any:
        """An argument by its name in the operator's schema, or its default; ``None`` if there is no such argument."""
        for position, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                given = self.args[position : position + 1]
                return given[0] if given else self.kwargs.get(name, argument.default_value)
        return None

    @property
    def labels(self) -> Labels:
        """Of the first operand."""
        return self.labels_of(self.args[0])

    @property
    def tensors(self) -> list[Tensor]:
        return [value for value in flat((*self.args, *self.kwargs.values())) if isinstance(value, Tensor)]

    def axis(self, name: str = "dim") -> int:
        """An axis of the first operand."""
        return self[name] % max(self.args[0].ndim, 1)

    def axes(self, name: str = "dim") -> list[int]:
        given = self[name]
        given = [] if given is None else [given] if isinstance(given, int) else given
        return [axis % max(self.args[0].ndim, 1) for axis in given]

    def operand(self, tensor: Tensor) -> Operand:
        """A tensor on the axes of the (first) output."""
        output = self.output if isinstance(self.output, Tensor) else self.output[0]
        return align(self.labels_of(tensor), tensor.shape, output.ndim, self.uniform_of(tensor))

    def per_channel(self, vector: Tensor, x: Tensor) -> Operand:
        """A vector on the channel axis of ``x``."""
        shape = [1] * x.ndim
        shape[min(1, x.ndim - 1)] = vector.numel()
        return Operand(tuple(atoms.reshape(shape) for atoms in self.labels_of(vector)), tuple(shape))

    def whole(self, axes: Iterable[int], reason: str) -> Labels:
        """Labels of the first operand once some of its axes mix or must be whole."""
        return self.graph.whole(self.labels, axes, reason)


Rule = Callable[[Operation], Labels | list[Labels]]
"""Gives labels of the output, of each if there are several, or a list of labels of the first outputs."""


def flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


# -- elementwise -----------------------------------------------------------------------------------------------------


def pointwise(op: Operation) -> Labels:
    operands = [op.operand(tensor) for tensor in op.tensors]
    return op.graph.join(operands, CONSTANT) if operands else ()


def prelu(op: Operation) -> Labels:
    x, weight = op.args
    if weight.ndim == 1:
        return op.graph.join([op.operand(x), op.per_channel(weight, x)], "PReLU")
    return pointwise(op)


def same(op: Operation) -> Labels:
    """A copy, or a new tensor of the same shape."""
    return op.labels


def unlabelled(op: Operation) -> Labels:
    return ()


def copy_into(op: Operation) -> Labels:
    """What is written belongs to what it is written into, if need be a view of something larger."""
    target, source = op.operand(op.args[0]), op.operand(op.args[1])
    target = target.meeting(source.labels)
    op.graph.join([target, source], "written into another tensor")
    return target.labels


# -- moving data -----------------------------------------------------------------------------------------------------


def view(op: Operation) -> Labels:
    return reshape(op.graph, op.labels, op.args[0].shape, op.output.shape, "flattened together")


def moved(op: Operation) -> Labels:
    """What orders, adds or turns axes does the same to those of the labels."""
    return tuple(op.func(torch.from_numpy(atoms), *op.args[1:], **op.kwargs).numpy() for atoms in op.labels)


def expand(op: Operation) -> Labels:
    return op.operand(op.args[0]).labels


def squeeze(op: Operation) -> Labels:
    x = op.args[0]
    wanted = range(x.ndim) if op["dim"] is None else op.axes()
    axes = tuple(axis for axis in wanted if x.shape[axis] == 1)
    return tuple(np.squeeze(atoms, axes) for atoms in op.labels)


def uniform(op: Operation) -> Labels | list[Labels]:
    """What labels the axes of the output along which all entries are alike; of several outputs a list."""
    rule = RULES.get(op.name)
    if op.name in _FILLED:
        return _new_axes(op.graph, op.output.shape, [1] * op.output.ndim)
    is_drawn = torch.Tag.nondeterministic_seeded in op.func.tags or op.name.startswith("empty")
    if op.func._schema.is_mutable or is_drawn:  # what is written or drawn may differ
        return ()
    if rule in (expand, repeat):
        source = op.operand(op.args[0])
        new = _new_axes(op.graph, op.output.shape, source.sizes)
        return (*_moved(op, rule), *new)
    if not any(map(op.uniform_of, op.tensors)):
        return ()
    if rule is not None and rule in _MOVING:
        return _moved(op, rule)
    if rule in (None, pointwise) and torch.Tag.pointwise in op.func.tags and isinstance(op.output, Tensor):
        result, *others = (op.operand(tensor) for tensor in op.tensors)
        for operand in others:
            sizes = tuple(map(max, result.sizes, operand.sizes))
            result = Operand((), sizes, op.graph.alike(result, operand))
        return result.uniform
    return ()


def _moved(op: Operation, rule: Rule) -> Labels | list[Labels]:
    """Uniform axes go where a rule takes labelled ones; what it ties or fixes does not count for them."""
    return rule(dataclasses.replace(op, graph=AtomGraph(), labels_of=op.uniform_of))


def _new_axes(graph: AtomGraph, shape: Sequence[int], before: Sequence[int]) -> Labels:
    """Atoms of axes that had one entry, and have more."""
    return tuple(
        graph.new_atoms(size).reshape([size if other == axis else 1 for other in range(len(shape))])
        for axis, size in enumerate(shape)
        if size > before[axis] == 1
    )


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


def select(op: Operation) -> Labels:
    axis, index = op.axis(), int(op["index"])
    if index < 0:
        _from_the_end(op.graph, op.labels, axis, index)
    return _at(op.graph, op.labels, axis, index)


def _from_the_end(graph: AtomGraph, labels: Labels, axis: int, index: int) -> None:
    """A narrower axis ends elsewhere."""
    for atoms in labels:
        if atoms.shape[axis] > 1:
            graph.fix(atoms.take(range(atoms.shape[axis] + index, atoms.shape[axis]), axis), "counted from the end")


def slice_(op: Operation) -> Labels:
    axis, graph, labels = op.axis(), op.graph, op.labels
    size, start, end = op.args[0].shape[axis], op["start"], op["end"]
    for place in (start or 0, end or 0):
        if place < 0:
            _from_the_end(graph, labels, axis, max(place, -size))
        else:
            _cut(graph, labels, axis, [place])
    return _pick(graph, labels, axis, np.arange(size)[start : end : op["step"]])


def split(op: Operation) -> list[Labels]:
    axis, labels = op.axis(), op.labels
    bounds = np.cumsum([0] + [part.shape[axis] for part in op.output]).tolist()
    _cut(op.graph, labels, axis, bounds)
    return [_pick(op.graph, labels, axis, range(a, b)) for a, b in itertools.pairwise(bounds)]


def unbind(op: Operation) -> list[Labels]:
    return [_at(op.graph, op.labels, op.axis(), index) for index in range(len(op.output))]


def glu(op: Operation) -> Labels:
    """The first half of an axis times the sigmoid of the second."""
    axis = op.axis()
    half = op.output.shape[axis]
    halves = (_pick(op.graph, op.labels, axis, range(a, a + half)) for a in (0, half))
    return op.graph.join([Operand(each, tuple(op.output.shape)) for each in halves], "gated")


def cat(op: Operation) -> Labels:
    tensors = [tensor for tensor in op.args[0] if tensor.ndim == op.output.ndim]
    operands = [Operand(op.labels_of(tensor), tuple(tensor.shape), op.uniform_of(tensor)) for tensor in tensors]
    return _concatenated(op.graph, operands, op["dim"] % op.output.ndim)


def stack(op: Operation) -> Labels:
    axis = op["dim"] % op.output.ndim
    operands = []
    for tensor in op.args[0]:
        labels = tuple(np.expand_dims(atoms, axis) for atoms in op.labels_of(tensor))
        operands.append(Operand(labels, (*tensor.shape[:axis], 1, *tensor.shape[axis:])))
    return _concatenated(op.graph, operands, axis)


def _concatenated(graph: AtomGraph, operands: Sequence[Operand], axis: int) -> Labels:
    reason = "concatenated with something of fixed size"
    is_labelled = False
    pieces: list[Atoms] = []  # what labels the axis, one array per tensor
    others: list[Operand] = []
    for operand in operands:
        labels, sizes = operand.labels, operand.sizes
        along = [atoms for atoms in labels if atoms.shape[axis] > 1]
        along = along or [atoms for atoms in operand.uniform if axes_of(atoms) == (axis,)]
        if along and len(axes_of(along[0])) > 1:  # heads × head size after another: keep what is common
            labels, along = graph.whole(labels, [axis], reason), []
        is_labelled |= bool(along)
        size = [1] * len(sizes)
        size[axis] = sizes[axis]
        pieces.append(along[0] if along else np.full(size, FIXED, dtype=np.int64))
        rest, alike = (tuple(x for x in each if x.shape[axis] == 1) for each in (labels, operand.uniform))
        others.append(Operand(rest, (*sizes[:axis], 1, *sizes[axis + 1 :]), alike))
    result = graph.join(others, reason)
    return (*result, np.concatenate(pieces, axis)) if is_labelled else result


def _indexed(op: Operation) -> list[int]:
    """Axes of the first operand to which there are indices; a mask takes as many as it has."""
    places: list[int] = []
    axis = 0
    for entry in op["indices"]:
        is_mask = entry is not None and entry.dtype in (torch.bool, torch.uint8)
        num = entry.ndim if is_mask else 1
        places += [] if entry is None else range(axis, axis + num)
        axis += num
    return places


def _picked(labels: Labels, places: Sequence[int], num_axes: int) -> Labels:
    """Labels, of which none is on the indexed axes, once these stand together as others."""
    start = places[0] if places else 0
    return tuple(
        atoms.reshape(
            atoms.shape[:start] + (1,) * (num_axes - atoms.ndim + len(places)) + atoms.shape[start + len(places) :]
        )
        for atoms in labels
    )


def index(op: Operation) -> Labels:
    """Advanced indexing with constants or masks: indexed axes are fixed, the others move along."""
    places = _indexed(op)
    if places and places != list(range(places[0], places[-1] + 1)):
        return unknown(op)
    return _picked(op.whole(places, "picked by constant indices"), places, op.output.ndim)


def index_put(op: Operation) -> Labels:
    """Written at some indices: the other axes of what is written are those of the whole."""
    places, x, values = _indexed(op), op.args[0], op["values"]
    num_axes = x.ndim - len(places) + max(values.ndim - x.ndim + len(places), 1)
    if places != list(range(len(places))):
        return unknown(op)
    mine, alike = (op.graph.whole(each, places, "picked by constant indices") for each in (op.labels, op.uniform_of(x)))
    theirs = align(op.labels_of(values), values.shape, num_axes)
    sizes = (*theirs.sizes[: num_axes - x.ndim + len(places)], *x.shape[len(places) :])
    whole = Operand(_picked(mine, places, num_axes), sizes, _picked(alike, places, num_axes)).meeting(theirs.labels)
    op.graph.join([whole, theirs], "written into another tensor")
    return tuple(
        atoms.reshape((1,) * len(places) + atoms.shape[num_axes - x.ndim + len(places) :]) for atoms in whole.labels
    )


def index_add(op: Operation) -> Labels:
    """Added at some indices of one axis."""
    axis = op.axis()

    def without_axis(tensor: Tensor) -> Operand:
        sizes = (*tensor.shape[:axis], 1, *tensor.shape[axis + 1 :])
        labels, alike = (
            op.graph.whole(each, [axis], "picked by constant indices")
            for each in (op.labels_of(tensor), op.uniform_of(tensor))
        )
        return Operand(labels, sizes, alike)

    return op.graph.join([without_axis(op.args[0]), without_axis(op["source"])], "added to another tensor")


def index_axis(op: Operation) -> Labels:
    return op.whole([op.axis()], "picked by constant indices")


def gather(op: Operation) -> Labels:
    fewer = [axis for axis, size in enumerate(op.output.shape) if size < op.args[0].shape[axis]]
    return op.graph.whole(index_axis(op), fewer, "picked by constant indices")


def embedding(op: Operation) -> Labels:
    labels = op.whole([0], "picked by constant indices")
    return align(tuple(atoms[0] for atoms in labels), op.output.shape[-1:], op.output.ndim).labels


def embedding_bag(op: Operation) -> list[Labels]:
    """Rows of a table, added up for each bag."""
    return [op.whole([0], "picked by constant indices")]


def pack_sequence(op: Operation) -> list[Labels]:
    """``(N, T, ...)`` or ``(T, N, ...)`` to the steps of all sequences one after another."""
    return [tuple(atoms[0] for atoms in op.whole([0, 1], "packed sequences"))]


def pad(op: Operation) -> Labels:
    """New places belong to what must stay."""

    def padded(atoms: Atoms) -> Atoms:
        amounts = [num if atoms.shape[-1 - i // 2] > 1 else 0 for i, num in enumerate(op["pad"])]
        result: Atoms = torch.constant_pad_nd(torch.from_numpy(atoms), amounts, FIXED).numpy()
        return result

    return tuple(padded(atoms) for atoms in op.labels)


def repeat(op: Operation) -> Labels:
    return tuple(
        np.tile(atoms, [n if size > 1 else 1 for n, size in zip(op["repeats"], atoms.shape, strict=True)])
        for atoms in expand(op)
    )


def roll(op: Operation) -> Labels:
    """What leaves at the end enters in front, and a narrower axis ends elsewhere: it must be whole."""
    return op.whole(op.axes("dims") or range(op.output.ndim), "rolled")


def sliding_window(op: Operation) -> Labels:
    return tuple(atoms[..., None] for atoms in op.whole([op.axis("dimension")], "cut into windows"))


def im2col(op: Operation) -> Labels:
    """``(N, C, H, W)`` to ``(N, C * k * k, positions)``."""
    times = prod(op["kernel_size"])
    labels = op.whole([2, 3], "cut into patches")
    return tuple((np.repeat(atoms, times, axis=1) if atoms.shape[1] > 1 else atoms)[..., 0] for atoms in labels)


def pixel_shuffle(op: Operation) -> Labels:
    """``(N, C * r * r, H, W)`` to ``(N, C, H * r, W * r)``: the ``r * r`` channels of an output channel are tied."""
    factor = int(op.args[1])
    result = []
    for atoms in op.whole([2, 3], "pixels shuffled"):
        if atoms.shape[1] > 1:
            grouped = atoms.reshape(atoms.shape[0], -1, factor * factor, 1)
            op.graph.tie(grouped, grouped[:, :, :1])
            if grouped.shape[:2] == (1, 1):
                op.graph.fix(grouped, "pixels shuffled into one channel")
            atoms = grouped[:, :, :1]
        result.append(atoms)
    return tuple(atoms for atoms in result if atoms.size > 1)


def pixel_unshuffle(op: Operation) -> Labels:
    """``(N, C, H * r, W * r)`` to ``(N, C * r * r, H, W)``: a channel becomes ``r * r`` of its own."""
    times = int(op.args[1]) ** 2
    return tuple(np.repeat(atoms, times, axis=1) for atoms in op.whole([2, 3], "pixels shuffled"))


def col2im(op: Operation) -> Labels:
    """``(N, C * k * k, positions)`` to ``(N, C, H, W)``: the ``k * k`` channels of an output channel are tied."""
    times = prod(op["kernel_size"])
    result = []
    for atoms in op.whole([2], "put together from patches"):
        if atoms.shape[1] > 1:
            grouped = atoms.reshape(atoms.shape[0], -1, times)
            op.graph.tie(grouped, grouped[..., :1])
            atoms = grouped[..., :1]
        if atoms.size == 1:
            op.graph.fix(atoms, "put together into one channel")
        else:
            result.append(atoms[..., None])
    return tuple(result)


def as_complex(op: Operation) -> Labels:
    """Pairs on the last axis become complex numbers."""
    return tuple(atoms[..., 0] for atoms in op.whole([op.args[0].ndim - 1], "pairs as complex numbers"))


def as_real(op: Operation) -> Labels:
    return tuple(atoms[..., None] for atoms in op.labels)


def as_strided(op: Operation) -> Labels:
    """The same tensor, or something that no rule can follow."""
    x = op.args[0]
    return op.labels if (x.shape, x.stride()) == (op.output.shape, op.output.stride()) else unknown(op)


# -- reductions and normalisation ------------------------------------------------------------------------------------


def reduction(op: Operation) -> Labels:
    axes = op.axes() or range(op.args[0].ndim)
    labels = op.graph.reduce(op.labels, axes)
    return labels if op["keepdim"] else tuple(np.squeeze(atoms, tuple(axes)) for atoms in labels)


def along_axis(op: Operation) -> Labels:
    """Softmax: the shape stays, elements along one axis mix."""
    axis = op.axis()
    for atoms in op.labels:
        if atoms.shape[axis] > 1 and len(axes_of(atoms)) > 1:
            op.graph.tie(atoms, atoms.take([0], axis))
    return op.labels


def cumulative(op: Operation) -> Labels:
    """Sums of what comes before, so that the last can go but none can change places."""
    op.graph.ordered += [atoms for atoms in op.labels if axes_of(atoms) == (op.axis(),)]
    return along_axis(op)


def sort(op: Operation) -> Labels:
    return op.whole([op.axis()], "sorted")


def weight_norm(op: Operation) -> list[Labels]:
    """A direction, normalised over all axes but one, times a length for each index of that one."""
    return [op.graph.join([op.operand(op.args[0]), op.operand(op.args[1])], "weight normalisation")]


def batch_norm(op: Operation) -> list[Labels]:
    x, *vectors = op.args[:5]
    operands = [op.operand(x), *(op.per_channel(vector, x) for vector in vectors if vector is not None)]
    return [op.graph.join(operands, "batch normalisation")]


def layer_norm(op: Operation) -> list[Labels]:
    x, normalised = op.args[:2]
    axes = range(x.ndim - len(normalised), x.ndim)
    for atoms in op.labels:
        mixed = [axis for axis in axes_of(atoms) if axis in axes]
        for axis in mixed if len(mixed) < len(axes_of(atoms)) else []:
            op.graph.tie(atoms, atoms.take([0], axis))
    vectors = [op.operand(value) for value in op.args[2:4] if isinstance(value, Tensor)]
    if not vectors:  # its size is a number in the module: nothing says how to narrow it
        vectors = [Operand((), tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape)))]
    return [op.graph.join([op.operand(x), *vectors], "layer normalisation without weights")]


def group_norm(op: Operation) -> list[Labels]:
    x, num_groups = op.args[0], op["group"]
    vectors = [op.per_channel(vector, x) for vector in op.args[1:3] if vector is not None]
    labels = op.graph.join([op.operand(x), *vectors], "group normalisation")
    if num_groups > 1:
        if not vectors:  # their number is in the module: nothing says how to narrow it
            labels = op.graph.whole(labels, [1], "group normalisation without weights")
        for atoms in labels:
            if atoms.shape[1] > 1:
                grouped = atoms.reshape(atoms.shape[0], num_groups, -1, *atoms.shape[2:])
                op.graph.tie(grouped, grouped[:, :, :1])
    return [labels]


def spatial(op: Operation) -> Labels:
    """Pooling and resizing of the trailing axes, as many as the name says, channel by channel."""
    num_axes = op.args[0].ndim
    num_spatial = min(int(re.findall(r"(\d)d", op.name)[-1]), num_axes - 1)
    return op.whole(range(num_axes - num_spatial, num_axes), "pooled over channels")


# -- contractions ----------------------------------------------------------------------------------------------------


def contract(op: Operation, equation: str, first: Tensor, second: Tensor) -> Labels:
    """A product of two tensors, summed over what the result lacks.

    Args:
        equation: As in ``einsum``, for two operands: ``bmk,bkn->bmn``.
    """
    graph = op.graph
    inputs, out = equation.split("->")
    a, b = inputs.split(",")
    letters = "".join(dict.fromkeys(a + b))
    sizes = {**dict(zip(a, first.shape, strict=True)), **dict(zip(b, second.shape, strict=True))}

    def spread(own: str, tensor: Tensor) -> Operand:
        """An operand on one axis per letter."""
        order = [own.index(letter) for letter in letters if letter in own]
        where = tuple(index for index, letter in enumerate(letters) if letter not in own)
        labels, uniform = (
            tuple(np.expand_dims(atoms.transpose(order), where) for atoms in each)
            for each in (op.labels_of(tensor), op.uniform_of(tensor))
        )
        return Operand(labels, (), uniform)

    summed = [index for index, letter in enumerate(letters) if letter not in out]
    free = {i for i, letter in enumerate(letters) if letter in out and (letter in a) != (letter in b)}
    reason = "multiplied with something of fixed size"
    left, right = spread(a, first), spread(b, second)
    both = [list(left.meeting(right.labels).labels), list(right.meeting(left.labels).labels)]
    whole: list[Atoms] = []  # labels of summed axes that can be narrowed alone
    for axis in summed:
        mine, theirs = ([atoms for atoms in side if atoms.shape[axis] > 1] for side in both)
        alone = all(found and axes_of(found[0]) == (axis,) for found in (mine, theirs))
        if alone:
            graph.tie(mine[0], theirs[0])
            whole.append(mine[0])
        elif mine and theirs and axes_of(mine[0]) == axes_of(theirs[0]) and not free & set(axes_of(mine[0])):
            graph.tie(mine[0], theirs[0])
        for side, found in zip(both, (mine, theirs), strict=True):
            collapsed = [] if alone else [rest for atoms in found for rest in graph.collapse(atoms, axis, reason)]
            side[:] = [*(atoms for atoms in side if atoms.shape[axis] == 1), *collapsed]
    # Two sides that label a common axis together with different free ones keep only what is common.
    operands = [
        Operand(tuple(side), tuple(sizes[letter] if letter in own and letter in out else 1 for letter in letters))
        for side, own in zip(both, (a, b), strict=True)
    ]
    for axis, letter in enumerate(letters):
        if letter in a and letter in b and letter in out:
            graph.heads += [atoms for side in both for atoms in side if atoms.shape[axis] > 1]
    labels = graph.join(operands, reason)
    op.product = (*labels, *whole)
    order = [letters.index(letter) for letter in out]
    return tuple(atoms.transpose(*order, *summed).reshape([atoms.shape[axis] for axis in order]) for atoms in labels)


def matrix_product(op: Operation) -> Labels:
    return contract(op, "mk,kn->mn" if op.output.ndim == 2 else "bmk,bkn->bmn", *op.args[:2])


def grouped_product(op: Operation) -> Labels:
    """Rows ``(M, K)``, each times the matrix of its group, of ``(G, K, N)``: the experts of a mixture."""
    first, second = op.args[:2]
    return contract(op, "mk,gkn->mn", first, second) if (first.ndim, second.ndim) == (2, 3) else unknown(op)


def vector_product(op: Operation) -> Labels:
    return contract(op, "mk,k->m" if op.output.ndim else "k,k->", *op.args[:2])


def added_product(op: Operation) -> Labels:
    equation = "mk,kn->mn" if op.output.ndim == 2 else "bmk,bkn->bmn"
    product = Operand(contract(op, equation, *op.args[1:3]), tuple(op.output.shape))
    return op.graph.join([product, op.operand(op.args[0])], CONSTANT)


def linear(op: Operation) -> Labels:
    x, weight = op.args[:2]
    rows = "abcdefg"[: x.ndim - 1]
    labels = contract(op, f"{rows}y,zy->{rows}z", x, weight)
    if op["bias"] is None:
        return labels
    return op.graph.join([Operand(labels, tuple(op.output.shape)), op.operand(op["bias"])], "linear layer")


def convolution(op: Operation) -> Labels:
    x, weight, bias = op.args[:3]
    graph, output, labels = op.graph, op.output, op.labels
    weights = graph.whole(op.labels_of(weight), range(2, weight.ndim), "the window of a convolution")
    for atoms in weights:
        if len(axes_of(atoms)) > 1:
            graph.fix(atoms, "a convolution whose weight is computed")
    if any(covers(labels, axis) for axis in range(2, x.ndim)):
        if _slides_over_channels(op):
            graph.ordered.extend(labels)
            for atoms in weights:
                graph.fix(atoms, "slides over channels")
            op.product = labels
            return labels
        labels = op.whole(_slid_over(op), "convolved over channels")
    if any(len(axes_of(atoms)) > 1 for atoms in labels):  # heads as part of the batch
        labels = graph.whole(labels, [1], "convolved over channels")
    of_batch = tuple(atoms for atoms in labels if atoms.shape[1] == 1)  # and of axes with a window of one
    inputs = next((atoms.reshape(-1) for atoms in labels if atoms.shape[1] > 1), None)
    by_axis = {axes_of(atoms)[0]: atoms.reshape(-1) for atoms in weights if len(axes_of(atoms)) == 1}
    outputs, summed = _tie_convolution(graph, inputs, by_axis, op["groups"], op["transposed"])
    result: Labels = ()
    if outputs is not None and outputs.size > 1:
        result = (outputs.reshape(1, -1, *[1] * (output.ndim - 2)),)
    if bias is not None and result:
        operands = [Operand(result, tuple(output.shape)), op.per_channel(bias, output)]
        result = graph.join(operands, "a convolution's bias")
    op.product = (*of_batch, *result, *summed)
    return (*of_batch, *result)


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


def _slides_over_channels(op: Operation) -> bool:
    """A one-dimensional convolution along the channel axis that keeps its length: efficient channel attention."""
    shape = op.args[0].shape
    return shape == op.output.shape and shape[1] == 1 and op["stride"] == [1] and len(op.labels) == 1


def _slid_over(op: Operation) -> list[int]:
    """Axes of the input, behind its channels, along which places mix or change in number."""
    settings = zip(op.args[1].shape[2:], op["stride"], op["padding"], strict=True)
    return [axis for axis, setting in enumerate(settings, start=2) if setting != (1, 1, 0)]


def unknown(op: Operation) -> Labels:
    """An operation that no rule knows: what enters it must stay as it is."""
    for tensor in op.tensors:
        for atoms in op.labels_of(tensor):
            op.graph.fix(atoms, f"operation {op.name}")
    return ()


_FILLED = {"zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"}
_MOVING: set[Rule | None] = {same, view, moved, squeeze, select, slice_, split, unbind, index, index_axis}

RULES: dict[str, Rule] = {
    # copies and constants
    **dict.fromkeys(("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh"), same),
    **dict.fromkeys(("native_dropout", "bernoulli"), same),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"), same),
    **dict.fromkeys(("fill_", "zero_"), same),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"), unlabelled),
    **dict.fromkeys(("scalar_tensor", "zeros", "ones", "full", "empty", "arange", "linspace", "eye"), unlabelled),
    "copy_": copy_into,
    # activations that torch does not tag as pointwise
    **dict.fromkeys(("hardswish", "hardsigmoid", "hardtanh", "silu", "gelu", "elu", "leaky_relu", "mish"), pointwise),
    # moving data
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten"), view),
    **dict.fromkeys(("permute", "transpose", "t", "unsqueeze", "flip"), moved),
    "as_strided": as_strided,
    "expand": expand,
    "squeeze": squeeze,
    "select": select,
    "slice": slice_,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), split),
    "unbind": unbind,
    "glu": glu,
    "cat": cat,
    "stack": stack,
    "index": index,
    "index_select": index_axis,
    "index_put": index_put,
    "index_add": index_add,
    "gather": gather,
    "embedding": embedding,
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), embedding_bag),
    "_pack_padded_sequence": pack_sequence,
    "constant_pad_nd": pad,
    **dict.fromkeys(("reflection_pad2d", "replication_pad2d"), spatial),
    "repeat": repeat,
    "roll": roll,
    "unfold": sliding_window,
    "im2col": im2col,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "col2im": col2im,
    "view_as_complex": as_complex,
    "view_as_real": as_real,
    # reductions and normalisation
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "logsumexp", "max", "min", "linalg_vector_norm", "norm"), reduction
    ),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), reduction),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), along_axis),
    "_weight_norm_interface": weight_norm,
    "cumsum": cumulative,
    **dict.fromkeys(("sort", "topk"), sort),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training"), batch_norm),
    **dict.fromkeys(("native_layer_norm", "rms_norm", "_fused_rms_norm"), layer_norm),
    "native_group_norm": group_norm,
    # spatial
    **dict.fromkeys(("avg_pool2d", "max_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d"), spatial),
    **dict.fromkeys(("adaptive_max_pool2d", "avg_pool1d", "upsample_nearest2d", "upsample_bilinear2d"), spatial),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"), spatial),
    **dict.fromkeys(("avg_pool3d", "max_pool3d_with_indices", "_adaptive_avg_pool3d", "adaptive_max_pool3d"), spatial),
    **dict.fromkeys(("upsample_nearest1d", "upsample_linear1d", "upsample_nearest3d", "upsample_trilinear3d"), spatial),
    **dict.fromkeys(("max_unpool2d", "max_unpool3d"), spatial),
    **dict.fromkeys(("reflection_pad1d", "replication_pad1d", "reflection_pad3d", "replication_pad3d"), spatial),
    **dict.fromkeys(("prelu", "_prelu_kernel"), prelu),
    # contractions
    **dict.fromkeys(("mm", "bmm"), matrix_product),
    **dict.fromkeys(("mv", "dot", "vdot"), vector_product),
    **dict.fromkeys(("addmm", "baddbmm"), added_product),
    "_grouped_mm": grouped_product,
    "linear": linear,
    "convolution": convolution,
}
