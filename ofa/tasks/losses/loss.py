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

    @property
    def needs_teacher(self) -> bool:
        """Whether something must teach: the largest subnet of the step, a frozen copy of it, or another model."""
        return True

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
class TaughtLoss(Loss):
    """Base of the losses that compare outputs with targets and with what a teacher says in the same way.

    Args:
        distils: Whether subnets that are taught learn from the teacher; otherwise all learn from the targets.
        target_weight: Weight of the loss against the targets that is added for those that are taught.
    """

    distils: bool = True
    target_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.target_weight < 0:
            raise ConfigError(f"target_weight must not be negative, but is {self.target_weight}")

    @property
    def needs_teacher(self) -> bool:
        return self.distils

    def between(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How far outputs are from what is right, a scalar."""
        raise NotImplementedError

    def describe(self) -> str:
        if not self.distils:
            return "The targets."
        return "What their teacher says" + (" and the targets." if self.target_weight else ".")

    def label_loss(self, outputs: Any, targets: Any) -> Tensor:
        return self.between(outputs.float(), targets.float())

    def distil(self, outputs: Any, targets: Any, teacher: Any) -> Tensor:
        if not self.distils:
            return self.label_loss(outputs, targets)
        loss = self.between(outputs.float(), teacher.float())
        return loss + self.target_weight * self.label_loss(outputs, targets) if self.target_weight else loss


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
