from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from ofa.hardware import timing
from ofa.hardware.timing import SystemClock, TimedBlock, TimingResult, cache_user, max_blocks, time_models

from .fakes import FakeClock, FakeModel

MS = 1_000_000


def run(clock, models, *, anchor=None, **arguments):
    anchor = anchor or FakeModel(clock, MS // 10)
    defaults = {"num_blocks": 4, "block_seconds": 0.01, "rng": np.random.default_rng(0), "clock": clock}
    return time_models(models, anchor=anchor, **{**defaults, **arguments})


class Machine:
    """A clock whose models take as long as ``slowness(seconds)`` says; ``feel`` is a model's exponent of it."""

    def __init__(self, slowness, *, noise=0.01, outliers=0.0, seed=0):
        self.clock, self.slowness, self.noise, self.outliers = FakeClock(), slowness, noise, outliers
        self.rng = np.random.default_rng(seed)

    def model(self, ms, feel=1.0):
        model = FakeModel(self.clock, 0)

        def cost(clock=None, num_runs=0):
            factor = self.slowness(self.clock.wall / 1e9) ** feel * np.exp(abs(self.rng.normal(0, self.noise)))
            model.cost_ns = int(ms * MS * factor * (20 if self.rng.random() < self.outliers else 1))

        model.disturb = cost
        cost()
        return model


def telegraph(seed, *, slow=1.37, share=0.3, seconds=0.6):
    """Two speeds, each held for about so long."""
    rng = np.random.default_rng(seed)
    lengths = rng.exponential(2 * seconds * np.array([1 - share, share]), (2000, 2)).ravel()
    ends = np.cumsum(lengths)
    return lambda second: slow if np.searchsorted(ends, second) % 2 else 1.0


def test_latencies_are_the_models_own():
    clock = FakeClock()
    models = {"fast": FakeModel(clock, MS // 4), "slow": FakeModel(clock, 30 * MS)}
    result = run(clock, models)
    table = result.latencies_ms(models).set_index("name")
    for percentile in ("latency_ms_p10", "latency_ms_p50", "latency_ms_p90", "latency_ms_p99"):
        assert table[percentile].to_dict() == {"fast": 0.25, "slow": 30.0}
    # 10 ms of runs in each of 4 blocks; at least 5 runs where one takes longer than that.
    assert table["num_runs"].to_dict() == {"fast": 160, "slow": 20}
    np.testing.assert_array_equal(result.repeatability_percent(["fast", "slow"]), 0)
    np.testing.assert_array_equal(result.error_percent(["fast", "slow"]), 0)
    assert result.facts(models) == {
        "num_blocks": 8,
        "repeated_percent": 0.0,
        "models_never_undisturbed": 0,
        "causes": {},
        "states": {
            "kind": "steady",
            "fast_ms": 0.1,
            "typical_ms": 0.1,
            "slow_ms": 0.1,
            "slow_share": 0.0,
            "noise": 0.0,
            "slope": None,
        },
        "conditions": [],
    }


def test_passes_interleave_in_random_order_with_an_anchor_after_each_block():
    clock, log = FakeClock(), []
    models = {name: FakeModel(clock, MS, name=name, log=log) for name in "abcdef"}
    run(clock, models, anchor=FakeModel(clock, MS // 10, name="anchor", log=log))
    assert log[0] == "anchor"
    assert log[2::2] == ["anchor"] * 24
    passes = [tuple(log[1::2][start : start + 6]) for start in range(0, 24, 6)]
    assert all(sorted(order) == sorted(models) for order in passes)
    assert len(set(passes)) > 1


def test_each_model_gets_as_many_good_blocks_as_it_needs():
    clock = FakeClock()
    models = {name: FakeModel(clock, MS) for name in "abc"}
    result = run(clock, models, num_blocks={"a": 2, "b": 5, "c": 3})
    assert result.num_good() == {"a": 2, "b": 5, "c": 3}
    assert [block.number for block in result.blocks if block.name == "b"] == list(range(5))


def off_the_core(clock, num_runs):
    clock.wall += 2 * MS if num_runs == 8 else 0


def pushed_off(clock, num_runs):
    clock.switches += num_runs == 8


@pytest.mark.parametrize(
    ("disturb", "cause"), [(off_the_core, "off the core"), (pushed_off, "involuntary context switch")]
)
def test_a_disturbed_block_does_not_count_and_is_measured_again(disturb, cause):
    clock = FakeClock()
    models = {"calm": FakeModel(clock, MS), "disturbed": FakeModel(clock, MS, disturb=disturb)}
    result = run(clock, models)
    assert result.causes() == {cause: 1}
    assert result.num_good() == {"calm": 4, "disturbed": 4} and len(result.blocks) == 9
    table = result.latencies_ms(["calm", "disturbed"]).set_index("name")
    assert table["latency_ms_p50"].tolist() == [1, 1]


def test_higher_percentiles_know_of_what_disturbs():
    """One run in a hundred waits 2 ms for its core: the median does not know of it, the highest percentile does."""
    clock = FakeClock()

    def wait(clock, num_runs):
        if num_runs % 100 == 0:
            clock.wall += 2 * MS
            clock.switches += 1

    models = {"model": FakeModel(clock, MS // 20, disturb=wait)}
    result = run(clock, models, num_blocks=6)
    table = result.latencies_ms(models)
    assert table["latency_ms_p50"].item() == table["latency_ms_p90"].item() == 0.05
    assert result.runs_ms(models)["model"].max() == 2.05 and table["latency_ms_p99"].item() > 0.05


def test_a_slow_block_without_a_cause_counts():
    clock = FakeClock()
    model = FakeModel(clock, MS)

    def slow_down(clock, num_runs):
        model.cost_ns = 50 * MS if num_runs > 20 else MS

    model.disturb = slow_down
    result = run(clock, {"model": model})
    assert len(result.blocks) == result.num_good()["model"] == 4
    assert max(result.blocks[-1].durations_ns) == 50 * MS
    assert result.repeatability_percent(["model"])[0] >= 0


def test_blocks_around_a_moved_anchor_do_not_count():
    clock = FakeClock()

    def throttle(clock, num_runs):
        anchor.cost_ns = MS * 2 if 63 < num_runs <= 70 else MS

    anchor = FakeModel(clock, MS, disturb=throttle)
    result = run(clock, {name: FakeModel(clock, MS) for name in "abcd"}, anchor=anchor, num_blocks=6)
    assert result.causes()["speed changed"] >= 1
    assert len(result.blocks) == 24 + result.causes()["speed changed"]
    assert sum(result.num_good().values()) == 24


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_two_speeds(seed, share):
    """Latencies are those of the commoner speed, and what the other one makes of them is known."""
    machine = Machine(telegraph(seed, share=share), seed=seed)
    true_ms = {f"model{index}": ms for index, ms in enumerate(np.geomspace(0.2, 5, 60))}
    models = {name: machine.model(ms) for name, ms in true_ms.items()}
    result = run(machine.clock, models, anchor=machine.model(0.1), num_blocks=6)
    states = result.states_for(models)
    assert states.kind == "two speeds"
    assert states.slow_ms / states.fast_ms == pytest.approx(1.37, rel=0.01)
    typical = 1.37 if states.slow_share > 0.5 else 1.0
    found = result.latencies_ms(models).set_index("name")["latency_ms_p10"] / pd.Series(true_ms)
    np.testing.assert_allclose(found, typical, rtol=0.01)
    medians_ms = result.latencies_ms(models).set_index("name")["latency_ms_p50"]
    slow = medians_ms * result.states_for(models).times_as_long("slow") / pd.Series(true_ms)
    np.testing.assert_allclose(slow, 1.37 * 1.007, rtol=0.015)  # the noise's own median
    assert result.states_for(models).slope == pytest.approx(1, abs=0.03)
    assert result.causes()["rarer speed"] > 0


def test_a_network_is_warm_before_its_runs_count():
    """What it takes after others used the caches: 2.1 times as long at first, 1.12 times the third time."""
    clock, last = FakeClock(), [""]
    cold = [2.1, 1.36, 1.12, 1.03, 1.02]

    def network(name, ms):
        model, count = FakeModel(clock, 0), [0]

        def cost(clock=None, num_runs=0):
            count[0] = count[0] + 1 if last[0] == name else 0
            last[0] = name
            model.cost_ns = int(ms * MS * (cold[count[0]] if count[0] < len(cold) else 1))

        model.disturb = cost
        return model

    true_ms = {"part": 0.3, "small": 2.0, "large": 8.0}
    result = run(clock, {name: network(name, ms) for name, ms in true_ms.items()})
    found = result.latencies_ms(true_ms).set_index("name")
    assert found["latency_ms_p10"].to_dict() == true_ms and found["latency_ms_p50"].to_dict() == true_ms
    assert {name: len(result.runs_ms([name])[name]) // 4 for name in true_ms} == {"part": 34, "small": 10, "large": 10}


def test_the_low_percentile_is_the_same_of_ten_runs_and_of_hundreds():
    rng = np.random.default_rng(0)
    lows = [
        np.mean([timing.percentile(np.exp(rng.normal(0, 0.03, num_runs)), timing.LOW) for _ in range(2000)])
        for num_runs in (10, 20, 200)
    ]
    np.testing.assert_allclose(lows, lows[-1], rtol=0.005)


def test_a_core_that_is_interrupted_all_the_time():
    """Few runs of a part are hit, and most of a network; how many of these are spared changes from block to block."""
    clock, rng, spared = FakeClock(), np.random.default_rng(0), {}

    def model(ms, *, share=None):
        found = FakeModel(clock, 0)

        def cost(clock=None, num_runs=0):
            few = spared.setdefault(found.clock.wall // (12 * MS), rng.uniform(0, 0.25))
            is_hit = rng.random() > few if share is None else rng.random() < share
            found.cost_ns = int(
                MS * (ms * np.exp(abs(rng.normal(0, 0.01))) + is_hit * (ms / 2 if share is None else 0.015))
            )

        found.disturb = cost
        cost()
        return found

    networks, parts = {f"network{ms}": ms for ms in (0.15, 0.2, 0.3)}, {f"part{ms}": ms for ms in (0.01, 0.02)}
    models = {name: model(ms) for name, ms in networks.items()}
    models |= {name: model(ms, share=0.2) for name, ms in parts.items()}
    result = run(clock, models, anchor=model(0.1, share=0), num_blocks=8)
    medians_ms = result.latencies_ms(networks)["latency_ms_p50"] / list(networks.values())
    np.testing.assert_allclose(medians_ms, 1.5 * 1.007, rtol=0.01)
    lows_ms = result.latencies_ms(parts, timing.LOW)["latency_ms_p10"] / list(parts.values())
    np.testing.assert_allclose(lows_ms, 1, rtol=0.01)
    assert result.error_percent([*networks]).max() < 1 < 3 < result.error_percent([*networks], timing.LOW).min()
    assert result.repeatability_percent([*parts], timing.LOW).max() < 1


def test_networks_and_parts_feel_speeds_in_their_own_ways():
    """The anchor slows down 1.37 times, parts 1.37 ** 1.3, networks 1.37 ** 0.7: each goes by its own kind."""
    machine = Machine(telegraph(2), noise=0.001)
    networks = {f"network{index}": machine.model(2.0, feel=0.7) for index in range(30)}
    parts = {f"part{index}": machine.model(0.2, feel=1.3) for index in range(60)}
    result = run(machine.clock, {**networks, **parts}, anchor=machine.model(0.1), num_blocks=6)
    assert result.states_for(networks).slope == pytest.approx(0.7, abs=0.03)
    assert result.states_for(parts).slope == pytest.approx(1.3, abs=0.03)
    assert result.facts(networks)["states"] == result.states_for(networks).to_json()


def test_models_that_feel_the_slower_speed_less():
    machine = Machine(telegraph(1))
    models = {str(index): machine.model(1.0, feel=0.5) for index in range(40)}
    result = run(machine.clock, models, anchor=machine.model(0.1), num_blocks=6)
    assert result.states_for(models).slope == pytest.approx(0.5, abs=0.05)
    assert result.states_for(models).times_as_long("slow") == pytest.approx(1.37**0.5, rel=0.02)
    assert result.states_for(models).times_as_long("typical") == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_a_heating_board_gives_the_same_latencies_to_all(seed):
    machine = Machine(lambda second: 1 + 0.25 * (1 - np.exp(-second / 4)), seed=seed)
    models = {str(index): machine.model(1.0) for index in range(60)}
    result = run(machine.clock, models, anchor=machine.model(0.1), num_blocks=6)
    assert result.states_for(models).kind == "drift"
    latencies_ms = result.latencies_ms(models)["latency_ms_p10"] / result.states_for(models).typical_ms * 0.1
    np.testing.assert_allclose(latencies_ms, 1.0, rtol=0.02)
    seconds = np.percentile([block.at_s for block in result.blocks], [50, 95])
    expected = np.divide(*map(machine.slowness, seconds[::-1]))
    assert result.states_for(models).times_as_long("slow") == pytest.approx(expected, rel=0.02)


def test_outliers_are_no_speed():
    machine = Machine(lambda second: 1.0, outliers=0.02)
    models = {str(index): machine.model(1.0) for index in range(40)}
    result = run(machine.clock, models, anchor=machine.model(0.1), num_blocks=6)
    states = result.states_for(models)
    assert states.kind == "steady" and states.slope is None and states.times_as_long("slow") == 1.0
    np.testing.assert_allclose(result.latencies_ms(models)["latency_ms_p10"], 1.0, rtol=0.01)


def test_what_is_left_at_the_end_waits_for_the_typical_speed():
    """Few models lack a block, and the machine has become slow: for longer than they would be tried."""
    machine = Machine(lambda second: 1.3 if 1.5 < second < 9 else 1.0, noise=0.001)
    models = {str(index): machine.model(1.0) for index in range(30)}
    result = run(machine.clock, models, anchor=machine.model(0.1), num_blocks=4)
    assert min(result.num_good().values()) == 4
    assert 9 < machine.clock.wall / 1e9 < 12


def test_an_anchor_that_only_flutters_changes_nothing():
    rng = np.random.default_rng(0)
    readings = MS * rng.normal(1, 0.005, 51)
    blocks = [
        TimedBlock("model", number, (MS,) * 3, (), readings[number], readings[number + 1], float(number))
        for number in range(50)
    ]
    result = TimingResult(blocks=blocks)
    assert result.states_for(["model"]).kind == "steady" and result.states_for(["model"]).slope is None
    assert result.latencies_ms(["model"])["latency_ms_p10"].item() == 1.0
    course = result.course(10)
    assert course["seconds"] == [0, 5, 11, 16, 22, 27, 33, 38, 44, 49] and not any(course["repeated"])
    assert course["anchor_ms"] == [round(readings[int(second) + 1] / 1e6, 6) for second in course["seconds"]]


def test_tries_are_bounded_and_what_never_was_undisturbed_is_said():
    clock = FakeClock()

    def always(clock, num_runs):
        clock.switches += 1

    models = {"bad": FakeModel(clock, MS, disturb=always)} | {name: FakeModel(clock, MS) for name in "abcdefg"}
    result = run(clock, models)
    bad = [block for block in result.blocks if block.name == "bad"]
    assert [block.causes for block in bad] == [("involuntary context switch",)] * max_blocks(4)
    assert max_blocks(4) == 8 and max_blocks(5) == 10
    assert result.facts(models)["models_never_undisturbed"] == 1
    assert result.facts(models)["repeated_percent"] == round(100 * 8 / 36, 2)
    assert result.latencies_ms(["bad"])["latency_ms_p50"].item() == 1.0


def test_the_error_of_few_blocks_leans_on_all():
    """By hand: blocks of 1 and 2 ms, and of 1 and 1 ms; their spread is pooled as that of three blocks more each."""
    blocks = [
        TimedBlock(name, number, (cost,) * 3, at_s=float(number))
        for name, costs in {"a": [MS, 2 * MS], "b": [MS, MS]}.items()
        for number, cost in enumerate(costs)
    ]
    square = np.log(2) ** 2 / 2
    pooled = square / 2
    expected = [np.sqrt((square + 3 * pooled) / 4 / 2) * 100, np.sqrt(3 * pooled / 4 / 2) * 100]
    np.testing.assert_allclose(TimingResult(blocks=blocks).error_percent(["a", "b"]), expected)


def test_where_threads_share_the_work_cpu_time_says_nothing():
    clock = FakeClock()
    clock.cpu_ns = lambda: None
    result = run(clock, {"model": FakeModel(clock, MS, disturb=off_the_core)})
    assert len(result.blocks) == 4


def test_done_blocks_are_not_measured_again():
    clock = FakeClock()
    kept = []
    models = {"a": FakeModel(clock, MS), "b": FakeModel(clock, MS)}
    around = (MS // 10, MS // 10)
    done = [TimedBlock("a", 0, (7 * MS,) * 5, (), *around), TimedBlock("b", 3, (7 * MS,) * 5, (), *around)]
    disturbed = TimedBlock("b", 4, (7 * MS,) * 5, ("off the core",), *around)
    result = run(clock, models, done=[*done, disturbed, TimedBlock("forgotten", 0, (MS,))], on_block=kept.append)
    measured = Counter((block.name, block.number) for block in kept)
    assert measured == Counter({("a", 1): 1, ("a", 2): 1, ("a", 3): 1, ("b", 5): 1, ("b", 6): 1, ("b", 7): 1})
    assert len(result.blocks) == 9


def test_repeatability_by_hand():
    blocks = [
        TimedBlock("model", number, (cost,) * 3, at_s=float(number))
        for number, cost in enumerate([MS, 2 * MS, MS, 2 * MS])
    ]
    result = TimingResult(blocks=blocks)
    assert result.repeatability_percent(["model"])[0] == pytest.approx(100 / 1.5)


def test_one_round_cannot_be_compared():
    with pytest.raises(ValueError, match="at least 2, not 1"):
        run(FakeClock(), {}, num_blocks=1)


@pytest.mark.parametrize("threads", [1, 2])
def test_system_clock(threads):
    clock = SystemClock(threads)
    assert clock.wall_ns() <= clock.wall_ns()
    assert (clock.cpu_ns() is None) == (threads > 1)
    assert clock.involuntary_switches() >= 0


@pytest.mark.parametrize("threads", [1, 2])
def test_system_clock_where_linux_is_not(threads, tmp_path, monkeypatch):
    """The account of one thread is Linux's own; elsewhere that of the process serves."""
    monkeypatch.delattr(timing.resource, "RUSAGE_THREAD", raising=False)
    monkeypatch.setattr(timing, "CLOCK_FREQUENCY", tmp_path / "none")
    clock = SystemClock(threads)
    assert clock.involuntary_switches() >= 0
    assert clock.frequency_mhz() is None
    models = {"model": lambda: sum(range(1000))}
    result = time_models(
        models, anchor=models["model"], rng=np.random.default_rng(0), num_blocks=2, block_seconds=0.01, clock=clock
    )
    assert 2 <= len(result.blocks) <= max_blocks(2)


def test_caches_are_used_before_each_run():
    clock, log = FakeClock(), []

    def others():
        log.append("others")
        clock.wall += 3 * MS
        clock.cpu += 3 * MS

    model = FakeModel(clock, MS, name="model", log=log)
    result = run(clock, {"model": model}, num_blocks=2, before_run=others, anchor=FakeModel(clock, MS // 10))
    assert result.latencies_ms(["model"])["latency_ms_p50"].item() == 1.0
    assert log.count("others") == sum(len(block.durations_ns) for block in result.blocks) == 20
    data = cache_user(1 << 10)
    assert (data() == 1).all() and (data() == 2).all()
