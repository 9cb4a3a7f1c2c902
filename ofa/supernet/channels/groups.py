"""Groups of channels that can be narrowed: units that are alike, each kept or removed as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ofa.supernet.channels.labels import FIXED, AtomGraph, Atoms
from ofa.supernet.channels.tracer import Source, Trace

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """Where a group's units are in one tensor.

    Args:
        tensor: Full name of the parameter or buffer.
        indices: Shape ``(num_units, per_unit)``: the indices that belong to each unit.
    """

    tensor: str
    axis: int
    indices: Ints


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units that touch the same axes of the same tensors.

    Args:
        number: Position among all groups.
        is_heads: Whether a unit is a head of attention.
        is_ordered: Whether the order of the units matters, as for a convolution that slides over channels.
    """

    number: int
    num_units: int
    sites: tuple[Site, ...]
    is_heads: bool
    is_ordered: bool

    @property
    def modules(self) -> set[str]:
        """Paths of the modules that own a touched tensor."""
        return {site.tensor.rpartition(".")[0] for site in self.sites}


@dataclass(frozen=True)
class Groups:
    """All groups of a model, and where every atom went.

    Args:
        group_of: Atom -> number of its group, -1 where it must stay.
        unit_of: Atom -> its unit in that group.
        reasons: Tensor axis that must stay -> why.
    """

    all: tuple[ChannelGroup, ...]
    group_of: Ints
    unit_of: Ints
    reasons: dict[tuple[str, int], str]


def find_groups(trace: Trace) -> Groups:
    """Connected components of the ties, gathered into groups of like units."""
    # What is tied besides, for the sake of code that splits axes, is no part of the trace.
    graph = dataclasses.replace(trace.graph, edges=list(trace.graph.edges), reasons=list(trace.graph.reasons))
    component = _with_whole_parts(graph, _with_whole_splits(graph, components(graph.num_atoms, graph.edges)))
    atom, source_of, position = _free_entries(trace.sources, component)
    entry_component = component[atom]
    starts = np.flatnonzero(np.diff(entry_component, prepend=-1))
    lengths = np.diff(np.r_[starts, len(atom)])
    first_place = source_of[starts] * (1 << 32) + position[starts]
    kind = _alike(graph, component, len(trace.sources), source_of, starts, entry_component[starts])

    of_heads, ordered = (
        {int(n) for atoms in arrays for n in component[atoms.ravel()]} for arrays in (graph.heads, graph.ordered)
    )

    # By component, as atoms of no parameter (axes whose entries are alike) are in some of them too.
    group_of = np.full(component.max() + 1, -1, dtype=np.int64)
    unit_of = np.zeros(component.max() + 1, dtype=np.int64)
    groups: list[ChannelGroup] = []
    members = [np.flatnonzero(kind == k) for k in range(kind.max() + 1)] if len(kind) else []
    members.sort(key=lambda units: int(first_place[units].min()))
    for units in members:
        units = units[np.argsort(first_place[units], kind="stable")]
        if len(units) < 2:
            continue
        entries = starts[units][:, None] + np.arange(lengths[units[0]])[None]
        sites = []
        for number in np.unique(source_of[entries[0]]):
            columns = np.flatnonzero(source_of[entries[0]] == number)
            source = trace.sources[int(number)]
            sites.append(Site(source.tensor, source.axis, position[entries[:, columns]]))
        group_of[entry_component[starts[units]]] = len(groups)
        unit_of[entry_component[starts[units]]] = np.arange(len(units))
        first = int(entry_component[starts[units[0]]])
        groups.append(ChannelGroup(len(groups), len(units), tuple(sites), first in of_heads, first in ordered))
    reasons = _reasons(graph, trace.sources, component, component[FIXED])
    return Groups(tuple(groups), group_of[component], unit_of[component], reasons)


def _free_entries(sources: Sequence[Source], component: Ints) -> tuple[Ints, Ints, Ints]:
    """Atom, number of the source and position in it, of every entry of a source that may go; component by component."""
    sizes = np.array([source.num for source in sources], dtype=np.int64)
    source_of = np.repeat(np.arange(len(sources)), sizes)
    position = np.arange(sizes.sum()) - (sizes.cumsum() - sizes)[source_of]
    atom = np.array([source.first for source in sources], dtype=np.int64)[source_of] + position
    free = component[atom] != component[FIXED]
    order = np.lexsort((position[free], source_of[free], component[atom][free]))
    return atom[free][order], source_of[free][order], position[free][order]


def _alike(
    graph: AtomGraph, component: Ints, num_sources: int, source_of: Ints, starts: Ints, component_of: Ints
) -> Ints:
    """A number for each unit, the same for units that touch the same sources and parts equally often.

    A sum of one random number for each source and part tells.
    """
    rng = np.random.default_rng(0)
    draws = rng.integers(1 << 62, size=max(1, num_sources), dtype=np.uint64)
    of_parts = np.zeros(component.max() + 1, dtype=np.uint64)
    for part in graph.parts:
        np.add.at(of_parts, component[part.ravel()], rng.integers(1 << 62, dtype=np.uint64))
    if not len(starts):
        return starts
    signatures = np.add.reduceat(draws[source_of], starts) + of_parts[component_of]
    return np.unique(signatures, return_inverse=True)[1]


def components(num_atoms: int, edges: list[tuple[Atoms, Atoms]]) -> Ints:
    """Number of the connected component of each atom."""
    first, second = np.concatenate([np.empty((2, 0), dtype=np.int64), *edges], axis=1)
    matrix = coo_matrix((np.ones(len(first), dtype=np.int8), (first, second)), shape=(num_atoms, num_atoms))
    return connected_components(matrix, directed=False)[1].astype(np.int64)


def _with_whole_splits(graph: AtomGraph, component: Ints) -> Ints:
    """Components once every axis that became several can be narrowed along one of these.

    ``(3 * heads * size,)`` as ``(3, heads, size)`` is fine if the ties leave whole heads. Where they leave anything
    else, as in a channel shuffle ``(2, C / 2)``, the other axes are tied: which one then stays free decides the number
    of units left.
    """
    for atoms, axes in graph.splits:
        inside = component[atoms]
        if any(_varies_along(inside, axes, axis) for axis in axes):
            continue
        num_units = {axis: _num_units(inside, component[FIXED], axes, axis) for axis in axes}
        free = max(axes, key=num_units.__getitem__)
        if num_units[free] < 2:
            graph.fix(atoms, "split in parts that cannot be narrowed alike")
        graph.tied_along(atoms, [axis for axis in axes if axis != free])
        component = components(graph.num_atoms, graph.edges)
    return component


def _with_whole_parts(graph: AtomGraph, component: Ints) -> Ints:
    """Components once every axis that code cuts in two can be narrowed.

    If each unit has its share of both parts, as halves that gate one another, the cut moves with the size of the axis.
    Else it stays where it is, and so must what comes before.
    """
    for atoms, axis, place in graph.boundaries:
        inside = component[atoms]
        parts = np.split(inside, [place], axis)
        first, second = (np.bincount(part.ravel(), minlength=int(inside.max()) + 1) for part in parts)
        unequal = first * parts[1].size != second * parts[0].size
        unequal[component[FIXED] : component[FIXED] + 1] = False
        if unequal.any() and (parts[0] != component[FIXED]).any():
            graph.fix(np.split(atoms, [place], axis)[0], "cut off at a fixed place")
            component = components(graph.num_atoms, graph.edges)
    return component


def _num_units(inside: Ints, fixed: int, axes: tuple[int, ...], free: int) -> int:
    """Components that would remain free if all axes but one were tied."""
    numbers, flat = np.unique(np.append(inside.ravel(), fixed), return_inverse=True)
    graph = AtomGraph(len(numbers))
    graph.tied_along(flat[:-1].reshape(inside.shape), [axis for axis in axes if axis != free])
    tied = components(graph.num_atoms, graph.edges)
    return len(np.setdiff1d(tied, tied[flat[-1]]))


def _varies_along(inside: Ints, axes: tuple[int, ...], free: int) -> bool:
    """Whether components differ along no axis but one."""
    return all((inside == inside.take([0], axis)).all() for axis in axes if axis != free)


def _reasons(graph: AtomGraph, sources: Iterable[Source], component: Ints, fixed: int) -> dict[tuple[str, int], str]:
    """Why an axis must stay: the first reason that was given for an atom of it, or for one that is tied to it."""
    free_edges = [(first[kept], second[kept]) for first, second in graph.edges if (kept := second != FIXED).any()]
    tied = components(graph.num_atoms, free_edges)
    given = np.zeros(len(tied), dtype=np.int64)
    for number, (atoms, _) in enumerate(graph.reasons, start=1):
        places = tied[atoms]
        given[places[given[places] == 0]] = number
    reasons = {}
    for source in sources:
        atoms = np.arange(source.first, source.first + source.num)
        numbers = given[tied[atoms]]
        if (component[atoms] == fixed).all():
            first = numbers[numbers > 0]
            reasons[source.tensor, source.axis] = (
                graph.reasons[int(first.min()) - 1][1] if len(first) else "tied to what must stay"
            )
    return reasons
