"""How to time models on a machine that is never quite at rest.

The mean and the median of a shared machine drift by several percent, the low percentiles hardly do. So every model is
timed in several short blocks, all models in turn and in a new random order each round; an anchor, always the same, is
timed between blocks; a block is rejected for a *cause* that disturbed it, never for its value; and two halves of
the rounds, held against each other, say how well it all repeats.

Machines also change speed for seconds at a time (a boosted clock, a neighbour's load), by 5 to 10 percent. Then low
percentiles tell which models were lucky. The anchor sees each change, so times are stated at its median speed.
"""

from __future__ import annotations

import resource
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ofa.errors import UsageError
from ofa.hardware.runtimes.session import Burst, Run

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES = (10, 50, 90)
MAX_WALL_OVER_CPU = 1.05
MAX_ANCHOR_SHIFT = 0.03
MAX_FREQUENCY_SHIFT = 0.05
MAX_RETRIES = 2
MIN_RUNS = 5  # of a block, however long one takes
MAX_REJECTED_SHARE = 0.25
ANCHOR_SHARE = 0.2  # of a block's time
WARM_UP_SHARE = 0.25

CLOCK_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")


@dataclass(frozen=True)
class SystemClock:
    """The operating system's account of this thread, or of the whole process where a model runs on several threads.

    Args:
        threads: Threads that compute one call.
        on_cpu: Whether this process does the work, rather than an accelerator or another program that it waits for.
    """

    threads: int = 1
    on_cpu: bool = True

    def wall_ns(self) -> int:
        return time.perf_counter_ns()

    def cpu_ns(self) -> int | None:
        """Time that the work spent on a core; ``None`` if several threads do it, so that nothing follows from it."""
        return time.thread_time_ns() if self.threads == 1 and self.on_cpu else None

    def involuntary_switches(self) -> int:
        """How often the work was pushed off its core."""
        if not self.on_cpu:
            return 0
        thread = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # Linux only
        return resource.getrusage(thread if self.threads == 1 else resource.RUSAGE_SELF).ru_nivcsw

    def frequency_mhz(self) -> float | None:
        """Of the core; ``None`` where the machine does not tell."""
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
        durations_ns: Raw nanoseconds of each run.
        causes: What disturbed it; empty for a good block.
        anchor_ns: What the anchor took around it; the same for all blocks where there is none.
    """

    name: str
    round: int
    durations_ns: tuple[int, ...]
    causes: tuple[str, ...] = ()
    anchor_ns: float = 1.0

    @classmethod
    def from_json(cls, data: Any) -> TimedBlock:
        """A block of a journal, or of another machine; :class:`ValueError` if it cannot be one."""
        match data:
            case [str(name), int(number), [*durations_ns], [*causes], int(anchor_ns) | float(anchor_ns)]:
                wrong = {
                    f"a round of {name!r} that is none": number < 0,
                    f"durations of {name!r} that are none": not durations_ns
                    or not all(type(duration) is int and duration >= 0 for duration in durations_ns),
                    f"causes of {name!r} that are none": not all(isinstance(cause, str) for cause in causes),
                    f"an anchor around {name!r} that is none": not 0 < anchor_ns < float("inf"),
                }
                for what in (what for what, is_wrong in wrong.items() if is_wrong):
                    raise ValueError(what)
                return cls(name, number, tuple(durations_ns), tuple(causes), float(anchor_ns))
        raise ValueError("no list of a name, a round, durations, causes and an anchor")


@dataclass(frozen=True, kw_only=True)
class TimingResult:
    """All blocks that were kept.

    Args:
        num_rejected: Blocks that were thrown away and measured again.
        causes: How often each cause was found, in rejected blocks and in those that had to be kept.
        conditions: Load, clock and temperature of the machine before and after, where it tells.
    """

    blocks: Sequence[TimedBlock]
    num_rejected: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)
    conditions: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def anchor_ms(self) -> float:
        """The anchor's median latency: the speed of the machine at which latencies are stated."""
        return float(np.median([block.anchor_ns for block in self.blocks])) / 1e6 if self.blocks else 0.0

    @cached_property
    def anchor_slope(self) -> float:
        """By how many percent models slow down where the anchor does by one percent, from 0 to 1.

        One number for all, by least squares on each model's deviations from its own mean. Where the anchor only
        flutters, it explains nothing and the slope is near 0; where the clock changes, it is near 1.
        """
        if not self.blocks:
            return 0.0
        logs: dict[str, list[tuple[float, float]]] = {}
        for block in self.blocks:
            logs.setdefault(block.name, []).append(
                (np.log(block.anchor_ns), np.log(max(float(np.median(block.durations_ns)), 1.0)))
            )
        deviations = np.concatenate([np.array(pairs) - np.mean(pairs, axis=0) for pairs in logs.values()])
        moved = float(np.sum(deviations[:, 0] ** 2))
        return float(np.clip(np.sum(deviations[:, 0] * deviations[:, 1]) / moved, 0, 1)) if moved else 0.0

    def _pace(self, block: TimedBlock) -> float:
        """How much slower than usual the machine was during a block, as far as models feel it."""
        return float((block.anchor_ns / 1e6 / self.anchor_ms) ** self.anchor_slope)

    def runs_ms(self, *, rounds: slice = slice(None)) -> dict[str, npt.NDArray[np.float64]]:
        """Every run of each model in milliseconds at the machine's usual speed."""
        runs: dict[str, list[npt.NDArray[np.float64]]] = {}
        for block in sorted(self.blocks, key=lambda block: block.round):
            runs.setdefault(block.name, []).append(np.array(block.durations_ns) / self._pace(block))
        return {name: np.concatenate(durations[rounds]) / 1e6 for name, durations in runs.items()}

    def latencies_ms(self, names: Iterable[str], *, rounds: slice = slice(None)) -> pd.DataFrame:
        """``latency_ms_p10``, ``_p50``, ``_p90`` and ``num_runs`` at the machine's usual speed, one row per name."""
        import pandas as pd  # here, as a device that only measures need not have it

        runs = self.runs_ms(rounds=rounds)
        rows = [[name, *np.percentile(runs[name], PERCENTILES).round(6).tolist(), len(runs[name])] for name in names]
        return pd.DataFrame(rows, columns=["name", *(f"latency_ms_p{p}" for p in PERCENTILES), "num_runs"])

    def repeatability_percent(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """By how many percent the low percentile of the even rounds differs from that of the odd ones; one per name."""
        even, odd = (
            self.latencies_ms(names, rounds=slice(first, None, 2))["latency_ms_p10"].to_numpy() for first in (0, 1)
        )
        return np.abs(even - odd) / ((even + odd) / 2) * 100

    def facts(self) -> dict[str, Any]:
        """How the measurement went, as JSON data."""
        num_kept, num_disturbed = len(self.blocks), sum(bool(block.causes) for block in self.blocks)
        return {
            "num_blocks": num_kept,
            "rejected_percent": round(100 * self.num_rejected / max(num_kept + self.num_rejected, 1), 2),
            "kept_though_disturbed_percent": round(100 * num_disturbed / max(num_kept, 1), 2),
            "causes": dict(self.causes),
            "anchor_ms": round(self.anchor_ms, 6),
            "anchor_slope": round(self.anchor_slope, 3),
            "conditions": list(self.conditions),
        }


def time_models(
    models: Mapping[str, Run],
    *,
    anchor: Run,
    rng: np.random.Generator,
    rounds: int,
    block_seconds: float,
    clock: SystemClock,
    done: Iterable[TimedBlock] = (),
    on_block: Callable[[TimedBlock], None] = lambda block: None,
) -> TimingResult:
    """Time models in turn.

    Args:
        models: By name.
        anchor: Timed before and after each block; it tells a changed clock or neighbourhood from a slow model.
        rounds: Blocks of each model, at least 2, so that there is something to compare.
        block_seconds: Length of a block, of five runs at least; a quarter more goes into its warm-up, a fifth into its
            anchor.
        done: Blocks of an earlier, interrupted call: they are not measured again.
        on_block: Called with each block that is kept, as soon as it is.

    Returns:
        One block per model and round. A block that was disturbed is thrown away and measured again, at the end of
        its round and at most twice; after that, or once a quarter as many blocks as there are to measure have been
        thrown away, it is kept, and counted as disturbed.
    """
    if rounds < 2:
        raise UsageError(f"rounds must be at least 2, not {rounds}")
    blocks = [block for block in done if block.name in models and block.round < rounds]
    finished = {(block.name, block.round) for block in blocks}
    max_rejected = int((len(models) * rounds - len(blocks)) * MAX_REJECTED_SHARE)
    num_rejected = 0
    causes = Counter(cause for block in blocks for cause in block.causes)
    anchors = _Anchors(anchor, clock, int(block_seconds * ANCHOR_SHARE * 1e9))
    for number in range(rounds):
        waiting = [name for name in models if (name, number) not in finished]
        queue = deque((waiting[index], 0) for index in rng.permutation(len(waiting)))
        while queue:
            name, retries = queue.popleft()
            durations, found = _time_block(models[name], clock, int(block_seconds * 1e9))
            anchor_ns, moved = anchors.around()
            if moved:
                found.append("anchor moved")
            causes.update(found)
            if found and retries < MAX_RETRIES and num_rejected < max_rejected:
                num_rejected += 1
                queue.append((name, retries + 1))
                continue
            blocks.append(TimedBlock(name, number, tuple(durations), tuple(found), anchor_ns))
            on_block(blocks[-1])
    return TimingResult(blocks=blocks, num_rejected=num_rejected, causes=dict(causes))


def _time_block(run: Run, clock: SystemClock, block_ns: int) -> tuple[list[int], list[str]]:
    """Durations of the runs of one block, and what disturbed them."""
    if isinstance(run, Burst):
        return run.durations_ns(block_ns, MIN_RUNS), []
    frequency_mhz = clock.frequency_mhz()
    warm_until = clock.wall_ns() + int(block_ns * WARM_UP_SHARE)
    run()
    while clock.wall_ns() < warm_until:
        run()
    durations: list[int] = []
    switches, cpu_start = clock.involuntary_switches(), clock.cpu_ns()
    start = end = clock.wall_ns()
    while len(durations) < MIN_RUNS or end - start < block_ns:
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
    if frequency_mhz and abs((clock.frequency_mhz() or 0.0) / frequency_mhz - 1) > MAX_FREQUENCY_SHIFT:
        causes.append("clock changed")
    return durations, causes


class _Anchors:
    """Readings of the anchor: one before the first block, and one after each."""

    def __init__(self, run: Run, clock: SystemClock, block_ns: int) -> None:
        self._run, self._clock, self._block_ns = run, clock, block_ns
        # The first readings warm up core, clock and caches: until two agree, within reason.
        self._last_ns = self._read()
        for _ in range(100):
            before, self._last_ns = self._last_ns, self._read()
            if abs(self._last_ns / before - 1) < MAX_ANCHOR_SHIFT / 3:
                break

    def _read(self) -> float:
        durations, _ = _time_block(self._run, self._clock, self._block_ns)
        return float(np.percentile(durations, PERCENTILES[0]))

    def around(self) -> tuple[float, bool]:
        """The mean of the readings before and after the block that has ended, and whether they differ too much."""
        before, self._last_ns = self._last_ns, self._read()
        shift = abs(self._last_ns / before - 1)
        return round((before + self._last_ns) / 2, 1), shift > MAX_ANCHOR_SHIFT
