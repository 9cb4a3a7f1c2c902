"""In which order training samples come: as seed and epoch decide, whoever shares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ofa.data.config import DataError
from ofa.data.draws import Draws

NUM_NEAR = 16
"""Parts of files from which samples come in random order at a time, where they are read part by part."""
POOL, NUM_POOLS = 50, 4
"""Batches among which samples of about the same length are found, at most; and pools in an epoch at least, so that not
the same ones meet again and again."""


def train_order(
    labels: npt.NDArray[np.int64],
    *,
    balance: float,
    epoch: int,
    batch_size: int,
    seed: int,
    start: int,
    shard: tuple[int, int],
    lengths: npt.NDArray[np.int64] | None = None,
    near: npt.NDArray[np.int64] | None = None,
    what: str = "images",
) -> tuple[Sequence[Tensor], Callable[[int], Draws]]:
    """Full batches of an epoch, shuffled, from one of them on.

    What a batch holds depends on seed, epoch and its index alone, not on the batches before it.

    Args:
        labels: Of the training split ``(n,)``.
        balance: See :class:`~ofa.data.DataConfig`.
        start: Index of the first batch to give.
        shard: ``(rank, num_shards)``: of each batch give only the rows ``rank::num_shards``.
        lengths: Of the samples ``(n,)``: a batch then holds some of about the same length, all in random order still.
        near: Samples of one number are read together ``(n,)``: some parts at a time are then gone through.
        what: The samples are, for messages.

    Returns:
        Positions in the split of each batch, and the random numbers of a batch, by its place among these.

    Raises:
        DataError: If there are fewer samples than ``batch_size``, or ``batch_size``, ``start`` and ``shard`` do not go
            together.
    """
    num = len(labels)
    if num < at_least_one(batch_size):
        raise DataError(f"batch_size is {batch_size}, but there are only {num} training {what}; lower it")
    num_batches = num // batch_size
    if not 0 <= start <= num_batches:
        raise DataError(f"start is {start}, but an epoch has {num_batches} batches of {batch_size}; give 0 to that")
    rank, num_shards = shard
    if not 0 <= rank < num_shards:
        raise DataError(f"shard is {tuple(shard)}; give (rank, num_shards) with a rank from 0 to below num_shards")
    if batch_size % num_shards:
        raise DataError(f"batch_size is {batch_size}, which {num_shards} shards cannot share; give a multiple")
    rng = np.random.default_rng([seed, epoch])
    permutation = _shuffled(labels, balance, rng)
    permutation = permutation if near is None else in_turns(permutation, near, rng)
    permutation = permutation[: num_batches * batch_size]
    if lengths is not None:
        permutation = _grouped(permutation, lengths, batch_size, rng)
    batches = torch.from_numpy(permutation).view(num_batches, batch_size)

    def draws(index: int) -> Draws:
        # From 1, because [seed, epoch, 0] seeds the same numbers as [seed, epoch].
        rng = np.random.default_rng([seed, epoch, start + index + 1])
        return Draws(rng, batch_size, (rank, num_shards))

    return batches[start:, rank::num_shards].unbind(), draws


def in_turns(
    order: npt.NDArray[np.int64], near: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The same, but some parts of files behind the others; parts come in random order, and so does what is in them."""
    turn = rng.permutation(int(near.max()) + 1) // NUM_NEAR
    return order[np.argsort(turn[near[order]], kind="stable")]


def _shuffled(labels: npt.NDArray[np.int64], balance: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Positions of the training split in random order; of rare classes several times, as far as is asked for.

    Each sample occurs as often as its share asks for, rounded up or down at random (systematic sampling).
    """
    num = len(labels)
    order = rng.permutation(num)
    if not balance:
        return order
    order = order[np.argsort(labels[order], kind="stable")]  # so that shares of classes are exact
    _, class_of, frequencies = np.unique(labels, return_inverse=True, return_counts=True)
    ends = np.cumsum((frequencies[class_of] ** -float(balance))[order])
    ends *= num / ends[-1]
    counts = np.diff(np.floor(ends + rng.random()).clip(max=num), prepend=0).astype(np.int64)
    drawn = np.repeat(order, counts)
    return rng.permutation(np.resize(drawn, num))


def _grouped(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Whole batches of samples that are about as long: sorted within pools of some batches, then batches shuffled."""
    size = max(1, min(POOL, len(order) // batch_size // NUM_POOLS)) * batch_size
    pools = (order[first : first + size] for first in range(0, len(order), size))
    ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    return rng.permutation(ordered.reshape(-1, batch_size)).reshape(-1)


def at_least_one(value: int, name: str = "batch_size") -> int:
    """The value; :class:`DataError` if it is not."""
    if value < 1:
        raise DataError(f"{name} is {value}; give at least 1")
    return value
