"""Objects: how sure a network is of each class at each place, and how well its boxes fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ofa.config import ConfigError
from ofa.data.boxes import NONE
from ofa.tasks.losses.loss import TaughtLoss

NUM_NEAREST = 9


class Candidates(NamedTuple):
    """What a network says of all places of a batch.

    Args:
        logits: Of the classes, ``(N, P, K)``.
        boxes: Left, top, right and bottom as shares of the picture's sides, ``(N, P, 4)``.
        priors: Middle, width and height, ``(P, 4)``.
        grids: Rows and columns of each level; its places come row by row, the priors of one place together.
    """

    logits: Tensor
    boxes: Tensor
    priors: Tensor
    grids: Sequence[tuple[int, int]]

    @property
    def per_place(self) -> int:
        """Priors of a place."""
        return len(self.priors) // sum(rows * columns for rows, columns in self.grids)

    @property
    def level_sizes(self) -> list[int]:
        return [rows * columns * self.per_place for rows, columns in self.grids]


Taught = tuple[Sequence[Tensor], Sequence[Tensor]]
"""Probabilities ``(N, A * K, h, w)`` and boxes ``(N, A * 4, h, w)`` of each level."""


@dataclass(frozen=True, kw_only=True)
class QualityFocal(TaughtLoss):
    """Quality focal loss of the classes, and generalised intersection over union of the boxes.

    A place is right for an object if its prior overlaps it more than the nearest priors do on average, by a standard
    deviation; it should be as sure of the object's class as its box is good. Of a teacher's, subnets learn how sure it
    is of each class at each place, and its boxes, as far as it is sure of anything there; the teacher's grids are
    brought to the subnet's, bilinearly. Both are divided by the number of places that are right, of the batch or of the
    part of it that is computed at once.

    Args:
        box_weight: Of the loss of boxes.
        power: By how much what is nearly right counts less.

    References:
        Li et al., Generalized focal loss, arXiv:2006.04388, eq. 2; Zhang et al., ATSS, arXiv:1912.02424, sec. 3.3 (here
        an object has its own 9 nearest priors for each that a place has); Rezatofighi et al., arXiv:1902.09630, eq. 3.
    """

    target_weight: float = 1.0
    box_weight: float = 2.0
    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box_weight < 0 or self.power < 0:
            raise ConfigError(f"box_weight and power must not be negative, but are {self.box_weight} and {self.power}")

    def label_loss(self, outputs: Candidates, targets: Tensor) -> Tensor:
        """Against objects ``(N, M, 5)``, see :mod:`ofa.data.boxes`."""
        assigned = assign(outputs, targets)
        is_object = assigned >= 0
        num = is_object.sum().clamp(min=1)
        wanted = targets[is_object.nonzero()[:, 0], assigned[is_object]]
        shared, general = overlap(outputs.boxes[is_object].float(), wanted[:, 1:])
        quality = torch.zeros_like(outputs.logits, dtype=torch.float32)
        quality[(*is_object.nonzero().T, wanted[:, 0].long())] = shared.detach().clamp(min=0)
        classes = self._focal(outputs.logits, quality).sum() / num
        return classes + self.box_weight * (1 - general).sum() / num

    def distil(self, outputs: Candidates, targets: Tensor, teacher: Taught) -> Tensor:
        if not self.distils:
            return self.label_loss(outputs, targets)
        sure, boxes = (joined(brought_to(maps, outputs.grids), outputs.per_place) for maps in teacher)
        weights = sure.amax(dim=2)
        num = weights.sum().clamp(min=1)
        _, general = overlap(outputs.boxes.float(), boxes)
        loss = (self._focal(outputs.logits, sure).sum() + self.box_weight * (weights * (1 - general)).sum()) / num
        return loss + self.target_weight * self.label_loss(outputs, targets) if self.target_weight else loss

    def _focal(self, logits: Tensor, quality: Tensor) -> Tensor:
        logits = logits.float()
        weights = (logits.sigmoid() - quality).abs() ** self.power
        return weights * functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def joined(maps: Sequence[Tensor], per_place: int) -> Tensor:
    """Maps ``(N, priors of a place * C, rows, columns)`` of all levels as ``(N, P, C)``."""
    parts = (each.unflatten(1, (per_place, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for each in maps)
    return torch.cat(list(parts), dim=1)


def taken_apart(values: Tensor, grids: Sequence[tuple[int, int]], per_place: int) -> list[Tensor]:
    """The inverse of :func:`joined`."""
    parts = values.split([rows * columns * per_place for rows, columns in grids], dim=1)
    return [
        part.unflatten(1, (rows, columns, per_place)).permute(0, 3, 4, 1, 2).flatten(1, 2)
        for part, (rows, columns) in zip(parts, grids, strict=True)
    ]


def brought_to(maps: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    return [
        each if each.shape[2:] == grid else functional.interpolate(each, size=grid, mode="bilinear")
        for each, grid in zip(maps, grids, strict=True)
    ]


@torch.no_grad()
def assign(outputs: Candidates, targets: Tensor) -> Tensor:
    """Which object each place should find, ``(N, P)``: its index in the targets, -1 for none."""
    is_there, boxes, priors = targets[..., 0] != NONE, targets[..., 1:], outputs.priors
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    distances = torch.cdist(middles, priors[:, :2])  # (N, M, P)
    nearest, start = [], 0
    for size in outputs.level_sizes:
        num = min(NUM_NEAREST * outputs.per_place, size)
        nearest.append(distances[..., start : start + size].topk(num, largest=False).indices + start)
        start += size
    candidates = torch.cat(nearest, dim=2)
    prior_boxes = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], dim=1)
    shared, _ = overlap(prior_boxes[candidates], boxes[:, :, None])
    x, y = priors[candidates][..., 0], priors[candidates][..., 1]
    is_inside = (x > boxes[..., None, 0]) & (x < boxes[..., None, 2])
    is_inside &= (y > boxes[..., None, 1]) & (y < boxes[..., None, 3])
    is_right = (shared >= shared.mean(dim=2, keepdim=True) + shared.std(dim=2, keepdim=True)) & is_inside
    is_right &= is_there[..., None]
    fits = torch.full_like(distances, -1.0).scatter_(2, candidates, torch.where(is_right, shared, -1.0))
    best = fits.max(dim=1)
    return torch.where(best.values >= 0, best.indices, -1)


def overlap(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes and others ``(..., 4)``, pair by pair; and the generalised one."""
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = _area(boxes) + _area(others) - shared
    low, high = torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])
    hull = (high - low).clamp(min=0).prod(dim=-1)
    found = shared / union.clamp(min=1e-9)
    return found, found - (hull - union) / hull.clamp(min=1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)
