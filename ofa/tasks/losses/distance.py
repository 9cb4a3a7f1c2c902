"""Distance of numbers: squared where it is small, as it is further away."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ofa.config import ConfigError
from ofa.tasks.losses.loss import TaughtLoss


@dataclass(frozen=True, kw_only=True)
class Distance(TaughtLoss):
    """Huber's distance from the number that is right, or that the teacher says.

    Shapes: outputs, targets and the teacher's numbers ``(N,)``.

    Args:
        beta: Below it the distance is squared, in standard deviations of the numbers.

    References:
        Huber, Robust estimation of a location parameter, 1964.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ConfigError(f"beta must be positive, not {self.beta}")

    def between(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.smooth_l1_loss(outputs, targets, beta=self.beta)
