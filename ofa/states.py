"""At which speeds a machine ran, found from readings of a probe: always the same work, before and after each block.

A virtual machine has two speeds where a neighbour shares its cores, each held for seconds; a board that heats up
drifts; a quiet machine has one. What is said of a network must name the speed that it is said for.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ofa.errors import UsageError

Floats = npt.NDArray[np.float64]
State = Literal["fast", "typical", "slow"]
STATES: tuple[State, ...] = ("fast", "typical", "slow")
PERCENTILES = (50, 90, 99)
MAX_SLOPE = 1.5
MAX_APART = 1000
MIN_CHANGE = 0.03  # of the speed, that is worth a word

MIN_READINGS = 20  # fewer tell one speed only
MIN_GAP = 0.04  # between two speeds: less is not worth telling apart
MIN_SEPARATION = 4.0  # of two speeds, in spreads of one; cut in the middle, one normal speed has 2, an even drift 2.7
MIN_SHARE = 0.02  # of the readings, at the rarer speed
MIN_DRIFT = 0.03  # from the 5th to the 95th percentile
MAX_ROUGHNESS = 0.5  # of a drift, where neighbours that know nothing of each other have 1
WINDOW = 7  # readings whose median tells the speed of a drifting machine
TOLERANCE = 0.03  # by which two readings at one speed may differ; more where they are noisier
NOISES = 4.0  # so many spreads


@dataclass(frozen=True)
class States:
    """Speeds of a machine, as times of its probe.

    Args:
        kind: ``steady``, ``two speeds`` (held for a while each), or ``drift``.
        fast_ms, typical_ms, slow_ms: What the probe takes: at two speeds at each of them, the commoner one being the
            typical; in a drift the 5th, 50th and 95th percentile; all the same where there is one speed.
        slow_share: Of the readings, at the slower of two speeds.
        noise: Relative spread of readings at one speed.
        slope: By how many percent models slow down where the probe does by one percent; ``None`` where it never did.
    """

    kind: Literal["steady", "two speeds", "drift"]
    fast_ms: float
    typical_ms: float
    slow_ms: float
    slow_share: float = 0.0
    noise: float = 0.0
    slope: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fast_ms <= self.typical_ms <= self.slow_ms <= MAX_APART * self.fast_ms:
            raise UsageError(
                f"fast_ms, typical_ms and slow_ms must be above 0, ascending and at most {MAX_APART} times apart, not "
                f"{self.fast_ms}, {self.typical_ms}, {self.slow_ms}"
            )
        if self.slope is not None and not 0 <= self.slope <= MAX_SLOPE:
            raise UsageError(f"slope must be 0 to {MAX_SLOPE}, not {self.slope}")

    def ms(self, state: State) -> float:
        return {"fast": self.fast_ms, "typical": self.typical_ms, "slow": self.slow_ms}[state]

    def times_as_long(self, probe_ms: float | State) -> float:
        """How many times as long as at the typical speed models take in a state, or where the probe takes so long."""
        found_ms = self.ms(probe_ms) if isinstance(probe_ms, str) else probe_ms
        return float((found_ms / self.typical_ms) ** (1.0 if self.slope is None else self.slope))

    def times_as_long_as(self, before: States) -> float:
        """How many times as long models take at this typical speed as at that of another time.

        The slope is of changes that last seconds, of which the probe, being small, sees more than models do. Within an
        hour it holds; from one hour to another models change in proportion to the probe. Half of both differed least
        over eleven tables of one machine, by 1.7 % of the latency within an hour. Where there are two speeds, the
        nearest one then is what models have changed to first.
        """
        nearest = min(STATES, key=lambda state: abs(np.log(self.typical_ms / before.ms(state))))
        state = nearest if before.kind == "two speeds" else "typical"
        slope = 1.0 if before.slope is None else (before.slope + 1) / 2
        return before.times_as_long(state) * float((self.typical_ms / before.ms(state)) ** slope)

    @property
    def text(self) -> str:
        """In words."""
        apart = self.slow_ms / self.fast_ms
        return {
            "steady": "one speed all the time",
            "two speeds": f"two speeds, {apart:.2f} times apart, the slower {self.slow_share:.0%} of the time",
            "drift": f"a speed that drifted by {apart - 1:.0%}",
        }[self.kind]

    @property
    def tolerance(self) -> float:
        """By what share two readings at one speed may differ."""
        return max(TOLERANCE, NOISES * self.noise)

    def speed_ms(self, before_ms: Floats, after_ms: Floats) -> Floats:
        """At which speed blocks ran, as times of the probe; not-a-number where it changed meanwhile.

        Args:
            before_ms, after_ms: Readings around each block, shape ``(N,)``, in the order of time.
        """
        moved = np.abs(np.log(after_ms / before_ms)) > self.tolerance
        if self.kind == "drift":
            around = np.sqrt(before_ms * after_ms)
            return np.where(moved, np.nan, _running_median(around))
        speeds = np.array([self.fast_ms, self.slow_ms] if self.kind == "two speeds" else [self.typical_ms])
        nearest = [np.abs(np.log(each[:, None] / speeds)).argmin(axis=1) for each in (before_ms, after_ms)]
        far = [np.abs(np.log(each / speeds[own])) for each, own in zip((before_ms, after_ms), nearest, strict=True)]
        moved = (nearest[0] != nearest[1]) | (np.maximum(*far) > self.tolerance)
        return np.where(moved, np.nan, speeds[nearest[0]])

    def is_typical(self, speed_ms: Floats) -> npt.NDArray[np.bool_]:
        """Whether blocks ran at the speed that latencies are measured at; a drift has no other."""
        if self.kind == "drift":
            return np.isfinite(speed_ms)
        return np.isclose(speed_ms, self.typical_ms, rtol=1e-6)

    def to_json(self) -> dict[str, Any]:
        """What :class:`States` is made from again."""
        plain = dataclasses.asdict(self)
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in plain.items()}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed that latencies are stated at, and which of them must keep a budget.

    Args:
        state: Of those in ``states``.
        percentile: 50, 90 or 99.
        states: Those of the machine when the latency table was made; ``None`` leaves each measurement to its own.
    """

    state: State = "slow"
    percentile: Literal[50, 90, 99] = 50
    states: States | None = None

    @property
    def column(self) -> str:
        """The name of the percentile in tables of latencies."""
        return f"latency_ms_p{self.percentile}"

    @property
    def text(self) -> str:
        """Which speed a latency is stated at, where there is more than one."""
        if self.states is None or self.states.kind == "steady":
            return ""
        return " at the machine's typical speed" if self.state == "typical" else f" when the machine is {self.state}"

    @property
    def others(self) -> dict[State, float]:
        """How many times as long as at the stated speed models take in the other states; none where there is one."""
        if self.states is None or self.states.kind == "steady":
            return {}
        order: tuple[State, ...] = ("typical", "fast", "slow")
        distinct = {self.states.ms(state): state for state in order}
        return {
            state: self.states.times_as_long(state) / self.factor
            for ms, state in distinct.items()
            if ms != self.states.ms(self.state)
        }

    @property
    def factor(self) -> float:
        """From latencies at the typical speed of the table to what is stated."""
        return 1.0 if self.states is None else self.states.times_as_long(self.state)


MEDIAN = Speed()


def states_from(plain: Any) -> States | None:
    """States from the JSON of a table; ``None`` where it is of a time before they were told apart."""
    try:
        return States(**plain)
    except TypeError:
        return None


def change_text(times_as_long: float) -> str:
    """``1.34 times as fast``, or slower; nothing where that is not worth a word."""
    if abs(np.log(times_as_long)) < MIN_CHANGE:
        return ""
    return f"{max(times_as_long, 1 / times_as_long):.2f} times {'faster' if times_as_long < 1 else 'slower'}"


def find_states(readings_ms: Floats) -> States:
    """Tell one speed, two, or a drift from readings in the order of time.

    Two speeds are two clusters of logarithms that lie far apart for their own spreads, and each is held from one
    reading to the next: single outliers are none. Where neighbours in time resemble each other without such clusters,
    it is a drift.

    Args:
        readings_ms: Positive, shape ``(N,)``, at least one.
    """
    logs = np.log(readings_ms)
    typical_ms = float(np.exp(np.median(logs)))
    noise = _spread(np.diff(logs)) / 2**0.5 if len(logs) > 1 else 0.0
    if len(logs) < MIN_READINGS:
        return States("steady", typical_ms, typical_ms, typical_ms, noise=noise)
    is_slow = logs > _threshold(logs)
    share = float(is_slow.mean())
    num_changes = int(np.count_nonzero(np.diff(is_slow)))
    is_held = num_changes < share * (1 - share) * len(logs)  # half as many as chance would make
    if is_held and MIN_SHARE < share < 1 - MIN_SHARE:
        fast, slow = float(np.median(logs[~is_slow])), float(np.median(logs[is_slow]))
        spread = max(_spread(logs[~is_slow] - fast), _spread(logs[is_slow] - slow))
        if slow - fast > max(MIN_GAP, MIN_SEPARATION * spread):
            common = slow if share > 0.5 else fast
            fast_ms, common_ms, slow_ms = np.exp([fast, common, slow]).tolist()
            return States("two speeds", fast_ms, common_ms, slow_ms, slow_share=share, noise=noise)
    low, high = np.percentile(_running_median(logs), [5, 95])
    roughness = np.mean(np.diff(logs) ** 2) / (2 * np.var(logs)) if np.var(logs) else 1.0
    if high - low > MIN_DRIFT and roughness < MAX_ROUGHNESS:
        return States("drift", float(np.exp(low)), typical_ms, float(np.exp(high)), noise=noise)
    return States("steady", typical_ms, typical_ms, typical_ms, noise=noise)


def _threshold(values: Floats) -> float:
    """What cuts values into two groups of the least spread (Otsu 1979, on the values themselves)."""
    ordered = np.sort(values)
    count = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    below, above = sums[:-1] / count, (sums[-1] - sums[:-1]) / (len(ordered) - count)
    cut = int(np.argmax(count * (len(ordered) - count) * (above - below) ** 2))
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def _spread(values: Floats) -> float:
    """Standard deviation of the middle of values around 0, whatever their outliers do."""
    return float(1.4826 * np.median(np.abs(values)))


def _running_median(values: Floats) -> Floats:
    """Of ``WINDOW`` neighbours each; follows jumps, not outliers."""
    width = min(WINDOW, len(values) - (len(values) + 1) % 2)  # odd
    padded = np.pad(values, width // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    return np.asarray(np.median(windows, axis=1), dtype=np.float64)
