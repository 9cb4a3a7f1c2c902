"""The images of a run's splits as an exported network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from ofa.config import from_mapping
from ofa.data import preprocessing
from ofa.data.resizing import to_pixels
from ofa.deploy.bundle import Preprocessing
from ofa.deploy.parity import Images, Outputs
from ofa.deploy.pixels import FromPixels, HalfPrecision
from ofa.deploy.targets import Accuracy
from ofa.training import SubnetEvaluator

NUM_CALIBRATION_IMAGES = 256

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Inputs:
    """At one resolution; ``from_pixels`` as ``(N, H, W, C)`` uint8, else normalised as ``(N, C, H, W)`` float32."""

    evaluator: SubnetEvaluator
    resolution: int
    from_pixels: bool

    @property
    def preprocessing(self) -> Preprocessing:
        """What a bundle says of its input."""
        spec = preprocessing(self.evaluator.data, self.resolution, in_graph=self.from_pixels)
        return from_mapping(Preprocessing, spec, where="preprocessing")

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.from_pixels else torch.float32

    def wrap(self, subnet: nn.Module, precision: str) -> nn.Module:
        """A calibrated subnet as a network that takes these inputs, and computes in fp16 if asked."""
        network = HalfPrecision(subnet) if precision == "fp16" else subnet
        data = self.evaluator.data
        return FromPixels(network, mean=data.mean, std=data.std) if self.from_pixels else network

    def batches(self, split: str) -> Iterator[tuple[Images, Labels]]:
        """Inputs and labels of a split."""
        for images, labels in self.evaluator.batches(split, self.resolution):
            yield self._inputs(images), labels.cpu().numpy()

    def first(self, split: str, num: int) -> Images:
        """The first inputs of a split, at most so many."""
        batches = self.evaluator.data.batches(split, batch_size=num, image_size=self.resolution)
        return self._inputs(next(iter(batches))[0])

    def accuracy(self, max_loss_points: float) -> Accuracy:
        """What INT8 may cost on the search split, and the images that its ranges come from."""
        images, labels = (np.concatenate(arrays) for arrays in zip(*self.batches("search"), strict=True))

        def top1_percent(outputs: Outputs) -> float:
            return 100 * float((outputs.argmax(axis=1) == labels).mean())

        return Accuracy(
            calibration_images=self.first("calibration", NUM_CALIBRATION_IMAGES),
            images=images,
            top1_percent=top1_percent,
            max_loss_points=max_loss_points,
        )

    def samples(self, num: int) -> tuple[list[Image.Image], tuple[int, ...]]:
        """The first test pictures and their labels. (Any run of a split holds the classes in proportion.)

        They are cropped and resized to the first of the preprocessing's sizes; doing that again changes nothing.
        """
        data = self.evaluator.data
        rows = data.splits.test[:num]
        grey, size = data.source.grey, data.resize_steps(self.resolution)[:1]
        pixels = [to_pixels(data.source.images[index], size, grey=grey) for index in rows]
        pictures = [Image.fromarray(array[0] if grey else array.transpose(1, 2, 0)) for array in pixels]
        return pictures, tuple(int(label) for label in data.source.labels[rows])

    def _inputs(self, images: Tensor) -> Images:
        images = images.cpu().contiguous()
        if not self.from_pixels:
            return images.numpy()
        data = self.evaluator.data
        mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
        pixels = ((images * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)  # exact: they were 8 bits
        return pixels[..., : 1 if data.source.grey else 3].contiguous().numpy()
