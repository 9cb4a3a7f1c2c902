"""The whole space from the first step on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa.space import SearchSpace
from ofa.training.schedules.schedule import Phase, Schedule


@dataclass(frozen=True, kw_only=True)
class OneStage(Schedule):
    """The whole space trains from the first step on.

    References:
        Yu et al., BigNAS, arXiv:2003.11142.
    """

    def phases(self, space: SearchSpace) -> Sequence[Phase]:
        return [Phase(name="all")]
