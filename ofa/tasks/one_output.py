"""One of the tensors that a network gives."""

from __future__ import annotations

from torch import Tensor, nn

from ofa.inputs import tensors_in


class OneOutput(nn.Module):
    """The first tensor of what a network gives, or another.

    Args:
        number: Counted from 0, in the order of a pytree's leaves.
    """

    def __init__(self, module: nn.Module, number: int = 0) -> None:
        super().__init__()
        self.module, self.number = module, number
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return tensors_in(self.module(inputs))[self.number]
