"""What a loss is: it says how far one subnet's outputs are from the targets, or from a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from ofa.config import ConfigError
from ofa.tasks.own_code import OfCode


@dataclass(frozen=True, kw_only=True)
class Loss(OfCode):
    """Base of the losses, which are frozen dataclasses of their settings. Tasks say which fit their outputs."""

    needs_teacher = True
    """Whether something must teach: the largest subnet of the step, a frozen copy of it, or another model."""

    def label_loss(self, outputs: Any, targets: Any) -> Tensor:
        """Loss against the targets, a scalar; what trains whoever has no teacher."""
        raise NotImplementedError

    def distil(self, outputs: Any, targets: Any, teacher: Any) -> Tensor:
        """Loss of a subnet that is taught, a scalar.

        Args:
            teacher: What :meth:`ofa.tasks.Task.teaching` makes of a teacher's outputs, without gradient.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ClassLoss(Loss):
    """Base of the losses of classification; a subclass says what is learnt from the teacher's probabilities.

    Shapes: logits and the teacher's probabilities ``(N, classes)``; targets are class indices ``(N,)``, or
    probabilities ``(N, classes)`` of mixed images.

    Args:
        label_smoothing: Of the labels, wherever they are used.
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be from 0 to below 1, not {self.label_smoothing}")

    def label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy against smoothed labels."""
        return functional.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)
