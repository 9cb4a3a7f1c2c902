"""In-place distillation: subnets learn the largest one's soft labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ofa.config import ConfigError
from ofa.tasks.losses.loss import ClassLoss


@dataclass(frozen=True, kw_only=True)
class SoftLabels(ClassLoss):
    """Cross-entropy against the teacher's soft labels, with or without the labels themselves.

    Args:
        label_weight: Weight of the label loss that is added: 0 in BigNAS, 1 in Once-for-All.

    References:
        Yu et al., BigNAS, arXiv:2003.11142, sec. 3.1: temperature 1, the teacher's gradient stopped, no label term.
        Cai et al., Once-for-All, arXiv:1908.09791, sec. 3.3: soft and real labels together.
    """

    label_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_weight < 0:
            raise ConfigError(f"label_weight must not be negative, but is {self.label_weight}")

    def describe(self) -> str:
        return "Their teacher's soft labels" + (" and the labels themselves." if self.label_weight else ".")

    def distil(self, logits: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
        loss = functional.cross_entropy(logits.float(), teacher.float())
        return loss + self.label_weight * self.label_loss(logits, targets) if self.label_weight else loss
