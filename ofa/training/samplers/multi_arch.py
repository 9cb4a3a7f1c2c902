"""Several architectures inside one forward and backward pass, each on its part of the mini-batch."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.training.samplers.sampler import Draw, Sampler, Step, at_least, random_subnets


@dataclass(frozen=True, kw_only=True)
class MultiArch(Sampler):
    """Random subnets that share a mini-batch: a step costs what one subnet's step costs.

    Args:
        num_random: Parts of the mini-batch, and subnets. Batch statistics come from a part, so keep parts above eight
            images or so.

    References:
        Liao et al., Searching for Efficient Multi-Stage Vision Transformers, arXiv:2109.00642, sec. 3.3.
    """

    num_random: int = 4

    joint_backward = True

    def __post_init__(self) -> None:
        at_least(1, num_random=self.num_random)

    def describe(self) -> str:
        return f"{random_subnets(self.num_random)}, each on its part of the mini-batch."

    def draw(self, step: Step) -> list[Draw]:
        archs = step.space.to_archs(step.space.sample_population(self.num_random, step.rng))
        return [Draw(arch, part=(number, len(archs))) for number, arch in enumerate(archs)]
