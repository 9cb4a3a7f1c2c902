"""Losses of one subnet on one mini-batch. A new one is a file here and a line below."""

from ofa.config import registry
from ofa.tasks.losses.alpha_divergence import AlphaDivergence
from ofa.tasks.losses.distance import Distance
from ofa.tasks.losses.each_class import EachClass
from ofa.tasks.losses.each_head import EachHead
from ofa.tasks.losses.labels import Labels
from ofa.tasks.losses.loss import ClassLoss, Loss, TaughtLoss
from ofa.tasks.losses.quality_focal import QualityFocal
from ofa.tasks.losses.soft_labels import SoftLabels

LOSSES: dict[str, type[Loss]] = registry(
    Loss,
    {
        "labels": Labels,
        "soft_labels": SoftLabels,
        "alpha_divergence": AlphaDivergence,
        "distance": Distance,
        "each_class": EachClass,
        "quality_focal": QualityFocal,
        "each_head": EachHead,
    },
)

__all__ = [
    "LOSSES",
    "AlphaDivergence",
    "ClassLoss",
    "Distance",
    "EachClass",
    "EachHead",
    "Labels",
    "Loss",
    "QualityFocal",
    "SoftLabels",
    "TaughtLoss",
]
