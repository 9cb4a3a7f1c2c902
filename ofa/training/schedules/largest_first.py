"""The largest subnet alone, then everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa.config import ConfigError
from ofa.space import SearchSpace
from ofa.training.schedules.schedule import Phase, Schedule


@dataclass(frozen=True, kw_only=True)
class LargestFirst(Schedule):
    """The largest subnet trains alone for a share of the run; the others then begin from its weights.

    Args:
        alone: Share of the run.
        ramp: Share of the run over which the others' gradients then grow to their full weight.
        sort_channels: Whether important channels are put first before the others begin.

    References:
        DepS, arXiv:2407.06167: half the run, channels sorted, ramp over 5 of 270 epochs. CompOFA, arXiv:2104.12642,
        sec. 4: from the trained largest network straight to the whole space, without phases between.
    """

    alone: float = 0.5
    ramp: float = 5 / 270
    sort_channels: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.alone < 1:
            raise ConfigError(f"alone must be a share of the run between 0 and 1, not {self.alone}")
        if not 0 <= self.ramp <= 1 - self.alone:
            raise ConfigError(f"ramp must be from 0 to {1 - self.alone:g}, what is left of the run, not {self.ramp}")

    def describe(self) -> str:
        sorts = ", its important channels are put first" if self.sort_channels else ""
        return f"The largest subnet trains alone for {self.alone:.0%} of the run{sorts}, and then everything trains."

    def phases(self, space: SearchSpace) -> Sequence[Phase]:
        return [
            Phase(name="largest", share=self.alone, only_largest=True),
            Phase(name="all", share=1 - self.alone, ramp=self.ramp, sort_channels=self.sort_channels),
        ]
