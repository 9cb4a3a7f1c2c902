from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from ofa.training.gradients import add, all_reduce_mean, take, without_conflict


def flat(gradients: list[Tensor | None]) -> Tensor:
    return torch.cat([torch.zeros(2) if gradient is None else gradient for gradient in gradients])


def test_a_conflict_is_removed_by_hand() -> None:
    (kept,) = without_conflict([torch.tensor([1.0, -1.0])], [torch.tensor([0.0, 2.0])])
    assert kept is not None
    assert kept.tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_opposes_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    largest: list[Tensor | None] = [torch.randn(2, generator=generator) for _ in range(3)]
    others: list[Tensor | None] = [torch.randn(2, generator=generator) for _ in range(3)]
    largest[0], others[1] = None, None
    before = float(flat(largest) @ flat(others))
    result = without_conflict(largest, others)
    if before >= 0:
        assert result is largest
    else:
        assert float(flat(result) @ flat(others)) == pytest.approx(0, abs=1e-5)
        removed = flat(largest) - flat(result)
        assert float(removed @ flat(result)) == pytest.approx(0, abs=1e-5)  # a projection


def test_one_call_averages_gradients_and_numbers() -> None:
    calls: list[int] = []

    def doubled(tensor: Tensor) -> Tensor:  # two processes with the same values
        calls.append(tensor.numel())
        return tensor * 2

    sets: list[list[Tensor | None]] = [[torch.ones(2, 3), None], [torch.full((2, 3), 2.0), torch.zeros(())]]
    averaged, numbers = all_reduce_mean(sets, torch.tensor([5.0, 1.0]), doubled, 2)
    assert calls == [6 + 6 + 1 + 2]
    assert numbers.tolist() == [5, 1]
    for before, after in zip(itertools.chain(*sets), itertools.chain(*averaged), strict=True):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            torch.testing.assert_close(after, before)


def test_taken_gradients_can_be_added_again() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.ones(2)
    taken = take(parameters)
    assert parameters[0].grad is None
    parameters[0].grad = torch.ones(2)
    add(parameters, taken)
    assert parameters[0].grad.tolist() == [2, 2]
    assert parameters[1].grad is None
