from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ofa.training.gradients import add, take, without_conflict


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


def test_taken_gradients_can_be_added_again() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.ones(2)
    taken = take(parameters)
    assert parameters[0].grad is None
    parameters[0].grad = torch.ones(2)
    add(parameters, taken)
    assert parameters[0].grad.tolist() == [2, 2]
    assert parameters[1].grad is None


def test_where_only_the_others_have_a_gradient_the_removed_part_still_counts() -> None:
    # Flat: (1, 0) and (-1, 2); their product is -1, the others' square is 5, so a fifth of the others is added.
    kept = without_conflict([torch.tensor([1.0]), None], [torch.tensor([-1.0]), torch.tensor([2.0])])
    assert [gradient.tolist() for gradient in kept if gradient is not None] == [
        pytest.approx([0.8]),
        pytest.approx([0.4]),
    ]


def test_without_others_there_is_no_conflict() -> None:
    gradients: list[Tensor | None] = [torch.tensor([1.0]), None]
    assert without_conflict(gradients, [None, None]) is gradients
    assert without_conflict(gradients, [torch.zeros(1), None]) is gradients
    assert without_conflict([None, None], [torch.ones(1), None]) == [None, None]


def test_removing_a_conflict_changes_neither_input() -> None:
    largest: list[Tensor | None] = [torch.tensor([1.0, -1.0])]
    others: list[Tensor | None] = [torch.tensor([0.0, 2.0])]
    without_conflict(largest, others)
    assert [largest[0].tolist(), others[0].tolist()] == [[1, -1], [0, 2]]  # type: ignore[union-attr]


def test_a_conflict_is_removed_where_the_gradients_are(torch_device: str) -> None:
    largest, others = torch.tensor([1.0, -1.0], device=torch_device), torch.tensor([0.0, 2.0], device=torch_device)
    (kept, missing, only) = without_conflict([largest, None, None], [others, others, None])
    assert kept is not None and missing is not None and only is None
    # The product is -2, the others' square 8: a quarter of them is added.
    assert (kept.tolist(), missing.tolist()) == ([1, -0.5], [0, 0.5])
    assert kept.device.type == torch_device
