"""What a schedule is: which part of the space trains when, and with which learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ofa.config import ConfigError, Named
from ofa.space import SearchSpace

EXPONENTIAL_FLOOR = 0.05
EXPONENTIAL_SHARE = 0.66  # of the run, after which the floor is reached: decay by .97 every 2.4 of 360 epochs


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the run.

    Args:
        share: Of the run's steps, relative to the other phases.
        open: Kind of dim (``kernel``) -> how many of its values, counted from the largest, may be drawn; kinds that
            are absent are wholly open.
        only_largest: The largest subnet trains alone.
        num_random: Instead of the sampler's own ``num_random``.
        learning_rate: Peak of a curve of its own, relative to ``train.learning_rate``, with warm-up over
            ``warmup`` of the phase; ``None`` goes on with the curve of the run.
        ramp: Share of the *run* over which the gradients of all but the largest grow from nothing to their weight.
        sort_channels: Important channels are put first when the phase begins.
        freezes_largest: A copy of the largest subnet, as it is when the phase begins, teaches from then on.
    """

    name: str
    share: float = 1.0
    open: Mapping[str, int] = field(default_factory=dict)
    only_largest: bool = False
    num_random: int | None = None
    learning_rate: float | None = None
    warmup: float = 0.0
    ramp: float = 0.0
    sort_channels: bool = False
    freezes_largest: bool = False


@dataclass(frozen=True)
class Stretch:
    """A phase in steps: from ``first`` to before ``end``, over the part of the space that is open."""

    phase: Phase
    first: int
    end: int
    space: SearchSpace


@dataclass(frozen=True, kw_only=True)
class Schedule(Named):
    """Base of the schedules, which are frozen dataclasses of their settings.

    Args:
        decay: Of the learning rate after warm-up: ``cosine`` to nearly zero, ``exponential`` to 5 % of the peak, which
            is then kept (BigNAS, arXiv:2003.11142, sec. 3.3), or ``constant``.
    """

    decay: Literal["cosine", "exponential", "constant"] = "cosine"

    def phases(self, space: SearchSpace) -> Sequence[Phase]:
        raise NotImplementedError

    def plan(self, space: SearchSpace, num_steps: int) -> list[Stretch]:
        """The phases in steps.

        Raises:
            ConfigError: If there are fewer steps than phases.
        """
        phases = self.phases(space)
        if num_steps < len(phases):
            raise ConfigError(
                f"schedule {self.name} has {len(phases)} phases, but the run has {num_steps} steps; raise train.epochs"
            )
        total = sum(phase.share for phase in phases)
        plan: list[Stretch] = []
        done = 0.0
        for position, phase in enumerate(phases):
            done += phase.share
            first = plan[-1].end if plan else 0
            left = len(phases) - position - 1  # each of which needs a step
            end = min(max(first + 1, round(num_steps * done / total)), num_steps - left)
            plan.append(Stretch(phase, first, end, open_part(space, phase.open)))
        return plan

    def learning_rate(self, step: int, plan: Sequence[Stretch], *, warmup_steps: int) -> float:
        """Learning rate of a step, relative to ``train.learning_rate``."""
        stretch = stretch_at(plan, step)
        phase = stretch.phase
        if phase.learning_rate is None:
            return curve(step, plan[-1].end, warmup_steps=warmup_steps, decay=self.decay)
        length = stretch.end - stretch.first
        warmup = round(phase.warmup * length)
        return phase.learning_rate * curve(step - stretch.first, length, warmup_steps=warmup, decay=self.decay)


def stretch_at(plan: Sequence[Stretch], step: int) -> Stretch:
    """The stretch that a step lies in; the last one for whatever comes after."""
    return next((stretch for stretch in plan if step < stretch.end), plan[-1])


def curve(step: int, num_steps: int, *, warmup_steps: int, decay: str) -> float:
    """Linear warm-up to 1, then a decay."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    share = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    if decay == "constant":
        return 1.0
    if decay == "exponential":
        return float(max(EXPONENTIAL_FLOOR, EXPONENTIAL_FLOOR ** (share / EXPONENTIAL_SHARE)))
    return 0.5 * (1 + math.cos(math.pi * share))


def open_part(space: SearchSpace, num_open: Mapping[str, int]) -> SearchSpace:
    """The space with only the largest values of some kinds of dims; of a kind ``width``, ``width1`` is one too."""
    return space.restrict(
        {
            dim.name: dim.values[-num_open[kind] :]
            for dim in space.dims
            if (kind := dim.name.rpartition(".")[2].rstrip("0123456789")) in num_open
        }
    )
