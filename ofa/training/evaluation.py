"""True accuracy of subnets: extracted, BN-calibrated, measured on a split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ofa.confidence import is_hopeless
from ofa.data import ImageData
from ofa.errors import UsageError
from ofa.progress import Progress
from ofa.space import Arch, Value
from ofa.supernet import Supernet
from ofa.training.bn_calibration import calibrate_bn

CACHE_BYTES = 1 << 30
NUM_TOGETHER = 8


@torch.inference_mode()
def top1_percent(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of images whose largest logit is their label's, in percent; the module's mode is left as it is."""
    num_right = num_images = 0
    for images, labels in batches:
        num_right += int((module(images).argmax(dim=1) == labels).sum())
        num_images += len(labels)
    if num_images == 0:
        raise UsageError("accuracy needs at least one image")
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
        if not self._fits(split, resolution):
            return fresh
        return self._cache.setdefault((split, resolution), list(fresh))

    def _fits(self, split: str, resolution: int) -> bool:
        """Whether the images of a split are kept in memory."""
        return len(self.data.splits[split]) * 3 * resolution**2 * 4 <= CACHE_BYTES // 8

    def calibrated(self, arch: Arch | Mapping[str, Value]) -> nn.Module:
        """The extracted subnet with BN statistics of its own, from the calibration split."""
        return self._calibrated([arch])[0]

    def _calibrated(self, archs: Sequence[Arch | Mapping[str, Value]]) -> list[nn.Module]:
        """Subnets of one resolution, in one pass over the calibration images."""
        modules: list[nn.Module] = [self.supernet.extract(arch).to(memory_format=torch.channels_last) for arch in archs]
        calibrate_bn(modules, self._calibration_images(int(archs[0]["resolution"])))
        return modules

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
        top1: npt.NDArray[np.float64] = self.race(archs, np.zeros(len(archs)), split=split, progress=progress)[:, 0]
        return top1

    def race(
        self,
        archs: Sequence[Arch],
        floors_percent: npt.NDArray[np.float64],
        *,
        split: str = "search",
        progress: Progress | None = None,
    ) -> npt.NDArray[np.float64]:
        """Accuracy of each subnet, but given up as soon as it is surely below a floor.

        Subnets of one resolution share a pass over the images where these are too many to be kept in memory.

        Args:
            floors_percent: Shape ``(N,)``; see :func:`ofa.confidence.is_hopeless`.

        Returns:
            Shape ``(N, 2)``: percent, and the number of images that it was measured on.
        """
        found, num_done = np.empty((len(archs), 2)), 0
        for rows in self._groups(archs, split):
            modules = self._calibrated([archs[row] for row in rows])
            found[rows] = self._count(modules, floors_percent[rows], split, int(archs[rows[0]]["resolution"]))
            num_done += len(rows)
            if progress is not None:
                progress(num_done, len(archs), "evaluating subnets")
        return found

    @property
    def num_together(self) -> int:
        """How many subnets are best evaluated at once: several where they share a pass over the images."""
        return 1 if self._fits("search", int(max(self.supernet.space["resolution"].values))) else NUM_TOGETHER

    def _groups(self, archs: Sequence[Arch], split: str) -> Iterable[list[int]]:
        """Positions that are evaluated together."""
        by_resolution: dict[int, list[int]] = {}
        for row, arch in enumerate(archs):
            by_resolution.setdefault(int(arch["resolution"]), []).append(row)
        for resolution, rows in by_resolution.items():
            size = 1 if self._fits(split, resolution) else NUM_TOGETHER
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    @torch.inference_mode()
    def _count(
        self, modules: Sequence[nn.Module], floors_percent: npt.NDArray[np.float64], split: str, resolution: int
    ) -> npt.NDArray[np.float64]:
        right, seen = np.zeros(len(modules), dtype=int), np.zeros(len(modules), dtype=int)
        racing = list(range(len(modules)))
        for images, labels in self.batches(split, resolution):
            for row in racing:
                right[row] += int((modules[row](images).argmax(dim=1) == labels).sum())
                seen[row] += len(labels)
            racing = [row for row in racing if not is_hopeless(right[row], seen[row], floors_percent[row])]
            if not racing:
                break
        if not seen.all():
            raise UsageError("accuracy needs at least one image")
        return np.stack([100.0 * right / seen, seen], axis=1)
