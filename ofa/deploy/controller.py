"""Keeps a latency target under changing load, by switching between the subnets of an elastic runtime."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from ofa.deploy.elastic_format import ElasticError, Floats
from ofa.deploy.elastic_runtime import ElasticRuntime, ElasticSubnet


class LatencyController:
    """Chooses the most accurate subnet whose requests keep a target, from the latencies of recent requests.

    *Down at once*: as soon as so many of the last ``window`` requests missed the target that the percentile cannot be
    kept any more, to the most accurate subnet that should keep it: latencies grow by the same factor for all.

    *Up slowly*: one subnet at a time, after whole windows without that, and only if the next one should keep the target
    with some headroom. If it does not, the next attempt waits twice as many windows, up to ``max_patience``; an attempt
    that succeeds halves the wait. So a load between two subnets causes a handful of switches, not an oscillation.

    Only subnets that are worth it take part: none that is slower than a more accurate one. The same latencies in the
    same order give the same switches. Several threads may run requests.

    Args:
        runtime: Its subnets must have measured latencies.
        target_ms: Milliseconds that ``percentile`` percent of the requests should keep.
        window: Requests that are looked back upon.
        headroom: Share of the target that must be left where a slower subnet is tried.
        max_patience: Most windows between two attempts.
        clock: Seconds.

    Raises:
        ElasticError: If a value is out of range, if latencies were not measured, or if no subnet keeps the target even
            without load; it names the nearest target.
    """

    def __init__(
        self,
        runtime: ElasticRuntime,
        target_ms: float,
        *,
        percentile: float = 90,
        window: int = 32,
        headroom: float = 0.1,
        max_patience: int = 16,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not 0 < percentile <= 100:
            raise ElasticError(f"percentile must be above 0 and at most 100, not {percentile}")
        if not 0 <= headroom < 1:
            raise ElasticError(f"headroom must be from 0 to below 1, not {headroom}")
        if window < 1 or max_patience < 1:
            raise ElasticError(f"window and max_patience must be at least 1, not {window} and {max_patience}")
        self._runtime, self._clock = runtime, clock
        self._target_ms, self._percentile, self._headroom = target_ms, percentile, headroom
        self._window, self._max_patience = window, max_patience
        # 0.1 of 10 is 0.9999999999999998, which is one request.
        self._max_misses = math.floor(window * (100 - percentile) / 100 + 1e-9)
        self._ladder = _worthwhile(runtime.subnets)
        self._latencies_ms = [latency_ms for latency_ms, _ in self._ladder]
        self._levels = {name: level for level, (_, name) in enumerate(self._ladder)}
        fastest_ms, fastest = self._ladder[0]
        if not fastest_ms <= target_ms:
            nearest_ms = math.ceil(fastest_ms * 1000) / 1000
            raise ElasticError(
                f"no subnet keeps {target_ms:g} ms even without load: the fastest, {fastest!r}, takes {fastest_ms:.3f} "
                f"ms; ask for at least {nearest_ms:.3f} ms"
            )
        self._lock = threading.Lock()
        self._patience = 1
        self._on_trial = False
        self._recent: deque[float] = deque(maxlen=window)
        self._num_seen = 0
        self._name = ""
        self._go_to(self._highest(slowdown=1 / (1 - headroom)))

    def run(self, images: Floats) -> Floats:
        """Run a request with the current subnet, and learn from how long it took."""
        subnet = self._runtime.current
        start = self._clock()
        logits = subnet.run(images)
        self.observe(1000 * (self._clock() - start), subnet.name)
        return logits

    def observe(self, latency_ms: float, name: str) -> str | None:
        """Learn from a request that somebody else ran and timed: with its time in a queue, say.

        Args:
            name: The subnet that computed it. What one computed before a switch is not counted afterwards.

        Returns:
            Name of the subnet that was switched to, if any.
        """
        with self._lock:
            current = self._runtime.current.name
            if current != self._name:  # somebody else switched
                self._begin(current)
            level = self._levels.get(current)
            if name != current or level is None:
                return None
            self._recent.append(latency_ms)
            self._num_seen += 1
            if self._num_missed() > self._max_misses:
                return self._step_down(level)
            return self._step_up(level)

    def _step_down(self, level: int) -> str | None:
        if level == 0:
            return None
        if self._on_trial:
            self._patience = min(2 * self._patience, self._max_patience)
        return self._go_to(min(self._highest(self._slowdown(level)), level - 1))

    def _step_up(self, level: int) -> str | None:
        if self._num_seen % self._window or self._num_seen < self._patience * self._window:
            return None
        if self._on_trial:
            self._on_trial, self._patience = False, max(1, self._patience // 2)
        if level + 1 == len(self._ladder):
            return None
        expected_ms = self._latencies_ms[level + 1] * self._slowdown(level)
        if expected_ms > (1 - self._headroom) * self._target_ms:
            return None
        name = self._go_to(level + 1)
        self._on_trial = True
        return name

    def _slowdown(self, level: int) -> float:
        """How much longer recent requests took than the measured latency."""
        return float(np.percentile(self._recent, self._percentile)) / self._latencies_ms[level]

    def _highest(self, slowdown: float) -> int:
        """The most accurate subnet that should keep the target, or the fastest."""
        within = [level for level, ms in enumerate(self._latencies_ms) if ms * slowdown <= self._target_ms]
        return max(within, default=0)

    def _num_missed(self) -> int:
        return sum(latency_ms > self._target_ms for latency_ms in self._recent)

    def _go_to(self, level: int) -> str:
        name = self._ladder[level][1]
        self._runtime.use(name)
        self._begin(name)
        return name

    def _begin(self, name: str) -> None:
        self._name, self._num_seen, self._on_trial = name, 0, False
        self._recent.clear()


def _worthwhile(subnets: Sequence[ElasticSubnet]) -> list[tuple[float, str]]:
    """Latency and name of the subnets that no other one beats in both, the fastest first."""
    timed = [(each.latency_ms, -each.worth, each.name) for each in subnets if each.latency_ms is not None]
    if len(timed) < len(subnets):
        raise ElasticError("the runtime's subnets have no measured latencies; call its measure() first")
    ladder: list[tuple[float, str]] = []
    best = math.inf
    for latency_ms, negative_worth, name in sorted(timed):
        if negative_worth < best:
            ladder.append((latency_ms, name))
            best = negative_worth
    return ladder
