from __future__ import annotations

import numpy as np
import pytest

from ofa.search.sampling import sample_distinct, spread, take_unseen
from ofa.space import Dim, SearchSpace

SMALL = SearchSpace((Dim("a", (1, 2, 3)), Dim("b", (1, 2), ("a", (3,)))))  # 4 architectures


def test_take_unseen_keeps_the_first_of_each():
    seen: set[bytes] = set()
    population = SMALL.to_population(np.array([[0, 0], [2, 1], [0, 0], [2, 0]]))
    assert take_unseen(SMALL, population, seen).tolist() == [[0, 0], [2, 1], [2, 0]]
    assert take_unseen(SMALL, population, seen).tolist() == []


def test_sample_distinct_ends_when_the_space_is_exhausted(space):
    rng = np.random.default_rng(0)
    assert len(sample_distinct(SMALL, 100, rng, set())) == SMALL.num_archs == 4
    assert len(np.unique(sample_distinct(space, 500, rng, set()), axis=0)) == 500


def test_sample_distinct_gives_back_what_it_drew_too_much(space):
    seen: set[bytes] = set()
    first = sample_distinct(space, 3, np.random.default_rng(0), seen)
    assert seen == set(space.row_keys(first).tolist())
    second = sample_distinct(space, 3, np.random.default_rng(0), seen)
    assert not np.isin(space.row_keys(second), space.row_keys(first)).any()


@pytest.mark.parametrize(
    ("num", "expected"), [(0, []), (1, [3]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_spread_by_hand(num, expected):
    assert spread(np.array([5.0, 10.0, 9.9, 0.0]), num).tolist() == expected
