"""Schedules: which part of the space trains when. A new one is a file here and a line below."""

from ofa.config import registry
from ofa.training.schedules.largest_first import LargestFirst
from ofa.training.schedules.one_stage import OneStage
from ofa.training.schedules.progressive_shrinking import ProgressiveShrinking
from ofa.training.schedules.schedule import Phase, Schedule, Stretch, stretch_at

SCHEDULES: dict[str, type[Schedule]] = registry(
    Schedule,
    {
        "one_stage": OneStage,
        "largest_first": LargestFirst,
        "progressive_shrinking": ProgressiveShrinking,
    },
)

__all__ = ["SCHEDULES", "Phase", "Schedule", "Stretch", "stretch_at"]
