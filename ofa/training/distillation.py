"""Losses of one subnet on one mini-batch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def label_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Cross-entropy against smoothed labels. Shapes: logits ``(N, classes)``, labels ``(N,)``; a scalar."""
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def in_place_distillation(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy against the soft labels of the largest subnet on the same images. Shapes: both ``(N, classes)``.

    References:
        Yu et al., BigNAS, arXiv:2003.11142, sec. 3.1: temperature 1, the teacher's gradient stopped, no label term.
    """
    return functional.cross_entropy(logits, teacher_logits.detach().softmax(dim=1))
