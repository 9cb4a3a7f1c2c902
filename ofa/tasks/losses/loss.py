"""What a loss is: it says how far one subnet's logits are from the labels, or from a teacher."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ofa.config import ConfigError, Named


@dataclass(frozen=True, kw_only=True)
class Loss(Named):
    """Base of the losses, which are frozen dataclasses of their settings.

    Args:
        label_smoothing: Of the labels, wherever they are used.
    """

    label_smoothing: float = 0.1

    needs_teacher = True
    """Whether something must teach: the largest subnet of the step, a frozen copy of it, or another model."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be from 0 to below 1, not {self.label_smoothing}")

    def label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy against smoothed labels; what trains whoever has no teacher.

        Args:
            logits: ``(N, classes)``.
            targets: Class indices ``(N,)``, or probabilities ``(N, classes)`` of mixed images.
        """
        return functional.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)

    def distil(self, logits: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
        """Loss of a subnet that is taught, a scalar.

        Args:
            logits: ``(N, classes)``.
            targets: As in :meth:`label_loss`.
            teacher: The teacher's probabilities ``(N, classes)``, without gradient.
        """
        raise NotImplementedError
