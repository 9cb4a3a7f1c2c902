"""The largest subnet alone, whose frozen copy then teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa.config import ConfigError
from ofa.space import SearchSpace
from ofa.training.schedules.schedule import Phase, Schedule


@dataclass(frozen=True, kw_only=True)
class TeacherFirst(Schedule):
    """The largest subnet trains alone, and a frozen copy of it teaches all.

    Args:
        alone: Share of the run that it trains alone.
    """

    alone: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.alone < 1:
            raise ConfigError(f"alone must be a share of the run between 0 and 1, not {self.alone}")

    def describe(self) -> str:
        return f"The largest subnet trains alone for {self.alone:.0%} of the run."

    def phases(self, space: SearchSpace) -> Sequence[Phase]:
        return [
            Phase(name="largest", share=self.alone, only_largest=True),
            Phase(name="all", share=1 - self.alone, freezes_largest=True),
        ]
