from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.space import Dim, SearchSpace
from ofa.training.sandwich import sandwich

SPACE = SearchSpace(
    (
        Dim("resolution", (20, 24, 28, 32)),
        Dim("depth", (1, 2)),
        Dim("block0.kernel", (3, 5)),
        Dim("block1.kernel", (3, 5, 7), ("depth", (2,))),
    )
)


@given(st.integers(0, 5), st.integers(0, 1000))
def test_largest_first_smallest_last_random_between(num_random: int, seed: int) -> None:
    archs = sandwich(SPACE, num_random=num_random, rng=np.random.default_rng(seed))
    assert len(archs) == num_random + 2
    assert archs[0] == SPACE.largest()
    assert archs[-1] == SPACE.smallest()
    assert all(SPACE.arch(dict(arch)) == arch for arch in archs)
    assert archs == sandwich(SPACE, num_random=num_random, rng=np.random.default_rng(seed))


def test_random_ones_vary_in_everything() -> None:
    rng = np.random.default_rng(0)
    drawn = [arch for _ in range(50) for arch in sandwich(SPACE, num_random=2, rng=rng)[1:-1]]
    for dim in SPACE.dims:
        assert {arch.get(dim.name) for arch in drawn} - {None} == set(dim.values)


def test_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="num_random must be at least 0, not -1"):
        sandwich(SPACE, num_random=-1, rng=np.random.default_rng(0))
