"""Networks that look for objects: logits of classes and boxes at several strides, nothing of them decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.ssd import SSD

FEW = 0.01
"""Share of the places that are taken for objects at first (Lin et al., Focal loss, arXiv:1708.02002, sec. 4.1)."""

Maps = tuple[list[Tensor], list[Tensor]]
"""Logits ``(N, A * num_classes, h, w)`` and boxes ``(N, A * 4, h, w)`` for each stride, from fine to coarse."""


class PointDetector(nn.Module):
    """A pyramid of features, and at each place of each level the classes and the distances to four sides: no anchors.

    Args:
        backbone: Gives a list of feature maps, fine to coarse.
        channels: Of these.

    Shape:
        - images: ``(N, in_chans, H, W)``
        - output: see :data:`Maps`, with one box for each place

    References:
        Tian et al., FCOS, arXiv:1904.01355, with the pyramid of Lin et al., arXiv:1612.03144; as networks for phones
        have it, with depthwise convolutions, each level its own and classes and boxes from the same ones. How good a
        box is tells the loss (see :class:`ofa.tasks.losses.QualityFocal`), in place of centre-ness.
    """

    def __init__(
        self, backbone: nn.Module, channels: Sequence[int], *, num_classes: int, width: int = 96, num_blocks: int = 2
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(_convolution(each, width, 1) for each in channels)
        self.towers = nn.ModuleList(
            nn.Sequential(*(_separable(width) for _ in range(num_blocks))) for _ in range(len(channels))
        )
        self.classes = nn.ModuleList(starting_with_few(nn.Conv2d(width, num_classes, 1)) for _ in channels)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in channels)

    def forward(self, images: Tensor) -> Maps:
        features = [lateral(each) for lateral, each in zip(self.lateral, self.backbone(images), strict=True)]
        for level in range(len(features) - 1, 0, -1):
            finer = features[level - 1]
            features[level - 1] = finer + functional.interpolate(features[level], size=finer.shape[2:], mode="nearest")
        features = [tower(each) for tower, each in zip(self.towers, features, strict=True)]
        return _maps(features, self.classes, self.boxes)


class AnchorDetector(nn.Module):
    """One of torchvision's single-shot detectors without what it does to pictures and boxes.

    Args:
        ssd: Built for so many classes; none of them is background.

    Shape:
        - images: ``(N, 3, H, W)``
        - output: see :data:`Maps`

    References:
        Liu et al., SSD, arXiv:1512.02325; Sandler et al., MobileNetV2, arXiv:1801.04381, sec. 6.2.
    """

    def __init__(self, ssd: SSD) -> None:
        super().__init__()
        self.backbone = ssd.backbone
        self.classes = ssd.head.classification_head.module_list
        self.boxes = ssd.head.regression_head.module_list
        for head in self.classes:
            starting_with_few([each for each in head.modules() if isinstance(each, nn.Conv2d)][-1])

    def forward(self, images: Tensor) -> Maps:
        features = list(self.backbone(images).values())
        return _maps(features, self.classes, self.boxes)


def _maps(features: Sequence[Tensor], classes: nn.ModuleList, boxes: nn.ModuleList) -> Maps:
    logits, raw = ([head(each) for head, each in zip(heads, features, strict=True)] for heads in (classes, boxes))
    return logits, raw


def starting_with_few(convolution: nn.Conv2d) -> nn.Conv2d:
    """The layer of the logits, with weights and bias by which hardly anything is taken for an object."""
    nn.init.normal_(convolution.weight, std=0.01)
    assert convolution.bias is not None
    nn.init.constant_(convolution.bias, -math.log((1 - FEW) / FEW))
    return convolution


def _convolution(width: int, out: int, kernel: int, *, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, out, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)
    )


def _separable(width: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(width, width, 5, groups=width),
        nn.ReLU(inplace=True),
        *_convolution(width, width, 1),
        nn.ReLU(inplace=True),
    )
