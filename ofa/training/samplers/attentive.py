"""Attentive sampling: of several candidates of one cost, the best or the worst trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ofa.training.samplers.sampler import Draw, Sampler, Step, at_least, between_bounds

POOL = 256


@dataclass(frozen=True, kw_only=True)
class Attentive(Sampler):
    """The sandwich, whose middle subnets are chosen: a cost is drawn, and of some candidates near it one trains.

    Args:
        num_random: Subnets chosen between the two bounds.
        num_candidates: Candidates per chosen subnet; each costs a forward pass.
        choose: ``worst`` trains the candidate with the highest loss on the mini-batch, ``best`` that with the lowest.

    References:
        Wang et al., AttentiveNAS, arXiv:2011.09011, sec. 3 (BestUp, WorstUp, with the mini-batch loss as the
        estimate). There costs follow a table made offline; here one is drawn from the MACs of 256 random subnets, of
        which the nearest are the candidates.
    """

    num_random: int = 2
    num_candidates: int = 3
    choose: Literal["worst", "best"] = "worst"

    teaches = True

    def __post_init__(self) -> None:
        at_least(1, num_random=self.num_random, num_candidates=self.num_candidates)

    def describe(self) -> str:
        return (
            f"The largest subnet, the smallest, and {self.num_random} between, each the {self.choose} of "
            f"{self.num_candidates} candidates of one cost by its loss on the mini-batch."
        )

    def draw(self, step: Step) -> list[Draw]:
        space = step.space
        pool = np.unique(space.sample_population(POOL, step.rng), axis=0)
        macs = step.macs(pool)
        chosen = []
        for _ in range(self.num_random):
            target = macs[step.rng.integers(len(pool))]
            nearest = np.argsort(np.abs(macs - target), kind="stable")[: self.num_candidates]
            candidates = space.to_archs(pool[nearest])
            losses = [step.label_loss(arch) for arch in candidates]
            chosen.append(candidates[int(np.argmax(losses) if self.choose == "worst" else np.argmin(losses))])
        return between_bounds(space, chosen)
