"""Selections against plain indexing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ofa.nn.slicing import MAX_RUNS, Selection


def tensor(size: int, axis: int, *, device: str = "cpu") -> Tensor:
    shape = [2, 3, 2]
    shape[axis] = size
    return torch.arange(float(np.prod(shape)), device=device).reshape(shape)


@given(st.sets(st.integers(0, 39), min_size=1), st.integers(0, 2))
def test_takes_what_indexing_takes(chosen: set[int], axis: int) -> None:
    indices = np.array(sorted(chosen))
    selection = Selection.of(axis, indices)
    full = tensor(40, axis)
    assert torch.equal(selection.take(full), full.index_select(axis, torch.from_numpy(indices)))
    assert sum(length for _, length in selection.runs) == len(indices)


@given(st.sets(st.integers(0, 39), min_size=1))
def test_runs_are_the_longest_that_there_are(chosen: set[int]) -> None:
    indices = np.array(sorted(chosen))
    runs = Selection.of(0, indices).runs
    assert [i for start, length in runs for i in range(start, start + length)] == sorted(chosen)
    assert all(start + length < following for (start, length), (following, _) in itertools.pairwise(runs))


@pytest.mark.parametrize(
    ("indices", "runs"),
    [
        ([0, 1, 2], ((0, 3),)),
        ([4], ((4, 1),)),
        ([0, 1, 6, 7, 12, 13], ((0, 2), (6, 2), (12, 2))),
        ([0, 2, 3, 9], ((0, 1), (2, 2), (9, 1))),
    ],
)
def test_runs_by_hand(indices: list[int], runs: tuple[tuple[int, int], ...]) -> None:
    assert Selection.of(1, np.array(indices)) == Selection(1, runs)


def test_one_run_is_a_view() -> None:
    full = tensor(6, 1)
    taken = Selection.of(1, np.arange(2, 5)).take(full)
    assert taken.untyped_storage().data_ptr() == full.untyped_storage().data_ptr()
    full[0, 2, 0] = -1
    assert taken[0, 0, 0] == -1


@pytest.mark.parametrize("num_runs", [1, 3, MAX_RUNS, MAX_RUNS + 1])
def test_gradients_reach_what_was_taken_and_nothing_else(num_runs: int) -> None:
    indices = np.arange(0, 3 * num_runs, 3)
    full = tensor(30, 1).requires_grad_()
    selection = Selection.of(1, indices)
    assert len(selection.runs) == num_runs
    selection.take(full).sum().backward()
    expected = torch.zeros(2, 30, 2)
    expected[:, indices] = 1
    assert full.grad is not None
    assert torch.equal(full.grad, expected)


@pytest.mark.parametrize("num_runs", [1, 3, MAX_RUNS + 1])
def test_tensors_without_values(num_runs: int) -> None:
    taken = Selection.of(0, np.arange(0, 3 * num_runs, 3)).take(tensor(30, 0, device="meta"))
    assert taken.device.type == "meta"
    assert taken.shape == (num_runs, 3, 2)
