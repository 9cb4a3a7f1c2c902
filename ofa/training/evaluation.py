"""True accuracy of subnets: extracted, BN-calibrated, measured on a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ofa.data import ImageData
from ofa.space import Arch, Value
from ofa.supernet import Supernet
from ofa.training.bn_calibration import calibrate_bn

CACHE_BYTES = 1 << 30

Progress = Callable[[int, int, str], None]


@torch.inference_mode()
def top1_percent(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of images whose largest logit is their label's, in percent; the module's mode is left as it is."""
    num_right = num_images = 0
    for images, labels in batches:
        num_right += int((module(images).argmax(dim=1) == labels).sum())
        num_images += len(labels)
    if num_images == 0:
        raise ValueError("accuracy needs at least one image")
    return 100.0 * num_right / num_images


@dataclass
class SubnetEvaluator:
    """Evaluates many subnets over the same images; those that fit are normalised and resized once per resolution.

    Args:
        num_calibration_images: At most this many of the calibration split; whole batches where there is more than one.
    """

    supernet: Supernet
    data: ImageData
    batch_size: int = 256
    num_calibration_images: int = 1024
    _cache: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = field(default_factory=dict, repr=False)

    def batches(self, split: str, resolution: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Images and labels of a split, on the supernet's device, channels last."""
        if (split, resolution) in self._cache:
            return self._cache[split, resolution]
        device = next(self.supernet.parameters()).device
        fresh = (
            (images.to(memory_format=torch.channels_last), labels)
            for images, labels in self.data.batches(
                split, batch_size=self.batch_size, image_size=resolution, device=device
            )
        )
        num_bytes = len(self.data.splits[split]) * 3 * resolution**2 * 4
        if num_bytes > CACHE_BYTES // 8:
            return fresh
        return self._cache.setdefault((split, resolution), list(fresh))

    def calibrated(self, arch: Arch | Mapping[str, Value]) -> nn.Module:
        """The extracted subnet with BN statistics of its own, from the calibration split."""
        module: nn.Module = self.supernet.extract(arch).to(memory_format=torch.channels_last)
        return calibrate_bn(module, self._calibration_images(int(arch["resolution"])))

    def _calibration_images(self, resolution: int) -> Iterable[Tensor]:
        num_images = 0
        for images, _ in self.batches("calibration", resolution):
            if num_images and (len(images) < self.batch_size or num_images >= self.num_calibration_images):
                return  # every batch counts the same in the statistics, so a short last one is left out
            num_images += len(images)
            yield images

    def top1_percent(
        self, archs: Sequence[Arch], *, split: str = "search", progress: Progress | None = None
    ) -> npt.NDArray[np.float64]:
        """Accuracy of each subnet, shape ``(N,)``, percent."""
        scores = np.empty(len(archs))
        for row, arch in enumerate(archs):
            scores[row] = top1_percent(self.calibrated(arch), self.batches(split, int(arch["resolution"])))
            if progress is not None:
                progress(row + 1, len(archs), "evaluating subnets")
        return scores
