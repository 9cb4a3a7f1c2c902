"""Training that ends in time: how many of its steps fit is measured once, at the beginning."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ofa.training.schedules import Stretch

NUM_WARMUP, NUM_MEASURED = 10, 20
"""Steps that are not looked at, as first ones are slow, and at least so many that are."""
MEASURED, LATEST = 0.02, 0.25
"""Shares of the time: measured for at least the first of them, and for no longer than the second."""
USED = 0.95
"""Share of the time that steps may take; evaluations and checkpoints have the rest."""

clock = time.monotonic


@dataclass
class TimeLimit:
    """Looks at the first steps, and says how many there can be.

    Args:
        seconds: All that there is, from now on.
        num_steps: What was decided; nothing yet.
    """

    seconds: float
    num_steps: int | None = None
    _started: float = field(default_factory=lambda: clock())
    _marks: list[tuple[int, float]] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        return clock() - self._started

    def seconds_per_step(self, done: int, elapsed: float, *, at_once: bool) -> float | None:
        """How long a step takes; ``None`` before enough of them have been seen.

        Args:
            elapsed: Seconds at which ``done`` steps were done; the same in all processes, which then decide alike.
            at_once: There is no later moment to ask.
        """
        if not self._marks:
            self._marks.append((done, elapsed))
        first, begin = self._marks[0]
        if done - first == NUM_WARMUP and not at_once:
            self._marks.append((done, elapsed))
        since, start = self._marks[-1]
        share = (elapsed - begin) / (self.seconds - begin) if begin < self.seconds else 1.0
        is_enough = share >= MEASURED and done - first >= NUM_WARMUP + NUM_MEASURED
        if done > since and (is_enough or at_once or share >= LATEST):
            return (elapsed - start) / (done - since)
        return None

    def fit(
        self,
        plan_of: Callable[[int], Sequence[Stretch]],
        num_steps: int,
        *,
        done: int,
        elapsed: float,
        seconds_per_step: float,
        weights: Sequence[float],
    ) -> None:
        """Decide for the most steps that fit, at most ``num_steps``, with which the first phase is not over already.

        Args:
            plan_of: The phases of a run of so many steps.
            weights: What a step of each phase costs, relative to each other.
        """

        def seconds_of_rest(num: int) -> float:
            stretches = zip(plan_of(num), weights, strict=True)
            rest = sum(max(0, each.end - max(each.first, done)) * weight for each, weight in stretches)
            return rest * seconds_per_step / weights[0]

        possible = range(max(done, len(weights)), num_steps + 1)
        possible = possible[bisect_left(possible, True, key=lambda num: plan_of(num)[0].end >= done) :]
        if not possible:
            self.num_steps = num_steps
            return
        fitting = bisect_right(possible, USED * self.seconds - elapsed, key=seconds_of_rest)
        self.num_steps = possible[max(0, fitting - 1)]
