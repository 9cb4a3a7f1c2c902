"""Several classes may be right: each is a question of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ofa.tasks.losses.loss import TaughtLoss


@dataclass(frozen=True, kw_only=True)
class EachClass(TaughtLoss):
    """Binary cross-entropy, of each class for itself, with what is right or with the teacher's probabilities.

    Shapes: logits, targets from 0 to 1, and the teacher's probabilities ``(N, classes)``.
    """

    def between(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, targets)
