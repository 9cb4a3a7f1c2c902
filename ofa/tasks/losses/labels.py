"""Every subnet learns from the labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ofa.tasks.losses.loss import ClassLoss


@dataclass(frozen=True, kw_only=True)
class Labels(ClassLoss):
    """Every subnet learns from the labels.

    By cross-entropy, whether there is a teacher or not.
    """

    @property
    def needs_teacher(self) -> bool:
        return False

    def distil(self, logits: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
        return self.label_loss(logits, targets)
