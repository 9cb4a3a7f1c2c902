"""Losses of one subnet on one mini-batch. A new one is a file here and a line below."""

from ofa.config import registry
from ofa.training.losses.alpha_divergence import AlphaDivergence
from ofa.training.losses.labels import Labels
from ofa.training.losses.loss import Loss
from ofa.training.losses.soft_labels import SoftLabels

LOSSES: dict[str, type[Loss]] = registry(
    Loss,
    {
        "labels": Labels,
        "soft_labels": SoftLabels,
        "alpha_divergence": AlphaDivergence,
    },
)

__all__ = ["LOSSES", "Loss"]
