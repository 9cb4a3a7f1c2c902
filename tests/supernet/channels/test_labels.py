"""Labels against arrays of atoms that are moved as the tensor's elements are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.supernet.channels.labels import FIXED, AtomGraph, Atoms, Labels, Operand, align, axes_of, covers, reshape


def along(graph: AtomGraph, shape: tuple[int, ...], *axes: int) -> Atoms:
    """New atoms on some axes of a shape."""
    sizes = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
    return graph.new_atoms(math.prod(sizes)).reshape(sizes)


def partition(graph: AtomGraph) -> list[set[int]]:
    """Atoms that are tied, the group of what must stay first."""
    groups = [{atom} for atom in range(graph.num_atoms)]
    where = list(range(graph.num_atoms))
    for first, second in graph.edges:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            if where[a] != where[b]:
                low, high = sorted((where[a], where[b]))
                groups[low] |= groups[high]
                for atom in groups[high]:
                    where[atom] = low
    return [groups[number] for number in sorted(set(where))]


def tied(graph: AtomGraph) -> set[frozenset[int]]:
    """Groups of more than one atom."""
    return {frozenset(group) for group in partition(graph) if len(group) > 1}


def test_axes() -> None:
    assert axes_of(np.zeros((1, 3, 1, 2))) == (1, 3)
    labels: Labels = (np.zeros((1, 3, 1)), np.zeros((2, 1, 1)))
    assert [covers(labels, axis) for axis in range(3)] == [True, True, False]


def test_aligning_puts_axes_in_front() -> None:
    operand = align((np.arange(3).reshape(3, 1),), (3, 2), 4)
    assert operand.sizes == (1, 1, 3, 2)
    assert operand.labels[0].shape == (1, 1, 3, 1)


# -- view --------------------------------------------------------------------------------------------------------------


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Two shapes of as many elements, and an axis of the first."""

    def shape(primes: list[int]) -> tuple[int, ...]:
        sizes: list[int] = []
        for prime in primes:
            if sizes and draw(st.booleans()):
                sizes[-1] *= prime
            else:
                sizes += [1] * draw(st.integers(0, 1)) + [prime]
        return tuple(sizes)

    primes = draw(st.lists(st.sampled_from([2, 2, 3]), min_size=1, max_size=4))
    before, after = shape(primes), shape(draw(st.permutations(primes)))
    return before, after, draw(st.integers(0, len(before) - 1))


@given(views())
def test_a_view_moves_atoms_as_it_moves_elements(case: tuple[tuple[int, ...], tuple[int, ...], int]) -> None:
    before, after, axis = case
    graph = AtomGraph()
    atoms = along(graph, before, axis)
    labels = reshape(graph, (atoms,), before, after, "")
    expected = np.broadcast_to(atoms, before).reshape(after)
    if before[axis] == 1:
        assert labels == ()
    else:
        (result,) = labels
        assert (np.broadcast_to(result, after) == expected).all()
        # Only the axes along which atoms differ are labelled.
        assert axes_of(result) == tuple(a for a in range(len(after)) if (expected != expected.take([0], a)).any())
    assert not graph.edges


def test_query_key_and_value_share_one_array() -> None:
    graph = AtomGraph()
    atoms = along(graph, (1, 5, 24), 2)
    (result,) = reshape(graph, (atoms,), (1, 5, 24), (1, 5, 3, 2, 4), "")
    assert result.shape == (1, 1, 3, 2, 4)
    assert (result.ravel() == atoms.ravel()).all()
    assert [axes for _, axes in graph.splits] == [(2, 3, 4)]
    (back,) = reshape(graph, (result,), (1, 5, 3, 2, 4), (1, 5, 24), "")
    assert (back == atoms).all()
    assert len(graph.splits) == 1


def test_of_axes_with_different_labels_that_are_flattened_together_the_first_may_be_shortened() -> None:
    graph = AtomGraph()
    rows, columns = along(graph, (2, 3), 0), along(graph, (2, 3), 1)
    assert [atoms.tolist() for atoms in reshape(graph, (columns, rows), (2, 3), (6,), "together")] == [
        [1, 1, 1, 2, 2, 2]
    ]
    assert partition(graph) == [{FIXED, 3, 4, 5}, {1}, {2}]
    assert {reason for _, reason in graph.reasons} == {"together"}


def test_what_is_flattened_together_leaves_other_axes_alone() -> None:
    graph = AtomGraph()
    labels = tuple(along(graph, (2, 3, 2), axis) for axis in range(3))
    kept = [[[1], [2]], [[3, 3, 4, 4, 5, 5]]]
    assert [atoms.tolist() for atoms in reshape(graph, labels, (2, 3, 2), (2, 6), "")] == kept
    assert partition(graph) == [{FIXED, 6, 7}, {1}, {2}, {3}, {4}, {5}]


def test_axes_with_different_labels_side_by_side() -> None:
    graph = AtomGraph()
    rows, columns = along(graph, (4, 3), 0), along(graph, (4, 3), 1)
    first, second = reshape(graph, (rows, columns), (4, 3), (2, 2, 1, 3), "")
    assert (first.shape, second.shape) == ((2, 2, 1, 1), (1, 1, 1, 3))
    assert not graph.edges


# -- reductions --------------------------------------------------------------------------------------------------------


def test_an_axis_that_is_summed_alone_needs_no_tie() -> None:
    graph = AtomGraph()
    rows, columns = along(graph, (2, 3), 0), along(graph, (2, 3), 1)
    assert [atoms is rows for atoms in graph.reduce((rows, columns), [1])] == [True]
    assert not graph.edges


def test_an_axis_that_is_summed_within_an_array_is_tied_along_it() -> None:
    graph = AtomGraph()
    heads = along(graph, (2, 3), 0, 1)
    (rest,) = graph.reduce((heads,), [1])
    assert rest.tolist() == [[1], [4]]
    assert tied(graph) == {frozenset({1, 2, 3}), frozenset({4, 5, 6})}


def test_collapsing_fixes_what_has_no_other_axis() -> None:
    graph = AtomGraph()
    alone, heads = along(graph, (1, 3, 1), 1), along(graph, (2, 1, 2), 0, 2)
    labels = graph.whole((alone, heads), [1, 2], "whole")
    assert [atoms.tolist() for atoms in labels] == [[[[4]], [[6]]]]
    assert tied(graph) == {frozenset({FIXED, 1, 2, 3}), frozenset({4, 5}), frozenset({6, 7})}
    assert [reason for _, reason in graph.reasons] == ["whole"]


# -- elementwise -------------------------------------------------------------------------------------------------------


def joined(graph: AtomGraph, *operands: tuple[tuple[int, ...], tuple[int, ...] | None]) -> Labels:
    """Join operands, each a shape and the axes that one array labels."""
    made = [Operand(() if axes is None else (along(graph, shape, *axes),), shape) for shape, axes in operands]
    return graph.join(made, "joined")


@pytest.mark.parametrize(
    ("operands", "expected", "labelled"),
    [
        # The same axis: tied one by one.
        ([((1, 3), (1,)), ((1, 3), (1,))], [{FIXED}, {1, 4}, {2, 5}, {3, 6}], [(1,)]),
        # A broadcast axis says nothing.
        ([((1, 3), (1,)), ((2, 1), None)], [{FIXED}, {1}, {2}, {3}], [(1,)]),
        # A constant on the axis: fixed, whichever comes first.
        ([((1, 3), (1,)), ((2, 3), None)], [{FIXED, 1, 2, 3}], []),
        ([((2, 3), None), ((1, 3), (1,))], [{FIXED, 1, 2, 3}], []),
        # Different axes live side by side.
        ([((2, 1), (0,)), ((1, 2), (1,))], [{FIXED}, {1}, {2}, {3}, {4}], [(0,), (1,)]),
        # Heads × size against heads: whole heads.
        ([((2, 2), (0, 1)), ((2, 1), (0,))], [{FIXED}, {1, 2, 5}, {3, 4, 6}], [(0, 1)]),
        ([((2, 1), (0,)), ((2, 2), (0, 1))], [{FIXED}, {1, 3, 4}, {2, 5, 6}], [(0, 1)]),
        # Heads × size against a vector over the size, common to all heads: that one is fixed.
        ([((2, 2), (0, 1)), ((1, 2), (1,))], [{FIXED, 5, 6}, {1, 2}, {3, 4}], [(0, 1)]),
        # Heads × size against a constant over the size.
        ([((2, 2), (0, 1)), ((1, 2), None)], [{FIXED}, {1, 2}, {3, 4}], [(0,)]),
        # Two arrays that share the outer axis and no other.
        ([((2, 2, 1), (0, 1)), ((2, 1, 2), (0, 2))], [{FIXED}, {1, 2, 5, 6}, {3, 4, 7, 8}], [(0,)]),
        # Two arrays that share the inner axis only.
        ([((2, 1, 2), (0, 2)), ((1, 2, 2), (1, 2))], [{FIXED, *range(1, 9)}], []),
        # Three operands.
        ([((1, 2), (1,)), ((1, 2), (1,)), ((1, 2), (1,))], [{FIXED}, {1, 3, 5}, {2, 4, 6}], [(1,)]),
    ],
)
def test_joins_by_hand(
    operands: list[tuple[tuple[int, ...], tuple[int, ...] | None]],
    expected: list[set[int]],
    labelled: list[tuple[int, ...]],
) -> None:
    graph = AtomGraph()
    labels = joined(graph, *operands)
    assert partition(graph) == expected
    assert sorted(axes_of(atoms) for atoms in labels) == labelled
