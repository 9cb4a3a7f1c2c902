"""The two bounds of the space."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.training.samplers.sampler import Draw, Sampler, Step


@dataclass(frozen=True, kw_only=True)
class Bounds(Sampler):
    """The largest and the smallest subnet."""

    teaches = True

    def draw(self, step: Step) -> list[Draw]:
        return [Draw(step.space.largest(), "largest"), Draw(step.space.smallest(), "smallest")]
