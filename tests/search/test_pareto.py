from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ofa.search.pareto import Evaluations, hypervolume, non_dominated


def points(num_objectives: int) -> st.SearchStrategy[np.ndarray]:
    """Small integers, so that equal coordinates and equal points are common."""
    shape = st.tuples(st.integers(0, 25), st.just(num_objectives))
    return hnp.arrays(np.float64, shape, elements=st.integers(0, 6).map(float))


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_non_dominated_is_brute_force(num_objectives, data):
    values = data.draw(points(num_objectives))
    expected = [not any((other <= point).all() and (other < point).any() for other in values) for point in values]
    assert non_dominated(values).tolist() == expected


@pytest.mark.parametrize("num_objectives", [1, 2, 3])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_hypervolume_counts_unit_cells(num_objectives, data):
    values = data.draw(points(num_objectives))
    cells = itertools.product(range(5), repeat=num_objectives)
    expected = sum(any((point <= cell).all() for point in values) for cell in map(np.array, cells))
    assert hypervolume(values, [5.0] * num_objectives) == pytest.approx(expected)


def test_hypervolume_by_hand():
    # A staircase: 1 x 1 and 2 x 2 under the corner (4, 5), of which 1 x 1 is shared; the third point is outside.
    assert hypervolume([[2, 3], [3, 4], [5, 0]], [4, 5]) == pytest.approx(4)
    assert hypervolume([[1, 4], [3, 2]], [4, 5]) == pytest.approx(3 * 1 + 1 * 3 - 1)
    assert hypervolume(np.empty((0, 2)), [4, 5]) == 0


def test_a_large_population_has_its_known_front():
    rng = np.random.default_rng(0)
    x = rng.random(1000)
    front = np.column_stack([x, 1 - x])
    values = np.concatenate([front, front[rng.integers(1000, size=99_000)] + rng.uniform(1e-6, 1, (99_000, 2))])
    assert np.flatnonzero(non_dominated(values)).tolist() == list(range(1000))


def test_front_of_evaluations():
    evaluations = Evaluations(np.array([[0], [1], [2]]), np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0]]))
    assert evaluations.front().population.tolist() == [[0], [2]]


def test_bad_values():
    with pytest.raises(ValueError, match=r"NaN in rows \[1\]"):
        non_dominated([[0, 0], [0, np.nan]])
    with pytest.raises(ValueError, match=r"shape \(N, M\), not \(2,\)"):
        non_dominated([0, 1])
    with pytest.raises(ValueError, match=r"has shape \(2,\), not \(3,\)"):
        hypervolume([[0, 0]], [1, 1, 1])
