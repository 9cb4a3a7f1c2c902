"""The sandwich rule: the largest, the smallest and some between."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.training.samplers.sampler import Draw, Sampler, Step, at_least, between_bounds, random_subnets


@dataclass(frozen=True, kw_only=True)
class Sandwich(Sampler):
    """The largest subnet, random ones, and the smallest.

    The largest comes first, so that its logits can teach the others by in-place distillation.

    Args:
        num_random: Subnets drawn between the two bounds.

    References:
        Yu et al., BigNAS, arXiv:2003.11142, sec. 3.1.
    """

    num_random: int = 2

    teaches = True

    def __post_init__(self) -> None:
        at_least(0, num_random=self.num_random)

    def describe(self) -> str:
        return f"The sandwich rule: the largest subnet, {random_subnets(self.num_random)} and the smallest."

    def draw(self, step: Step) -> list[Draw]:
        space = step.space
        return between_bounds(space, space.to_archs(space.sample_population(self.num_random, step.rng)))
