"""The sandwich rule: which subnets train on one mini-batch."""

from __future__ import annotations

import numpy as np

from ofa.space import Arch, SearchSpace


def sandwich(space: SearchSpace, *, num_random: int, rng: np.random.Generator) -> list[Arch]:
    """Choose the subnets that train on one mini-batch.

    The largest comes first, so that its logits can teach the others by in-place distillation.

    Args:
        num_random: Subnets drawn between the two bounds.
        rng: Source of randomness; the same state gives the same subnets.

    Returns:
        ``num_random + 2`` subnets: largest, random ..., smallest.

    Raises:
        ValueError: If ``num_random`` is negative.

    References:
        Yu et al., BigNAS, arXiv:2003.11142, sec. 3.1. There one resolution is drawn per mini-batch; here every random
        subnet draws its own, and the bounds keep theirs.
    """
    if num_random < 0:
        raise ValueError(f"num_random must be at least 0, not {num_random}")
    return [space.largest(), *space.to_archs(space.sample_population(num_random, rng)), space.smallest()]
