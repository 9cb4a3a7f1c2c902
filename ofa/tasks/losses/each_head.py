"""Several heads: each learns by a loss of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ofa.config import ConfigError
from ofa.tasks.losses.loss import Loss


@dataclass(frozen=True, kw_only=True)
class EachHead(Loss):
    """The weighted sum of a loss for each head.

    Shapes: outputs, targets and what a teacher says are mappings with the names of the heads.

    Args:
        losses: By head.
        weights: By head, 1 unless told.
    """

    losses: dict[str, Loss] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if strangers := sorted(self.weights.keys() - self.losses.keys()):
            raise ConfigError(f"weights has {', '.join(strangers)}, which losses has not")
        if min(self.weights.values(), default=0) < 0:
            raise ConfigError(f"weights must not be negative, but are {self.weights}")

    @property
    def needs_teacher(self) -> bool:
        return any(loss.needs_teacher for loss in self.losses.values())

    def describe(self) -> str:
        each = (f"{head.capitalize()}: {loss.describe()}" for head, loss in self.losses.items())
        return " ".join(each) or super().describe()

    def label_loss(self, outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Tensor:
        return self._sum({head: loss.label_loss(outputs[head], targets[head]) for head, loss in self.losses.items()})

    def distil(self, outputs: Mapping[str, Any], targets: Mapping[str, Any], teacher: Mapping[str, Any]) -> Tensor:
        return self._sum(
            {
                head: loss.distil(outputs[head], targets[head], teacher[head])
                if loss.needs_teacher
                else loss.label_loss(outputs[head], targets[head])
                for head, loss in self.losses.items()
            }
        )

    def _sum(self, found: Mapping[str, Tensor]) -> Tensor:
        total: Tensor = sum(self.weights.get(head, 1.0) * loss for head, loss in found.items())  # type: ignore[assignment]
        return total
