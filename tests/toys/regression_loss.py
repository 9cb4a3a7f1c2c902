"""A number as it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ofa.tasks.losses.loss import Loss


@dataclass(frozen=True, kw_only=True)
class Distance(Loss):
    """Huber's distance to what the teacher says; shapes ``(N, 1)``, of targets ``(N,)``."""

    def label_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.smooth_l1_loss(outputs[:, 0].float(), targets.float())

    def distil(self, outputs: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
        return functional.smooth_l1_loss(outputs.float(), teacher.float())
