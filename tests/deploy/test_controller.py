"""The controller in simulated time: a fake runtime whose requests take what the load says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.deploy.controller import LatencyController
from ofa.deploy.elastic_format import ElasticError

IMAGES = np.zeros((1, 3, 8, 8), dtype=np.float32)
Load = Callable[[float, float], float]
"""``(seconds since the start, milliseconds without load) -> milliseconds``."""


@dataclass(frozen=True)
class FakeSubnet:
    name: str
    latency_ms: float | None
    worth: float


@dataclass
class FakeRuntime:
    """Its clock moves only while it runs."""

    subnets: list[FakeSubnet]
    load: Load = lambda seconds, latency_ms: latency_ms
    seconds: float = 0.0
    used: list[str] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def current(self) -> FakeCurrent:
        return FakeCurrent(self, next(each for each in self.subnets if each.name == self.used[-1]))

    def use(self, name: str) -> None:
        self.used.append(name)

    def clock(self) -> float:
        return self.seconds


@dataclass(frozen=True)
class FakeCurrent:
    runtime: FakeRuntime
    subnet: FakeSubnet

    @property
    def name(self) -> str:
        return self.subnet.name

    def run(self, images: np.ndarray) -> np.ndarray:
        assert self.subnet.latency_ms is not None
        latency_ms = self.runtime.load(self.runtime.seconds, self.subnet.latency_ms)
        self.runtime.seconds += latency_ms / 1000
        self.runtime.latencies_ms.append(latency_ms)
        return images


LADDER = [
    FakeSubnet("a", 2.0, 70.0),
    FakeSubnet("b", 4.0, 75.0),
    FakeSubnet("c", 8.0, 78.0),
    FakeSubnet("d", 16.0, 79.0),
]


def controlled(load: Load, target_ms: float = 10.0, **settings: float) -> tuple[FakeRuntime, LatencyController]:
    runtime = FakeRuntime(list(LADDER), load)
    return runtime, LatencyController(runtime, target_ms, clock=runtime.clock, **settings)  # type: ignore[arg-type]


def keeps_target(controller: LatencyController) -> bool:
    """Whether the requests since the last switch, of the last window at most, keep the target so far."""
    return controller._num_missed() <= controller._max_misses


def requests(controller: LatencyController, num: int) -> None:
    for _ in range(num):
        controller.run(IMAGES)


def noisy(seed: int, share: float) -> Load:
    rng = np.random.default_rng(seed)
    return lambda seconds, latency_ms: latency_ms * (1 + share * rng.random())


def test_it_begins_with_the_most_accurate_that_leaves_headroom() -> None:
    runtime, controller = controlled(noisy(0, 0.05))
    assert runtime.used == ["c"]
    requests(controller, 1000)
    assert runtime.used == ["c"] and keeps_target(controller)


def test_a_missed_target_is_answered_at_once() -> None:
    """Of 32 requests 3 may miss; the fourth that does is the last one of that subnet."""
    runtime, controller = controlled(lambda seconds, latency_ms: latency_ms * (2.4 if seconds > 1 else 1))
    requests(controller, 2000)
    assert runtime.used == ["c", "b"]
    missed = np.flatnonzero(np.array(runtime.latencies_ms) > 10)
    assert len(missed) == 4 and missed[-1] - missed[0] == 3


def test_a_heavy_load_skips_subnets() -> None:
    runtime, controller = controlled(lambda seconds, latency_ms: latency_ms * (4 if seconds > 1 else 1))
    requests(controller, 500)
    assert runtime.used == ["c", "a"]


def test_it_recovers_one_step_at_a_time() -> None:
    runtime, controller = controlled(lambda seconds, latency_ms: latency_ms * (4 if 1 < seconds < 3 else 1))
    requests(controller, 2000)
    assert runtime.used == ["c", "a", "b", "c"]
    assert max(runtime.latencies_ms[-1000:]) == 8


def test_it_rises_above_where_it_began_where_the_machine_is_faster_than_measured() -> None:
    runtime, controller = controlled(lambda seconds, latency_ms: 0.5 * latency_ms)
    requests(controller, 200)
    assert runtime.used == ["c", "d"]


def test_few_outliers_change_nothing() -> None:
    rng = np.random.default_rng(0)
    runtime, controller = controlled(
        lambda seconds, latency_ms: 50.0 if rng.random() < 0.02 else latency_ms, percentile=80
    )
    requests(controller, 3000)
    assert max(runtime.latencies_ms) == 50 and runtime.used == ["c"]


def test_with_a_percentile_of_100_one_miss_is_enough() -> None:
    runtime, controller = controlled(
        lambda seconds, latency_ms: latency_ms * (1.3 if seconds > 1 else 1), percentile=100
    )
    requests(controller, 200)
    assert runtime.used[:2] == ["c", "b"] and sum(ms > 10 for ms in runtime.latencies_ms) == 1


def test_a_load_that_looks_lighter_than_it_is_causes_no_oscillation() -> None:
    """The second subnet takes 4 ms and promises 8 of the third, which always takes 12: attempts become rare."""
    runtime, controller = controlled(lambda seconds, latency_ms: 12.0 if latency_ms == 8 else latency_ms)
    num_windows = 400
    requests(controller, 32 * num_windows)
    attempts = runtime.used.count("c") - 1
    # Waits of 2, 4, 8, 16, 16 ... windows.
    assert attempts <= 4 + num_windows / 16
    missed = np.array(runtime.latencies_ms) > 10
    assert missed.mean() < 0.01
    spread = np.diff(np.flatnonzero(np.array(runtime.latencies_ms) == 12)[::4])
    assert (np.sort(spread) == spread).all() and spread[-1] >= 16 * 32


def test_patience_comes_back_once_attempts_succeed() -> None:
    trouble = {"until": 20.0}
    runtime, controller = controlled(
        lambda seconds, latency_ms: 12.0 if latency_ms == 8 and seconds < trouble["until"] else latency_ms
    )
    requests(controller, 20_000)
    assert runtime.used[-1] == "c"
    trouble["until"] = runtime.seconds + 0.1  # a short one: two or three attempts
    requests(controller, 1000)
    assert runtime.used[-1] == "c"
    assert runtime.latencies_ms[-1] == 8


@pytest.mark.parametrize("seed", range(5))
def test_a_queue_is_served_in_time(seed: int) -> None:
    """One server, random arrivals, their rate changes threefold and back; latency is waiting and computing.

    Without the controller the queue of the third subnet grows without bound at the high rate.
    """
    rng = np.random.default_rng(seed)
    runtime = FakeRuntime(list(LADDER))
    controller = LatencyController(runtime, 25.0, clock=runtime.clock)
    arrival = free = 0.0
    latencies_ms: list[float] = []
    for number in range(6000):
        arrival += rng.exponential(0.006 if 2000 <= number < 4000 else 0.04)
        start = max(arrival, free)
        subnet = runtime.current.subnet
        assert subnet.latency_ms is not None
        free = start + subnet.latency_ms / 1000
        latencies_ms.append(1000 * (free - arrival))
        controller.observe(latencies_ms[-1], subnet.name)
    busy, calm = np.array(latencies_ms[2200:4000]), np.array(latencies_ms[5000:])
    assert np.percentile(busy, 90) <= 25 and np.percentile(calm, 90) <= 25
    assert runtime.used[-1] in ("c", "d")
    assert len(runtime.used) < 50


@given(
    loads=st.lists(st.tuples(st.integers(1, 60), st.floats(0.2, 12)), min_size=1, max_size=12),
    percentile=st.sampled_from([50.0, 90.0, 99.0, 100.0]),
    window=st.sampled_from([1, 8, 32]),
)
def test_after_every_request_the_target_is_kept_or_nothing_faster_is_left(
    loads: list[tuple[int, float]], percentile: float, window: int
) -> None:
    factors = iter([factor for num, factor in loads for _ in range(num)])
    runtime, controller = controlled(
        lambda seconds, latency_ms: next(factors) * latency_ms, percentile=percentile, window=window
    )
    for num, _ in loads:
        for _ in range(num):
            controller.run(IMAGES)
            assert keeps_target(controller) or runtime.used[-1] == "a"
    once_more, again = controlled(iter_load(runtime.latencies_ms), percentile=percentile, window=window)
    requests(again, len(runtime.latencies_ms))
    assert once_more.used == runtime.used


def iter_load(latencies_ms: list[float]) -> Load:
    left = iter(latencies_ms)
    return lambda seconds, latency_ms: next(left)


def test_what_was_computed_before_a_switch_does_not_count_after_it() -> None:
    runtime, controller = controlled(lambda seconds, latency_ms: latency_ms)
    for _ in range(4):
        controller.observe(30.0, "c")
    assert runtime.used == ["c", "a"]
    for _ in range(50):
        assert controller.observe(30.0, "c") is None
    assert runtime.used == ["c", "a"] and keeps_target(controller)


def test_it_goes_on_from_where_somebody_else_switched_to() -> None:
    runtime, controller = controlled(lambda seconds, latency_ms: latency_ms)
    controller.observe(30.0, "c")
    runtime.use("b")
    requests(controller, 32)
    assert runtime.used == ["c", "b", "c"]


def test_subnets_that_a_better_one_beats_take_no_part() -> None:
    runtime = FakeRuntime([*LADDER, FakeSubnet("slow", 9.0, 77.0)])
    controller = LatencyController(runtime, 10.0, headroom=0.0, clock=runtime.clock)
    assert runtime.used == ["c"]
    runtime.use("slow")
    requests(controller, 100)  # it is left alone
    assert runtime.used == ["c", "slow"]


def test_threads_may_share_it() -> None:
    runtime, controller = controlled(lambda seconds, latency_ms: 3 * latency_ms)
    threads = [threading.Thread(target=requests, args=(controller, 200)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runtime.latencies_ms) == 800 and runtime.used[0] == "c" and set(runtime.used[1:]) <= {"a", "b"}


def test_wrong_settings_are_refused() -> None:
    runtime = FakeRuntime(list(LADDER))
    with pytest.raises(ElasticError, match=r"keeps 1 ms even without load: the fastest, 'a', .* at least 2\.000 ms"):
        LatencyController(runtime, 1.0)
    with pytest.raises(ElasticError, match="percentile must be above 0 and at most 100, not 0"):
        LatencyController(runtime, 10.0, percentile=0)
    with pytest.raises(ElasticError, match="headroom must be from 0 to below 1, not 1"):
        LatencyController(runtime, 10.0, headroom=1)
    with pytest.raises(ElasticError, match="at least 1, not 0 and 16"):
        LatencyController(runtime, 10.0, window=0)
    with pytest.raises(ElasticError, match="no measured latencies; call its measure"):
        LatencyController(FakeRuntime([FakeSubnet("a", None, 70.0)]), 10.0)
    assert runtime.used == []
