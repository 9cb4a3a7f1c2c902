"""Networks that take pictures as cameras and decoders give them, and networks in half precision.

Shapes: N images of H x W pixels, C channels (1 or 3).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FromPixels(nn.Module):
    """A network behind its own preprocessing: ``(N, H, W, C)`` uint8 to probabilities ``(N, num_classes)``.

    Args:
        module: Takes normalised images ``(N, len(mean), H, W)``.
        mean: Per channel, of pixels between 0 and 1; a grey picture is repeated for each.
    """

    def __init__(self, module: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.module = module
        scale = 1 / torch.tensor(std, dtype=torch.float32)
        self.scale = nn.Buffer((scale / 255)[:, None, None])
        self.shift = nn.Buffer((-torch.tensor(mean, dtype=torch.float32) * scale)[:, None, None])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        logits: Tensor = self.module(pixels * self.scale + self.shift)
        return logits.softmax(dim=1)


class HalfPrecision(nn.Module):
    """A network in float16 between a float32 input and a float32 output; the one given is left as it is."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.module(images.half())
        return outputs.float()
