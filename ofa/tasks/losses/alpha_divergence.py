"""Adaptive alpha-divergence: a student is corrected where it over- and where it underestimates its teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ofa.config import ConfigError
from ofa.tasks.losses.loss import ClassLoss


@dataclass(frozen=True, kw_only=True)
class AlphaDivergence(ClassLoss):
    """For each image the larger of two alpha-divergences between teacher and student.

    Args:
        alpha_min: Negative: punishes a student that is sure where the teacher is not.
        alpha_max: Positive: punishes a student that is unsure where the teacher is sure; 1 is the KL divergence.
        clip: Importance weights ``(p / q) ** alpha`` are clipped here, which bounds the gradient. At alpha 1 the
            gradient is at most 1 without, and they are left alone, as in the authors' code: with a thousand classes
            clipped weights would take the teacher's signal away.

    References:
        Wang et al., AlphaNet, arXiv:2102.07954, eq. 5 to 8 and algorithm 1: alpha -1 and 1, weights clipped at 5.
    """

    alpha_min: float = -1.0
    alpha_max: float = 1.0
    clip: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.alpha_min < 0 < self.alpha_max):
            raise ConfigError(
                f"alpha_min must be negative and alpha_max positive, not {self.alpha_min} and {self.alpha_max}"
            )
        if self.clip <= 0:
            raise ConfigError(f"clip must be positive, not {self.clip}")

    def describe(self) -> str:
        return (
            f"Their teacher's probabilities, by the larger of two alpha-divergences ({self.alpha_min:g} and "
            f"{self.alpha_max:g})."
        )

    def distil(self, logits: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
        student = logits.float().log_softmax(dim=1)
        teacher = teacher.float()
        low = _divergence(student, teacher, self.alpha_min, self.clip)
        high = _divergence(student, teacher, self.alpha_max, self.clip)
        return torch.maximum(low, high).mean()


def _divergence(log_student: Tensor, teacher: Tensor, alpha: float, clip: float) -> Tensor:
    """D_alpha(teacher || student) of each image ``(N,)``, whose gradient has clipped importance weights.

    The divergence is ``sum q ((p / q)^alpha - 1) / (alpha (alpha - 1))``, and its gradient with respect to ``log q`` is
    ``-q (p / q)^alpha / alpha``. The value is computed without gradient; a term that is zero carries it.
    """
    with torch.no_grad():
        student = log_student.exp()
        log_ratio = teacher.clamp(min=1e-12).log() - log_student
        if alpha == 1:
            weighted, value = teacher, (teacher * log_ratio).sum(1)
        else:
            weighted = student * (alpha * log_ratio).exp().clamp(max=clip)
            value = (weighted - student).sum(1) / (alpha * (alpha - 1))
    carrier = -(weighted / alpha * log_student).sum(1)
    return value + carrier - carrier.detach()
