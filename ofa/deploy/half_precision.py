"""Networks in half precision between inputs and outputs in single precision."""

from __future__ import annotations

import copy

from torch import Tensor, nn


class HalfPrecision(nn.Module):
    """A network in float16 between a float32 input and a float32 output; the one given is left as it is."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.module(images.half())
        return outputs.float()
