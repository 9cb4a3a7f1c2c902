"""Random subnets, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.training.samplers.sampler import Draw, Sampler, Step, at_least, random_subnets


@dataclass(frozen=True, kw_only=True)
class Uniform(Sampler):
    """Every dim drawn uniformly, as Once-for-All and AutoFormer do. The largest does not teach: it is not there.

    Args:
        num_random: Subnets per step; a schedule may say otherwise for a phase.

    References:
        Cai et al., Once-for-All, arXiv:1908.09791, sec. 3.3; Chen et al., AutoFormer, arXiv:2107.00651, sec. 3.3.
    """

    num_random: int = 1

    def __post_init__(self) -> None:
        at_least(1, num_random=self.num_random)

    def describe(self) -> str:
        return f"{random_subnets(self.num_random)}, every dim drawn uniformly."

    def draw(self, step: Step) -> list[Draw]:
        return [Draw(arch) for arch in step.space.to_archs(step.space.sample_population(self.num_random, step.rng))]
