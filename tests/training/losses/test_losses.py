"""Losses against their formulas, differentiated by torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ofa.config import ConfigError
from ofa.training.losses import LOSSES
from ofa.training.losses.alpha_divergence import AlphaDivergence
from ofa.training.losses.soft_labels import SoftLabels


def example(seed: int = 0, *, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and a teacher's probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(6, 5, generator=generator)).requires_grad_()
    labels = torch.randint(5, (6,), generator=generator)
    return logits, labels, (scale * torch.randn(6, 5, generator=generator)).softmax(1)


@pytest.mark.parametrize("name", LOSSES)
def test_contract(name: str) -> None:
    loss = LOSSES[name]()
    logits, labels, teacher = example(scale=8)
    mixed = torch.eye(5)[labels].roll(1, 0) * 0.3 + torch.eye(5)[labels] * 0.7
    for targets in (labels, mixed):
        for value in (loss.label_loss(logits, targets), loss.distil(logits, targets, teacher)):
            assert value.shape == ()
            (gradient,) = torch.autograd.grad(value, logits)
            assert gradient.isfinite().all()
            assert gradient.abs().sum() > 0
    assert loss.name == name
    with pytest.raises(ConfigError, match="label_smoothing must be from 0 to below 1, not 1"):
        LOSSES[name](label_smoothing=1)


@pytest.mark.parametrize("name", ["soft_labels", "alpha_divergence"])
def test_a_student_that_equals_its_teacher_stays(name: str) -> None:
    logits, labels, _ = example()
    value = LOSSES[name]().distil(logits, labels, logits.detach().softmax(1))
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.abs().max() < 1e-6


def test_soft_labels_by_hand() -> None:
    logits, labels, teacher = example()
    soft = -(teacher * logits.log_softmax(1)).sum(1).mean()
    hard = -logits.log_softmax(1)[torch.arange(6), labels].mean()
    torch.testing.assert_close(SoftLabels().distil(logits, labels, teacher), soft)
    both = SoftLabels(label_weight=0.5, label_smoothing=0).distil(logits, labels, teacher)
    torch.testing.assert_close(both, soft + 0.5 * hard)


def divergence(teacher: Tensor, logits: Tensor, alpha: float) -> Tensor:
    """The textbook's, of each image."""
    student = logits.softmax(1)
    if alpha == 1:
        return (teacher * (teacher / student).log()).sum(1)
    return ((teacher**alpha * student ** (1 - alpha)).sum(1) - 1) / (alpha * (alpha - 1))


@pytest.mark.parametrize("alphas", [(-1.0, 1.0), (-0.5, 0.5), (-2.0, 2.0)])
def test_alpha_divergence_is_the_larger_of_two(alphas: tuple[float, float]) -> None:
    logits, labels, teacher = example(scale=0.7)
    expected = torch.maximum(*(divergence(teacher, logits, alpha) for alpha in alphas)).mean()
    loss = AlphaDivergence(alpha_min=alphas[0], alpha_max=alphas[1], clip=1e6)
    actual = loss.distil(logits, labels, teacher)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_clipping_bounds_the_gradient() -> None:
    logits, labels, _ = example(scale=2)
    teacher = (-3 * logits.detach()).softmax(1)
    sizes = []
    for clip in (5.0, 1e6):
        (gradient,) = torch.autograd.grad(AlphaDivergence(clip=clip).distil(logits, labels, teacher), logits)
        sizes.append(float(gradient.abs().max()))
    assert sizes[0] <= 5 / 6  # a mean over six images
    assert sizes[1] > 20


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"alpha_min must be negative and alpha_max positive, not 1\.0 and 1\.0"):
        AlphaDivergence(alpha_min=1.0)
    with pytest.raises(ConfigError, match="label_weight must not be negative, but is -1"):
        SoftLabels(label_weight=-1)
