"""Architectures that have not been seen before, and choosing some that are spread over a cost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ofa.space import Population, SearchSpace

MAX_ROUNDS = 20


def take_unseen(
    space: SearchSpace, population: Population, seen: set[bytes], *, limit: int | None = None
) -> Population:
    """Keep the canonical rows that are not in ``seen``, each once, at most ``limit``, and add them to ``seen``."""
    kept: list[int] = []
    for row, key in enumerate(space.row_keys(population).tolist()):
        if len(kept) == limit:
            break
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return population[kept]


def sample_distinct(space: SearchSpace, num_archs: int, rng: np.random.Generator, seen: set[bytes]) -> Population:
    """Draw random architectures that are not in ``seen``, and add them to it.

    Returns:
        Shape ``(N, D)`` with ``N <= num_archs``: fewer where the space holds fewer, or where what is left is so rare
        that a bounded number of draws does not find it.
    """
    found = space.to_population([])
    for _ in range(MAX_ROUNDS):
        missing = num_archs - len(found)
        if missing <= 0 or len(seen) >= space.num_archs:
            break
        drawn = space.sample_population(2 * missing + 16, rng)
        found = np.concatenate([found, take_unseen(space, drawn, seen)])
    # Those drawn beyond `num_archs` are given back: they must be free to be drawn again.
    seen.difference_update(space.row_keys(found[num_archs:]).tolist())
    return found[:num_archs]


def spread(values: npt.NDArray[np.float64], num: int) -> npt.NDArray[np.intp]:
    """Choose positions whose values are spread evenly from the least to the greatest, both included.

    Args:
        values: Shape ``(N,)``.

    Returns:
        ``min(num, N)`` different positions, ascending.
    """
    if num >= len(values):
        return np.arange(len(values))
    free = np.array(values, dtype=np.float64)
    chosen = []
    for target in np.linspace(free.min(), free.max(), num) if num else ():
        position = int(np.argmin(np.abs(free - target)))
        chosen.append(position)
        free[position] = np.inf
    return np.sort(np.array(chosen, dtype=np.intp))
