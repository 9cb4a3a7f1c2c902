"""Losses against their formulas, differentiated by torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ofa.config import ConfigError
from ofa.tasks.losses import LOSSES, ClassLoss
from ofa.tasks.losses.alpha_divergence import AlphaDivergence
from ofa.tasks.losses.alpha_divergence import _divergence as divergence_of
from ofa.tasks.losses.soft_labels import SoftLabels

NAMES = [name for name, kind in LOSSES.items() if issubclass(kind, ClassLoss)]


def example(seed: int = 0, *, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and a teacher's probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(6, 5, generator=generator)).requires_grad_()
    labels = torch.randint(5, (6,), generator=generator)
    return logits, labels, (scale * torch.randn(6, 5, generator=generator)).softmax(1)


@pytest.mark.parametrize("name", NAMES)
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
    signs = torch.sub(*(divergence(teacher, logits, alpha) for alpha in alphas)).sign()
    assert set(signs.tolist()) == {-1, 1}  # each of the two is the larger for some images
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
    with pytest.raises(ConfigError, match=r"alpha_min must be negative and alpha_max positive, not -1\.0 and 0\.0"):
        AlphaDivergence(alpha_max=0.0)
    with pytest.raises(ConfigError, match="clip must be positive, not 0"):
        AlphaDivergence(clip=0)
    with pytest.raises(ConfigError, match="label_weight must not be negative, but is -1"):
        SoftLabels(label_weight=-1)


def test_alpha_1_is_the_kl_divergence() -> None:
    _, labels, _ = example()
    teacher = torch.tensor([[0.6, 0.1, 0.1, 0.1, 0.1]]).repeat(6, 1)
    flat = torch.zeros(6, 5, requires_grad=True)  # with alpha -> 0 from below the other one is KL(student || teacher)
    value = AlphaDivergence(alpha_min=-1e-3, clip=1e6).distil(flat, labels, teacher)
    forward = nn.functional.kl_div(flat.log_softmax(1), teacher, reduction="batchmean")
    reverse = nn.functional.kl_div(teacher.log(), flat.softmax(1), reduction="batchmean")
    assert forward.item() > reverse.item()
    torch.testing.assert_close(value, forward)
    torch.testing.assert_close(*(torch.autograd.grad(each, flat)[0] for each in (value, forward)))


@pytest.mark.parametrize("clip", [0.5, 2.0, 5.0])
def test_clipped_importance_weights_by_hand(clip: float) -> None:
    logits, labels, teacher = example(scale=2)
    log_student = logits.log_softmax(1)
    student = log_student.detach().exp()
    weights = (student / teacher).clamp(max=clip)  # alpha = -1
    low = (student * (weights - 1) / 2).sum(1)
    high = (teacher * (teacher / student).log()).sum(1)
    gradient = torch.where((low > high)[:, None], student * weights, -teacher)  # KL's is not clipped
    (expected,) = torch.autograd.grad((gradient * log_student).sum(1).mean(), logits)
    value = AlphaDivergence(clip=clip).distil(logits, labels, teacher)
    torch.testing.assert_close(value, torch.maximum(low, high).mean())
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], expected)


def test_alpha_divergence_takes_the_larger_of_each_image() -> None:
    logits, labels, teacher = example(scale=2)
    loss = AlphaDivergence()
    each = [loss.distil(logits[i : i + 1], labels[i : i + 1], teacher[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(loss.distil(logits, labels, teacher), torch.stack(each).mean())


@pytest.mark.parametrize("name", NAMES)
def test_certain_teachers_and_students_give_finite_gradients(name: str) -> None:
    labels = torch.tensor([0, 1])
    logits = torch.tensor([[200.0, -200.0, 0.0], [200.0, -200.0, 0.0]], requires_grad=True)
    teacher = torch.eye(3)[[0, 1]]
    value = LOSSES[name]().distil(logits, labels, teacher)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_half_precision_lose_nothing_in_the_loss(name: str) -> None:
    logits, labels, teacher = example(scale=4)
    half = logits.detach().bfloat16().requires_grad_()
    same = half.detach().float().requires_grad_()
    loss = LOSSES[name]()
    torch.testing.assert_close(loss.distil(half, labels, teacher), loss.distil(same, labels, teacher))
    torch.testing.assert_close(loss.label_loss(half, labels), loss.label_loss(same, labels))


def test_label_smoothing_by_hand() -> None:
    logits, labels, _ = example()
    smooth = 0.8 * torch.eye(5)[labels] + 0.2 / 5
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    for name in NAMES:
        torch.testing.assert_close(LOSSES[name](label_smoothing=0.2).label_loss(logits, labels), expected, msg=name)
    torch.testing.assert_close(LOSSES["labels"](label_smoothing=0.2).distil(logits, labels, logits), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_mixed_labels_is_the_mixed_loss(name: str) -> None:
    logits, labels, _ = example()
    one_hot, loss = torch.eye(5)[labels], LOSSES[name]()
    torch.testing.assert_close(loss.label_loss(logits, one_hot), loss.label_loss(logits, labels))
    mixed = 0.3 * one_hot + 0.7 * one_hot.flip(0)
    both = 0.3 * loss.label_loss(logits, labels) + 0.7 * loss.label_loss(logits, labels.flip(0))
    torch.testing.assert_close(loss.label_loss(logits, mixed), both)


def test_soft_labels_pull_a_student_to_its_teacher() -> None:
    logits, labels, teacher = example()
    (gradient,) = torch.autograd.grad(SoftLabels().distil(logits, labels, teacher), logits)
    torch.testing.assert_close(gradient, (logits.softmax(1) - teacher).detach() / 6)


@pytest.mark.parametrize("alphas", [(-1.0, 1.0), (-0.5, 2.0)])
@pytest.mark.parametrize("clip", [0.5, 5.0])
def test_no_gradient_exceeds_what_clipped_weights_allow(alphas: tuple[float, float], clip: float) -> None:
    """``d/dz_j = (-q_j w_j + q_j sum_i q_i w_i) / alpha`` with weights of at most ``clip``, over six images."""
    loss = AlphaDivergence(alpha_min=alphas[0], alpha_max=alphas[1], clip=clip)
    for seed in range(20):
        logits, labels, teacher = example(seed, scale=6)
        (gradient,) = torch.autograd.grad(loss.distil(logits, labels, teacher), logits)
        assert (gradient.abs() <= max(clip / min(map(abs, alphas)), 1) / 6 + 1e-6).all()  # KL's is at most 1


@pytest.mark.parametrize("num_classes", [10, 1000])
def test_a_sure_teacher_is_heard_among_many_classes(num_classes: int) -> None:
    """A student that knows nothing gets the KL divergence's gradient, ``q - p``, however many classes there are."""
    logits = torch.zeros(1, num_classes, requires_grad=True)
    teacher = torch.full((1, num_classes), 0.1 / (num_classes - 1))
    teacher[0, 0] = 0.9
    (gradient,) = torch.autograd.grad(divergence_of(logits.log_softmax(1), teacher, 1.0, clip=5.0).sum(), logits)
    assert float(gradient[0, 0]) == pytest.approx(1 / num_classes - 0.9, rel=1e-4)
