from __future__ import annotations

import numpy as np
import pytest
import torch

from ofa.training.distillation import in_place_distillation, label_loss

LOGITS = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]])
TEACHER = torch.tensor([[0.0, 1.0, 1.0], [-2.0, 0.0, 2.0]])


def softmax(logits: torch.Tensor) -> np.ndarray:
    exponentials = np.exp(logits.detach().numpy().astype(float))
    result: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def test_distillation_is_the_cross_entropy_of_two_softmaxes() -> None:
    expected = -(softmax(TEACHER) * np.log(softmax(LOGITS))).sum(axis=1).mean()
    assert in_place_distillation(LOGITS, TEACHER).item() == pytest.approx(expected, rel=1e-6)


def test_gradient_is_the_difference_of_probabilities_and_stops_at_the_teacher() -> None:
    logits, teacher = LOGITS.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    in_place_distillation(logits, teacher).backward()
    assert teacher.grad is None
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), (softmax(LOGITS) - softmax(TEACHER)) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_loss_with_smoothing_by_hand(smoothing: float) -> None:
    labels = torch.tensor([1, 0])
    targets = np.full((2, 3), smoothing / 3) + np.eye(3)[labels] * (1 - smoothing)
    expected = -(targets * np.log(softmax(LOGITS))).sum(axis=1).mean()
    assert label_loss(LOGITS, labels, label_smoothing=smoothing).item() == pytest.approx(expected, rel=1e-6)
