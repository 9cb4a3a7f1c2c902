"""The images of a run's splits as an exported network takes them.

Shapes: N images of H x W pixels, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from ofa.data import ImageData, Preprocessing, preprocessing
from ofa.tasks.task import Samples

BATCH_SIZE = 256

Images = npt.NDArray[np.generic]
Activation = Callable[[Tensor], Tensor]


def softmax(logits: Tensor) -> Tensor:
    """Probabilities of classes, which are the second axis."""
    return logits.softmax(dim=1)


@dataclass(frozen=True)
class ImageFeed:
    """At one resolution.

    Args:
        from_pixels: As ``(N, H, W, C)`` uint8; otherwise normalised as ``(N, C, H, W)`` float32.
        outputs: What networks are said to give; and those that take pixels, behind ``activation``.
    """

    data: ImageData
    resolution: int
    from_pixels: bool = False
    outputs: tuple[str, str] = ("logits", "probabilities")
    activation: Activation = softmax
    input: ClassVar[str] = "images"

    @property
    def preprocessing(self) -> Preprocessing:
        """What a bundle says of its input."""
        return preprocessing(self.data, self.resolution, in_graph=self.from_pixels)

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.from_pixels else torch.float32

    @property
    def output(self) -> str:
        return self.outputs[self.from_pixels]

    def wrap(self, network: nn.Module) -> nn.Module:
        """A network that takes these inputs, of one that takes normalised images."""
        if not self.from_pixels:
            return network
        return FromPixels(network, mean=self.data.mean, std=self.data.std, activation=self.activation)

    def batches(self, split: str) -> Iterator[tuple[Images, Images]]:
        """Inputs and labels of a split."""
        for images, labels in self.data.batches(split, batch_size=BATCH_SIZE, image_size=self.resolution):
            yield self._inputs(images), labels.numpy()

    def first(self, split: str, num: int) -> Images:
        """The first inputs of a split, at most so many."""
        batches = self.data.batches(split, batch_size=num, image_size=self.resolution)
        return self._inputs(next(iter(batches))[0])

    def samples(self, num: int) -> Samples:
        """The first test pictures, as PNG, and their labels. (Any run of a split holds the classes in proportion.)

        They have the first of the preprocessing's sizes already; following it again changes nothing.
        """
        data = self.data
        rows = data.splits.test[:num]
        pixels = [data.pixels_of(index, data.resize_steps(self.resolution)[:1]) for index in rows]
        pictures = [encoded_png(array[0] if len(array) == 1 else array.transpose(1, 2, 0)) for array in pixels]
        return Samples(pictures, tuple(int(label) for label in data.source.labels[rows]))

    def _inputs(self, images: Tensor) -> Images:
        images = images.contiguous()
        if not self.from_pixels:
            return images.numpy()
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.data.mean, self.data.std))
        pixels = ((images * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)  # exact: they were 8 bits
        return pixels[..., : len(self.data.look["color"])].contiguous().numpy()


class FromPixels(nn.Module):
    """A network behind its own preprocessing: ``(N, H, W, C)`` uint8 to what the activation makes of its outputs.

    Args:
        module: Takes normalised images ``(N, len(mean), H, W)``.
        mean: Per channel, of pixels between 0 and 1; a grey picture is repeated for each.
    """

    def __init__(
        self, module: nn.Module, *, mean: Sequence[float], std: Sequence[float], activation: Activation = softmax
    ) -> None:
        super().__init__()
        self.module, self.activation = module, activation
        scale = 1 / torch.tensor(std, dtype=torch.float32)
        self.scale = nn.Buffer((scale / 255)[:, None, None])
        self.shift = nn.Buffer((-torch.tensor(mean, dtype=torch.float32) * scale)[:, None, None])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        return self.activation(self.module(pixels * self.scale + self.shift))


def encoded_png(pixels: Images) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
