"""What a sampler is: it chooses the subnets that train on one mini-batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ofa.config import ConfigError, Named
from ofa.space import Arch, Population, SearchSpace

Role: TypeAlias = Literal["largest", "random", "smallest"]
ROLES: tuple[Role, ...] = ("largest", "random", "smallest")


@dataclass(frozen=True)
class Draw:
    """A subnet that trains in this step.

    Args:
        role: ``largest`` teaches the others by in-place distillation; metrics are kept by role.
        part: ``(i, n)``: it trains on the i-th of n parts of the mini-batch.
    """

    arch: Arch
    role: Role = "random"
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Step:
    """What a sampler may look at.

    Args:
        space: What may be drawn now: the whole space, or what the schedule has opened of it.
        rng: Source of randomness, of this step alone.
        macs: Multiply-accumulates of one image, shape ``(N,)``, of a population of ``space``.
        label_loss: A subnet's loss against the labels of the mini-batch, without gradient.
    """

    space: SearchSpace
    rng: np.random.Generator
    macs: Callable[[Population], npt.NDArray[np.float64]]
    label_loss: Callable[[Arch], float]


@dataclass(frozen=True, kw_only=True)
class Sampler(Named):
    """Base of the samplers, which are frozen dataclasses of their settings."""

    teaches = False
    """Whether the largest subnet is drawn first in every step, so that it can teach the others."""

    joint_backward = False
    """Whether one backward pass serves all draws of a step; otherwise each has its own, which needs less memory."""

    def with_num_random(self, num_random: int) -> Sampler:
        """The same sampler with another number of random subnets, where it has one."""
        has = any(field.name == "num_random" for field in dataclasses.fields(self))
        return dataclasses.replace(self, num_random=num_random) if has else self  # type: ignore[call-arg]

    def draw(self, step: Step) -> list[Draw]:
        """The subnets of one step; the largest first where it :attr:`teaches`."""
        raise NotImplementedError


def between_bounds(space: SearchSpace, archs: Sequence[Arch]) -> list[Draw]:
    """The sandwich: the largest, which can teach the others, ``archs``, and the smallest."""
    middle = [Draw(arch) for arch in archs]
    return [Draw(space.largest(), "largest"), *middle, Draw(space.smallest(), "smallest")]


def random_subnets(num: int) -> str:
    """``2 random subnets``"""
    return f"{num} random subnet{'' if num == 1 else 's'}"


def at_least(minimum: int, **values: int) -> None:
    """:class:`ConfigError` if a setting is below ``minimum``."""
    for name, value in values.items():
        if value < minimum:
            raise ConfigError(f"{name} must be at least {minimum}, not {value}")
