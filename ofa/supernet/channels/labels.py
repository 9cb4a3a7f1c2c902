"""Which channel an element of a tensor belongs to, and which channels belong together.

A tensor carries *labels*: a tuple of integer arrays, each with as many axes as the tensor. An array has the tensor's
size on the axes that it labels and size 1 on the others; the arrays of one tensor label different axes. Every entry is
an *atom*: one index of one axis of one parameter. After a convolution the channel axis of the output thus carries the
atoms of the weight's output axis. After ``view(B, N, 3, heads, head_dim)`` three axes share one array.

While a model runs, operations tie atoms: the operands of an addition, the channels that one head mixes. Atoms that end
up tied are kept or removed together. Atom 0 stands for everything that must stay.

Along some axes all entries are alike, as ``expand`` and ``zeros`` make them: however many there are, it is the same
tensor. Their atoms belong to no parameter. They count only where such an axis meets a labelled one, and are tied to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Atoms: TypeAlias = npt.NDArray[np.int64]
Labels: TypeAlias = tuple[Atoms, ...]

FIXED = 0


def axes_of(atoms: Atoms) -> tuple[int, ...]:
    """The axes that an array labels."""
    return tuple(axis for axis, size in enumerate(atoms.shape) if size > 1)


def covers(labels: Labels, axis: int) -> bool:
    return any(atoms.shape[axis] > 1 for atoms in labels)


@dataclass(frozen=True)
class Operand:
    """Labels of a tensor and its sizes, on the axes of the result (broadcast axes have size 1).

    Args:
        uniform: What labels the axes along which all entries are alike.
    """

    labels: Labels
    sizes: tuple[int, ...]
    uniform: Labels = ()

    def meeting(self, other: Labels) -> Operand:
        """The same, its uniform axes labelled where those of another are."""
        mine, theirs = ({axis for atoms in labels for axis in axes_of(atoms)} for labels in (self.labels, other))
        met = tuple(each for each in self.uniform if (axes := set(axes_of(each))) & theirs and not axes & mine)
        return Operand((*self.labels, *met), self.sizes, self.uniform) if met else self


@dataclass
class AtomGraph:
    """Atoms as nodes, ties as edges.

    Args:
        reasons: Atoms that were fixed, and why.
        ordered: Atoms whose order matters.
        heads: Atoms that number the products of a batch of them.
        parts: Atoms that were picked by number from an axis: a unit among them is not like one that is not.
        boundaries: An array, its axis and a place where code cuts this axis in two.
        splits: An array whose axis became several, and these: one of them can be narrowed, the others stay whole.
    """

    num_atoms: int = 1
    edges: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    reasons: list[tuple[Atoms, str]] = field(default_factory=list)
    ordered: list[Atoms] = field(default_factory=list)
    heads: list[Atoms] = field(default_factory=list)
    parts: list[Atoms] = field(default_factory=list)
    boundaries: list[tuple[Atoms, int, int]] = field(default_factory=list)
    splits: list[tuple[Atoms, tuple[int, ...]]] = field(default_factory=list)

    def new_atoms(self, num: int) -> Atoms:
        first = self.num_atoms
        self.num_atoms += num
        return np.arange(first, first + num, dtype=np.int64)

    def tie(self, first: Atoms, second: Atoms) -> None:
        """Elementwise, with broadcasting."""
        first, second = np.broadcast_arrays(first, second)
        self.edges.append((first.ravel(), second.ravel()))

    def fix(self, atoms: Atoms, reason: str) -> None:
        """These atoms must all stay."""
        atoms = atoms.ravel()
        self.edges.append((atoms, np.full_like(atoms, FIXED)))
        self.reasons.append((atoms, reason))

    def collapse(self, atoms: Atoms, axis: int, reason: str) -> Labels:
        """Labels once an axis mixes or must be whole: what remains is tied along it; if nothing does, it is fixed."""
        rest = atoms.take([0], axis)
        if rest.size == 1:
            self.fix(atoms, reason)
            return ()
        self.tie(atoms, rest)
        return (rest,)

    def whole(self, labels: Labels, axes: Iterable[int], reason: str) -> Labels:
        """Labels of a tensor once some of its axes mix or must be whole, as :meth:`collapse` does for one array."""
        for axis in axes:
            labels = tuple(
                rest
                for atoms in labels
                for rest in (self.collapse(atoms, axis, reason) if atoms.shape[axis] > 1 else (atoms,))
            )
        return labels

    def reduce(self, labels: Labels, axes: Iterable[int]) -> Labels:
        """Labels of a tensor that is summed over some axes: an array that loses all its axes needs no tie."""
        axes = set(axes)
        result: list[Atoms] = []
        for atoms in labels:
            mixed = [axis for axis in axes_of(atoms) if axis in axes]
            if len(mixed) < len(axes_of(atoms)):
                result.append(self.tied_along(atoms, mixed))
        return tuple(result)

    def join(self, operands: Sequence[Operand], reason: str) -> Labels:
        """Labels of an elementwise result.

        Where one array labels more axes than the other (heads × head size against heads), it is tied along the further
        axes if both share the outermost one, so that heads stay whole; else the smaller one is fixed (a vector over the
        head size, common to all heads).
        """
        result = operands[0]
        for given in operands[1:]:
            uniform = self.alike(result, given)
            result, operand = result.meeting(given.labels), given.meeting(result.labels)
            mine = self._without_opaque(result, operand, reason)
            theirs = list(self._without_opaque(operand, result, reason))
            for atoms in mine:
                theirs = self._insert(theirs, atoms, reason)
            sizes = tuple(max(pair) for pair in zip(result.sizes, operand.sizes, strict=True))
            result = Operand(tuple(theirs), sizes, uniform)
        return result.labels

    def alike(self, first: Operand, second: Operand) -> Labels:
        """What labels the axes along which all entries of an elementwise result are alike."""
        uniform = [
            atoms
            for mine, other in ((first, second), (second, first))
            for atoms in mine.uniform
            if all(other.sizes[axis] == 1 for axis in axes_of(atoms))
        ]
        for atoms in first.uniform:
            for other in second.uniform:
                if atoms.shape == other.shape:
                    self.tie(atoms, other)
                    uniform.append(atoms)
        return tuple(uniform)

    def _without_opaque(self, operand: Operand, other: Operand, reason: str) -> Labels:
        """Collapse what meets an axis of full size without labels: a constant that cannot be narrowed."""
        opaque = [axis for axis, size in enumerate(other.sizes) if size > 1 and not covers(other.labels, axis)]
        return self.whole(operand.labels, opaque, reason)

    def _insert(self, labels: list[Atoms], atoms: Atoms, reason: str) -> list[Atoms]:
        for index, other in enumerate(labels):
            if set(axes_of(other)) & set(axes_of(atoms)):
                merged = self._merge(other, atoms, reason)
                rest = labels[:index] + labels[index + 1 :]
                return rest if merged is None else self._insert(rest, merged, reason)
        return [*labels, atoms]

    def _merge(self, first: Atoms, second: Atoms, reason: str) -> Atoms | None:
        """One array for two that label a common axis."""
        wide, narrow = (first, second) if first.ndim and first.size >= second.size else (second, first)
        wide_axes, narrow_axes = set(axes_of(wide)), set(axes_of(narrow))
        if wide_axes == narrow_axes:
            self.tie(wide, narrow)
            return wide
        common = wide_axes & narrow_axes
        if narrow_axes < wide_axes:
            if min(wide_axes) in common:
                rest = self.tied_along(wide, wide_axes - common)
                self.tie(rest, narrow)
            else:
                self.tied_along(wide, common)
                self.fix(narrow, reason)
            return wide
        if min(wide_axes) == min(narrow_axes) == min(common):
            rest = self.tied_along(wide, wide_axes - common)
            self.tie(rest, self.tied_along(narrow, narrow_axes - common))
            return rest
        self.fix(wide, reason)
        self.fix(narrow, reason)
        return None

    def tied_along(self, atoms: Atoms, axes: Iterable[int]) -> Atoms:
        """Atoms once they are tied along some axes, which are left with one index."""
        for axis in axes:
            rest = atoms.take([0], axis)
            self.tie(atoms, rest)
            atoms = rest
        return atoms


def align(labels: Labels, sizes: Sequence[int], num_axes: int, uniform: Labels = ()) -> Operand:
    """Labels and sizes with axes of size 1 in front, as broadcasting puts them."""
    front = (1,) * (num_axes - len(sizes))
    own, alike = (tuple(atoms.reshape(front + atoms.shape) for atoms in each) for each in (labels, uniform))
    return Operand(own, front + tuple(sizes), alike)


def reshape(graph: AtomGraph, labels: Labels, before: Sequence[int], after: Sequence[int], reason: str) -> Labels:
    """Labels after ``view``: axes that merge or split do so in the arrays as well.

    Of labelled axes that merge, the first (heads, before what each gives) may be shortened, others must stay.
    """
    old, new = _segments(before, after)
    taken: set[int] = set()
    result = []
    for atoms in sorted(labels, key=lambda atoms: min(axes_of(atoms), default=0)):
        mine = set(old[list(axes_of(atoms))].tolist())
        if mine & taken:
            graph.fix(atoms, reason)
            continue
        taken |= mine
        full = np.where(np.isin(old, list(mine)), before, 1)
        reshaped = np.broadcast_to(atoms, full).reshape(np.where(np.isin(new, list(mine)), after, 1))
        for axis in axes_of(reshaped):
            rest = reshaped.take([0], axis)
            if (reshaped == rest).all():
                reshaped = rest
        if reshaped.size > 1:
            result.append(reshaped)
        for segment in sorted(mine):
            split = tuple(axis for axis in axes_of(reshaped) if new[axis] == segment)
            if len(split) > 1:
                graph.splits.append((reshaped, split))
    return tuple(result)


def _segments(before: Sequence[int], after: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """For each old and each new axis, a number: that of the finest run of axes that hold the same elements."""
    ends = [np.cumprod(shape, dtype=np.int64) for shape in (before, after)]
    common = np.intersect1d(ends[0], ends[1])
    return [np.searchsorted(common, end) for end in ends]
