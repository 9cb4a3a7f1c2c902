"""The distance of probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ofa.tasks.losses.loss import ClassLoss


@dataclass(frozen=True, kw_only=True)
class Brier(ClassLoss):
    """Squared distance to the teacher's probabilities."""

    def distil(self, logits: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
        return (logits.float().softmax(dim=1) - teacher.float()).square().sum(dim=1).mean()
