"""SortedNet: a chain of nested sub-models instead of the whole space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ofa.space import GENE_DTYPE, Population, SearchSpace
from ofa.training.samplers.sampler import Draw, Sampler, Step, at_least


@dataclass(frozen=True, kw_only=True)
class Sorted(Sampler):
    """Sub-models of a nested chain, each part of the next, drawn at random and trained from the smallest up.

    Args:
        num_models: Length of the chain, or all its steps if it has less: 160 in the paper's largest experiment.
        num_random: Sub-models per step, whose gradients are accumulated; all see the whole mini-batch.

    References:
        Valipour et al., SortedNet, arXiv:2309.00255, sec. 3. There a sub-model is a share of all dims alike; here
        every dim has few values, so the chain raises one dim by one value at a time, always the one that is furthest
        behind its share.
    """

    num_models: int = 160
    num_random: int = 4

    def __post_init__(self) -> None:
        at_least(2, num_models=self.num_models)
        at_least(1, num_random=self.num_random)

    def describe(self) -> str:
        return f"{self.num_random} of a nested chain of {self.num_models} sub-models, the smallest first."

    def draw(self, step: Step) -> list[Draw]:
        chain = nested_chain(step.space, self.num_models)
        rows = np.sort(step.rng.choice(len(chain), size=min(self.num_random, len(chain)), replace=False))
        largest, smallest = step.space.largest(), step.space.smallest()
        archs = step.space.to_archs(chain[rows])
        return [
            Draw(arch, "largest" if arch == largest else "smallest" if arch == smallest else "random") for arch in archs
        ]


@lru_cache(maxsize=2)
def nested_chain(space: SearchSpace, num_models: int) -> Population:
    """Architectures from the smallest to the largest, each contained in the next; shape ``(at most num_models, D)``.

    Raising a dim by one value at a time keeps every other where it is, so channels, kernels and blocks only grow.
    """
    # Dim d's k-th raise belongs at (k + 1/2) / its number of raises of the way; sorting these gives the order.
    raises = sorted(
        ((k + 0.5) / num, column) for column, num in enumerate((space.num_values - 1).tolist()) for k in range(num)
    )
    genes = np.zeros((len(raises) + 1, len(space.dims)), dtype=GENE_DTYPE)
    for row, (_, column) in enumerate(raises, start=1):
        genes[row:, column] += 1
    canonical = space.canonical(genes)
    _, first = np.unique(canonical, axis=0, return_index=True)  # raising an inactive dim changes nothing
    chain = canonical[np.sort(first)]
    kept = np.unique(np.linspace(0, len(chain) - 1, min(num_models, len(chain))).round().astype(int))
    chain = chain[kept]
    chain.setflags(write=False)  # shared by all callers
    return chain
