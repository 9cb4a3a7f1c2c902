"""How to time models on a machine that is never quite at rest.

Every model is timed in several short blocks, all models in turn and in a new random order each pass; an anchor, always
the same, is timed between blocks; a block does not count for a *cause* that disturbed it, never for its value; and two
halves of the blocks, held against each other, say how well it all repeats.

Shared machines interrupt a core every tenth of a millisecond or so, for a fraction of that. Most runs of a part of some
microseconds are spared, so that its low percentile says what it takes itself, within a percent; hardly any run of a
network is, and its low percentile tells which block was lucky: of networks of 150 us it differed by 9 percent from
block to block where their median did by 2. So a part's latency is the low percentile, a network's the median.

Machines also change speed for seconds at a time (a boosted clock, a neighbour's load), by 5 to 40 percent. Then low
percentiles tell which models were lucky. The anchor sees each change, so blocks are compared at one speed only
(:mod:`ofa.states`).
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ofa.errors import UsageError
from ofa.hardware.runtimes.session import Burst, Run
from ofa.states import MAX_SLOPE, TOLERANCE, States, find_states

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES = (10, 50, 90, 99)
LOW, MEDIAN = 10, 50  # percentiles of a block: that speaks for a part, for a network
MAX_WALL_OVER_CPU = 1.05
MAX_FREQUENCY_SHIFT = 0.05
MIN_RUNS = 10  # of a block: the low percentile of fewer lies higher
WARM_UP_RUNS = 5  # a network takes twice as long at first, and still a tenth longer the third time
MAX_TIMES_AS_LONG = 5  # as a block is long: so long at most for the sake of runs, twice that for those that count
FEWEST_RUNS = 5  # that count, however long one takes
PRIOR_BLOCKS = 3
NUM_CACHE_BYTES = 16 << 20  # more than the caches that a core has of its own
SHORT_PASS_SECONDS = 1.0  # over sooner than a speed changes, so that it is worth while to wait for the typical one
MAX_WAIT_SECONDS = 30.0
ANCHOR_SHARE = 0.2  # of a block's time
ANCHOR_RUNS = 5
ANCHOR_WARM_UP_RUNS = 5  # fewer, and it looks a percent slower after networks than after parts
ANCHOR_PERCENTILE = 25  # repeats best of all where runs are few, from reading to reading
WARM_UP_SHARE = 0.25

CLOCK_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")


@dataclass(frozen=True)
class SystemClock:
    """The operating system's account of this thread, or of the whole process where a model runs on several threads.

    Args:
        threads: Threads that compute one call.
        on_cpu: Whether this process does the work, rather than an accelerator or another program that it waits for.
        clock_mhz: Of the accelerator or the other machine that does it.
    """

    threads: int = 1
    on_cpu: bool = True
    clock_mhz: Callable[[], float | None] = lambda: None

    def wall_ns(self) -> int:
        return time.perf_counter_ns()

    def cpu_ns(self) -> int | None:
        """Time that the work spent on a core; ``None`` if several threads do it, so that nothing follows from it."""
        return time.thread_time_ns() if self.threads == 1 and self.on_cpu else None

    def now_s(self) -> float:
        """Seconds since 1970."""
        return round(time.time(), 3)

    def involuntary_switches(self) -> int:
        """How often the work was pushed off its core."""
        if not self.on_cpu:
            return 0
        thread = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # Linux only
        return resource.getrusage(thread if self.threads == 1 else resource.RUSAGE_SELF).ru_nivcsw

    def frequency_mhz(self) -> float | None:
        """Of what computes; ``None`` where the machine does not tell."""
        if not self.on_cpu:
            return self.clock_mhz()
        khz = read_number(CLOCK_FREQUENCY)
        return None if khz is None else khz / 1000


def read_number(path: Path) -> float | None:
    """What a file of the system says; ``None`` without it: not Linux, a container, not ours to read."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


class TimedBlock(NamedTuple):
    """Consecutive runs of one model; in JSON, a list of these.

    Args:
        number: The how many-th block of this model, from 0.
        durations_ns: Raw nanoseconds of each run.
        causes: What disturbed it; empty for a good block.
        before_ns, after_ns: What the anchor took before and after it; the same for all blocks where there is none.
        at_s: When it ended, in seconds since 1970.
    """

    name: str
    number: int
    durations_ns: tuple[int, ...]
    causes: tuple[str, ...] = ()
    before_ns: float = 1.0
    after_ns: float = 1.0
    at_s: float = 0.0

    @classmethod
    def from_json(cls, data: Any) -> TimedBlock:
        """A block of a journal, or of another machine; :class:`ValueError` if it cannot be one."""
        match data:
            case [str(name), int(number), [*durations_ns], [*causes], *others] if len(others) == 3:
                wrong = {
                    f"a number of {name!r} that is none": number < 0,
                    f"durations of {name!r} that are none": not durations_ns
                    or not all(type(duration) is int and duration >= 0 for duration in durations_ns),
                    f"causes of {name!r} that are none": not all(isinstance(cause, str) for cause in causes),
                    f"an anchor or a time of {name!r} that is none": not all(
                        type(other) in (int, float) and 0 <= other < float("inf") for other in others
                    )
                    or 0 in others[:2],
                }
                for what in (what for what, is_wrong in wrong.items() if is_wrong):
                    raise ValueError(what)
                return cls(name, number, tuple(durations_ns), tuple(causes), *map(float, others))
        raise ValueError("no list of a name, a number, durations, causes, two anchors and a time")


@dataclass(frozen=True, kw_only=True)
class TimingResult:
    """All blocks that were timed, and what follows from them.

    Latencies are stated at one of the speeds that the machine ran at (:mod:`ofa.states`), from the blocks
    that ran at it undisturbed; a model that has none of these, from its others, by the speed that the anchor had then.
    What a speed makes of models is another thing for whole networks than for small parts, which live in the caches: it
    is found for the models together that are asked for together.

    Args:
        conditions: Load, clock and temperature of the machine before and after, where it tells.
    """

    blocks: Sequence[TimedBlock]
    conditions: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def _ordered(self) -> list[TimedBlock]:
        return sorted(self.blocks, key=lambda block: (block.at_s, block.number))

    def course(self, num: int = 400) -> dict[str, list[Any]]:
        """How the measurement went: what the anchor took after blocks, and whether these were measured again.

        Args:
            num: Of so many blocks at most, spread evenly over them.

        Returns:
            ``seconds`` since the first, ``anchor_ms`` and ``repeated``.
        """
        chosen = np.unique(np.linspace(0, len(self.blocks) - 1, min(num, len(self.blocks))).round().astype(int))
        blocks = [self._ordered[index] for index in chosen]
        return {
            "seconds": [round(block.at_s - self._ordered[0].at_s, 2) for block in blocks],
            "anchor_ms": [round(block.after_ns / 1e6, 6) for block in blocks],
            "repeated": (~self._is_good[chosen]).tolist(),
        }

    def _readings(self) -> list[tuple[float, float]]:
        found: list[tuple[float, float]] = []
        for block in self._ordered:
            if not found or found[-1][1] != block.before_ns / 1e6:
                found.append((block.at_s, block.before_ns / 1e6))
            found.append((block.at_s, block.after_ns / 1e6))
        return found

    def states_for(self, names: Collection[str], by: int = MEDIAN) -> States:
        """The speeds that the machine ran at, and what they make of these models.

        Args:
            by: The percentile of each block that tells: ``LOW`` of parts.
        """
        return dataclasses.replace(self._found, slope=self._slope(set(names), by))

    @cached_property
    def _found(self) -> States:
        return find_states(np.array([anchor_ms for _, anchor_ms in self._readings()] or [1.0]))

    @cached_property
    def _speeds_ms(self) -> npt.NDArray[np.float64]:
        """Of the blocks in the order of time: as what the anchor takes; not-a-number where it changed meanwhile."""
        before, after = (
            np.array([getattr(block, name) for block in self._ordered]) / 1e6 for name in ("before_ns", "after_ns")
        )
        return self._found.speed_ms(before, after)

    @cached_property
    def _is_undisturbed(self) -> npt.NDArray[np.bool_]:
        return np.isfinite(self._speeds_ms) & np.array([not block.causes for block in self._ordered], bool)

    @cached_property
    def _is_good(self) -> npt.NDArray[np.bool_]:
        """Undisturbed, and at the typical speed."""
        return self._is_undisturbed & self._found.is_typical(self._speeds_ms)

    def num_good(self) -> Counter[str]:
        """Good blocks of each model."""
        return Counter(block.name for block, is_good in zip(self._ordered, self._is_good, strict=True) if is_good)

    def _logs(self, by: int) -> npt.NDArray[np.float64]:
        """Logarithm of a percentile of each block, in nanoseconds."""
        if by not in self._known_logs:
            self._known_logs[by] = np.log([max(percentile(block.durations_ns, by), 1.0) for block in self._ordered])
        return self._known_logs[by]

    @cached_property
    def _known_logs(self) -> dict[int, npt.NDArray[np.float64]]:
        return {}

    def _slope(self, names: Container[str], by: int) -> float | None:
        """One number for all these models, by least squares on each one's deviations from its own mean."""
        if self._found.kind == "steady":
            return None
        logs: dict[str, list[tuple[float, float]]] = {}
        blocks = zip(self._ordered, self._logs(by), self._speeds_ms, self._is_undisturbed, strict=True)
        for block, log_ns, speed_ms, is_told in blocks:
            if is_told and block.name in names:
                logs.setdefault(block.name, []).append((np.log(speed_ms), log_ns))
        deviations = [np.array(pairs) - np.mean(pairs, axis=0) for pairs in logs.values()]
        speeds, times = np.concatenate([*deviations, np.zeros((1, 2))]).T
        moved = float(np.sum(speeds**2))
        return float(np.clip(np.sum(speeds * times) / moved, 0, MAX_SLOPE)) if moved > 1e-6 else None

    @cached_property
    def _chosen(self) -> dict[str, tuple[list[int], list[int]]]:
        """Which blocks speak for each model: the good ones, and all that ran at the typical speed, since what pushes
        a program off its core is part of its higher percentiles.
        """
        typical = self._found.is_typical(self._speeds_ms)
        by_name: dict[str, list[int]] = {}
        for index, block in enumerate(self._ordered):
            by_name.setdefault(block.name, []).append(index)
        chosen = {}
        for name, indices in by_name.items():
            first, second, third = (
                [index for index in indices if mask[index]] for mask in (self._is_good, self._is_undisturbed, typical)
            )
            good = first or second or indices
            chosen[name] = (good, third or good)
        return chosen

    def _at_typical_speed(self, index: int, states: States) -> npt.NDArray[np.float64]:
        block, speed_ms = self._ordered[index], float(self._speeds_ms[index])
        if np.isnan(speed_ms):
            speed_ms = float(np.sqrt(block.before_ns * block.after_ns)) / 1e6
        return np.array(block.durations_ns) / 1e6 / states.times_as_long(speed_ms)

    def runs_ms(self, names: Collection[str], by: int = MEDIAN) -> dict[str, npt.NDArray[np.float64]]:
        """Every run of each model at the typical speed, disturbed or not, in milliseconds."""
        states = self.states_for(names, by)
        return {
            name: np.concatenate([self._at_typical_speed(index, states) for index in self._chosen[name][1]])
            for name in names
        }

    def latencies_ms(self, names: Collection[str], by: int = MEDIAN, *, rounds: slice = slice(None)) -> pd.DataFrame:
        """``latency_ms_p10``, ``_p50``, ``_p90``, ``_p99`` and ``num_runs`` at the typical speed, one row per name.

        The first two are the medians over good blocks of each one's own percentile, as the anchor's is: that of all
        runs together would be the lower, the more blocks differ, and tables of a restless hour would promise too much.
        The others are of all runs at that speed.

        Args:
            by: The percentile that speaks for these models: ``LOW`` for parts.
            rounds: Of each model's good blocks, in the order of time.
        """
        import pandas as pd

        states, everything = self.states_for(names, by), self.runs_ms(names, by)
        rows = []
        for name in names:
            good = self._chosen[name][0]
            blocks = [self._at_typical_speed(index, states) for index in good[rounds] or good]
            lower = [np.median([percentile(runs, which) for runs in blocks]) for which in (LOW, MEDIAN)]
            percentiles = [*lower, *np.percentile(everything[name], PERCENTILES[2:])]
            num_runs = sum(map(len, blocks))
            rows.append([name, *np.round(np.maximum.accumulate(percentiles), 6).tolist(), num_runs])
        return pd.DataFrame(rows, columns=["name", *(f"latency_ms_p{p}" for p in PERCENTILES), "num_runs"])

    def repeatability_percent(self, names: Sequence[str], by: int = MEDIAN) -> npt.NDArray[np.float64]:
        """By how many percent the percentile of every other block differs from that of the rest; one per name."""
        even, odd = (
            self.latencies_ms(names, by, rounds=slice(first, None, 2))[f"latency_ms_p{by}"].to_numpy()
            for first in (0, 1)
        )
        return np.abs(even - odd) / ((even + odd) / 2) * 100

    def error_percent(self, names: Sequence[str], by: int = MEDIAN) -> npt.NDArray[np.float64]:
        """Standard error of each model's percentile, from how its blocks differ; one per name.

        What a model's own few blocks say is drawn towards what all say, as if each had ``PRIOR_BLOCKS`` more.
        """
        states = self.states_for(names, by)
        logs = [
            np.log([percentile(self._at_typical_speed(index, states), by) for index in self._chosen[name][0]])
            for name in names
        ]
        counts = np.array(list(map(len, logs)))
        sums = np.array([np.sum((log - log.mean()) ** 2) for log in logs])
        pooled = sums.sum() / max((counts - 1).sum(), 1)
        variances = (sums + PRIOR_BLOCKS * pooled) / (counts - 1 + PRIOR_BLOCKS)
        return np.sqrt(variances / counts) * 100

    def causes(self) -> dict[str, int]:
        """Why blocks do not count, with how many of each."""
        found = Counter(cause for block in self._ordered for cause in block.causes)
        found["speed changed"] = int(np.isnan(self._speeds_ms).sum())
        found["rarer speed"] = int((self._is_undisturbed & ~self._is_good).sum())
        return {cause: number for cause, number in sorted(found.items()) if number}

    def facts(self, names: Collection[str]) -> dict[str, Any]:
        """How the measurement went, as JSON data.

        Args:
            names: The models that ``states`` is to be about.
        """
        num, num_good = len(self.blocks), self.num_good()
        lacking = [name for name in self._chosen if not num_good[name]]
        return {
            "num_blocks": num,
            "repeated_percent": round(100 * float(1 - self._is_good.mean()), 2) if num else 0.0,
            "models_never_undisturbed": len(lacking),
            "causes": self.causes(),
            "states": self.states_for(names).to_json(),
            "conditions": list(self.conditions),
        }


def time_models(
    models: Mapping[str, Run],
    *,
    anchor: Run,
    rng: np.random.Generator,
    num_blocks: Mapping[str, int] | int,
    block_seconds: float,
    clock: SystemClock,
    done: Iterable[TimedBlock] = (),
    on_block: Callable[[TimedBlock], None] = lambda block: None,
    before_run: Callable[[], object] | None = None,
) -> TimingResult:
    """Time models in turn.

    A pass times each model once that lacks good blocks, in a new random order. A block that was disturbed, that ran
    while the machine changed its speed, or at the rarer of two speeds, is kept but does not count, so that its model
    is timed again in a later pass: at another time.

    Args:
        models: By name.
        anchor: Timed before and after each block; it tells a changed clock or neighbourhood from a slow model.
        num_blocks: Good blocks that each model needs, at least 2, so that there is something to compare.
        block_seconds: Length of a block; a quarter more goes into its warm-up, a fifth into its anchor. Blocks of
            models that take longer than a tenth of it are longer, up to ten times, so that there are runs enough.
        done: Blocks of an earlier, interrupted call, which count.
        on_block: Called with each block, as soon as it is there.
        before_run: Called before each timed run of a model, not of the anchor; its time does not count.

    Returns:
        All blocks. A model that has not got its good blocks by :func:`max_blocks` keeps those that it has.
    """
    wanted = dict.fromkeys(models, num_blocks) if isinstance(num_blocks, int) else dict(num_blocks)
    least = num_blocks if isinstance(num_blocks, int) else min(wanted.values(), default=2)
    if least < 2:
        raise UsageError(f"rounds must be at least 2, not {least}")
    blocks = [block for block in done if block.name in models]
    tried = Counter(block.name for block in blocks)
    numbers = {block.name: block.number for block in sorted(blocks, key=lambda block: block.number)}
    anchors = _Anchors(anchor, clock, int(block_seconds * ANCHOR_SHARE * 1e9))
    while True:
        result = TimingResult(blocks=list(blocks))
        good = result.num_good()
        lacking = [name for name in models if good[name] < wanted[name] and tried[name] < max_blocks(wanted[name])]
        if not lacking:
            return result
        if len(lacking) * block_seconds < SHORT_PASS_SECONDS:
            anchors.wait_for(result.states_for(()))
        for index in rng.permutation(len(lacking)):
            name = lacking[index]
            durations, causes = _time_block(models[name], clock, int(block_seconds * 1e9), before_run)
            before_ns, after_ns = anchors.around()
            tried[name] += 1
            numbers[name] = numbers.get(name, -1) + 1
            times = (before_ns, after_ns, clock.now_s())
            blocks.append(TimedBlock(name, numbers[name], tuple(durations), tuple(causes), *times))
            on_block(blocks[-1])


def max_blocks(num_good: int) -> int:
    """Blocks of a model at most, for so many good ones: half as many again, and two."""
    return num_good + -(-num_good // 2) + 2


def _time_block(
    run: Run,
    clock: SystemClock,
    block_ns: int,
    before_run: Callable[[], object] | None = None,
    *,
    warm_up_runs: int = WARM_UP_RUNS,
    min_runs: int = MIN_RUNS,
) -> tuple[list[int], list[str]]:
    """Durations of the runs of one block, and what disturbed them."""
    frequency_mhz = clock.frequency_mhz()
    if isinstance(run, Burst):
        durations = run.durations_ns(block_ns, min_runs)
        return durations, _clock_causes(clock, frequency_mhz)
    num_warm, warm_ns, start = 0, 0, clock.wall_ns()
    while (num_warm < warm_up_runs and warm_ns < MAX_TIMES_AS_LONG * block_ns) or warm_ns < block_ns * WARM_UP_SHARE:
        run()
        num_warm, warm_ns = num_warm + 1, clock.wall_ns() - start
    durations = list[int]()
    switches, cpu_start = clock.involuntary_switches(), clock.cpu_ns()
    start = end = clock.wall_ns()
    longest_ns = 2 * MAX_TIMES_AS_LONG * block_ns
    while (
        len(durations) < min(min_runs, FEWEST_RUNS)
        or end - start < block_ns
        or (len(durations) < min_runs and end - start < longest_ns)
    ):
        if before_run is not None:
            before_run()
        begin = clock.wall_ns()
        run()
        end = clock.wall_ns()
        durations.append(end - begin)
    cpu_end = clock.cpu_ns()
    causes = []
    if cpu_start is not None and cpu_end is not None and end - start > MAX_WALL_OVER_CPU * (cpu_end - cpu_start):
        causes.append("off the core")
    if clock.involuntary_switches() > switches:
        causes.append("involuntary context switch")
    return durations, causes + _clock_causes(clock, frequency_mhz)


def _clock_causes(clock: SystemClock, before_mhz: float | None) -> list[str]:
    after_mhz = clock.frequency_mhz()
    moved = before_mhz and after_mhz and abs(after_mhz / before_mhz - 1) > MAX_FREQUENCY_SHIFT
    return ["clock changed"] if moved else []


def percentile(runs: npt.NDArray[np.float64] | Sequence[int], which: int) -> float:
    """A percentile of a block, much the same whether it holds ten runs or hundreds."""
    return float(np.percentile(np.asarray(runs, float), which, method="median_unbiased"))


def cache_user(num_bytes: int = NUM_CACHE_BYTES) -> Callable[[], object]:
    """A function that fills the caches of a core with other data than a network's, as other programs do."""
    data = np.zeros(num_bytes // 8, dtype=np.int64)
    return lambda: np.add(data, 1, out=data)


class _Anchors:
    """Readings of the anchor: one before the first block, and one after each."""

    def __init__(self, run: Run, clock: SystemClock, block_ns: int) -> None:
        self._run, self._clock, self._block_ns = run, clock, block_ns
        self._patience_ns = int(MAX_WAIT_SECONDS * 1e9)
        # The first readings warm up core, clock and caches: until two agree, within reason.
        self._last_ns = self._read()
        for _ in range(100):
            before, self._last_ns = self._last_ns, self._read()
            if abs(self._last_ns / before - 1) < TOLERANCE / 3:
                break

    def _read(self) -> float:
        durations, _ = _time_block(
            self._run, self._clock, self._block_ns, warm_up_runs=ANCHOR_WARM_UP_RUNS, min_runs=ANCHOR_RUNS
        )
        return round(float(np.percentile(durations, ANCHOR_PERCENTILE)), 1)

    def around(self) -> tuple[float, float]:
        """The readings before and after the block that has ended."""
        before, self._last_ns = self._last_ns, self._read()
        return before, self._last_ns

    def wait_for(self, states: States) -> None:
        """Until the machine runs at its typical speed; half a minute at most, however often it is called."""
        begin = self._clock.wall_ns()
        while states.kind == "two speeds" and self._clock.wall_ns() - begin < self._patience_ns:
            if abs(np.log(self._last_ns / 1e6 / states.typical_ms)) < states.tolerance:
                break
            self._last_ns = self._read()
        self._patience_ns -= self._clock.wall_ns() - begin
