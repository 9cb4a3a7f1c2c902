from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ofa.hardware import timing
from ofa.hardware.timing import SystemClock, TimedBlock, TimingResult, time_models

from .fakes import FakeClock, FakeModel

MS = 1_000_000


def run(clock, models, *, anchor=None, **arguments):
    anchor = anchor or FakeModel(clock, MS // 10)
    defaults = {"rounds": 4, "block_seconds": 0.01, "rng": np.random.default_rng(0), "clock": clock}
    return time_models(models, anchor=anchor, **{**defaults, **arguments})


def test_latencies_are_the_models_own():
    clock = FakeClock()
    models = {"fast": FakeModel(clock, MS // 4), "slow": FakeModel(clock, 30 * MS)}
    result = run(clock, models)
    table = result.latencies_ms(models).set_index("name")
    for percentile in ("latency_ms_p10", "latency_ms_p50", "latency_ms_p90"):
        assert table[percentile].to_dict() == {"fast": 0.25, "slow": 30.0}
    # 10 ms of runs in each of 4 blocks; at least 5 runs where one takes longer than that.
    assert table["num_runs"].to_dict() == {"fast": 160, "slow": 20}
    np.testing.assert_array_equal(result.repeatability_percent(["fast", "slow"]), 0)
    assert result.facts() == {
        "num_blocks": 8,
        "rejected_percent": 0.0,
        "kept_though_disturbed_percent": 0.0,
        "causes": {},
        "anchor_ms": 0.1,
        "anchor_slope": 0.0,
        "conditions": [],
    }


def test_rounds_interleave_in_random_order_with_an_anchor_after_each_block():
    clock, log = FakeClock(), []
    models = {name: FakeModel(clock, MS, name=name, log=log) for name in "abcdef"}
    run(clock, models, anchor=FakeModel(clock, MS // 10, name="anchor", log=log))
    assert log[0] == "anchor"
    assert log[2::2] == ["anchor"] * 24
    rounds = [tuple(log[1::2][start : start + 6]) for start in range(0, 24, 6)]
    assert all(sorted(order) == sorted(models) for order in rounds)
    assert len(set(rounds)) > 1


def off_the_core(clock, num_runs):
    clock.wall += 2 * MS if num_runs == 8 else 0


def pushed_off(clock, num_runs):
    clock.switches += num_runs == 8


@pytest.mark.parametrize(
    ("disturb", "cause"), [(off_the_core, "off the core"), (pushed_off, "involuntary context switch")]
)
def test_a_disturbed_block_is_rejected_and_measured_again(disturb, cause):
    clock = FakeClock()
    models = {"calm": FakeModel(clock, MS), "disturbed": FakeModel(clock, MS, disturb=disturb)}
    result = run(clock, models)
    assert result.num_rejected == 1
    assert result.causes == {cause: 1}
    assert Counter(block.name for block in result.blocks) == {"calm": 4, "disturbed": 4}
    assert not any(block.causes for block in result.blocks)
    assert all(duration == MS for block in result.blocks for duration in block.durations_ns)


def test_a_slow_block_without_a_cause_is_kept():
    clock = FakeClock()
    model = FakeModel(clock, MS)

    def slow_down(clock, num_runs):
        model.cost_ns = 50 * MS if num_runs > 20 else MS

    model.disturb = slow_down
    result = run(clock, {"model": model})
    assert result.num_rejected == 0
    assert max(result.blocks[-1].durations_ns) == 50 * MS
    assert result.repeatability_percent(["model"])[0] >= 0


def test_blocks_around_a_moved_anchor_are_rejected():
    clock = FakeClock()

    def throttle(clock, num_runs):
        anchor.cost_ns = MS * 2 if 60 < num_runs <= 66 else MS

    anchor = FakeModel(clock, MS, disturb=throttle)
    result = run(clock, {name: FakeModel(clock, MS) for name in "abcd"}, anchor=anchor, rounds=6)
    assert result.causes["anchor moved"] >= 1
    assert result.num_rejected == result.causes["anchor moved"]
    assert len(result.blocks) == 24
    assert not any(block.causes for block in result.blocks)


def test_a_machine_of_two_speeds_gives_the_same_latencies_to_all():
    """The clock is boosted for some seconds now and then, by a tenth: low percentiles alone tell who was lucky."""
    clock = FakeClock()
    rng = np.random.default_rng(1)
    boost = {"until": 0, "factor": 1.0}

    def pace(model):
        def change(clock, num_runs):
            if clock.wall > boost["until"]:
                boost.update(until=clock.wall + int(rng.integers(50, 300)) * MS, factor=rng.choice([0.9, 1.0]))
            model.cost_ns = int(MS * boost["factor"])

        return change

    models = {name: FakeModel(clock, MS) for name in "abcdefghijkl"}
    anchor = FakeModel(clock, MS)
    for model in (*models.values(), anchor):
        model.disturb = pace(model)
    result = run(clock, models, anchor=anchor, rounds=6)
    assert result.anchor_slope == pytest.approx(1, abs=0.1)
    assert np.ptp(result.latencies_ms(models)["latency_ms_p50"]) < 0.02
    assert result.latencies_ms(models)["latency_ms_p50"].median() == pytest.approx(result.anchor_ms, rel=0.02)


def test_an_anchor_that_only_flutters_changes_nothing():
    rng = np.random.default_rng(0)
    blocks = [TimedBlock("model", number, (MS,) * 3, (), MS * rng.normal(1, 0.02)) for number in range(50)]
    result = TimingResult(blocks=blocks)
    assert result.anchor_slope == pytest.approx(0, abs=1e-9)
    assert result.latencies_ms(["model"])["latency_ms_p10"].item() == 1.0


def test_retries_are_bounded_and_what_is_kept_is_marked():
    clock = FakeClock()

    def always(clock, num_runs):
        clock.switches += 1

    models = {"bad": FakeModel(clock, MS, disturb=always)} | {name: FakeModel(clock, MS) for name in "abcdefg"}
    result = run(clock, models)
    bad = [block for block in result.blocks if block.name == "bad"]
    assert result.num_rejected == 8  # two retries a round, which is also a quarter of all blocks
    assert [block.causes for block in bad] == [("involuntary context switch",)] * 4
    assert result.facts()["kept_though_disturbed_percent"] == 12.5
    assert result.facts()["rejected_percent"] == 20.0

    everything = run(clock, {name: FakeModel(clock, MS, disturb=always) for name in "abcdefgh"})
    assert everything.num_rejected == 8
    assert len(everything.blocks) == 32


def test_where_threads_share_the_work_cpu_time_says_nothing():
    clock = FakeClock()
    clock.cpu_ns = lambda: None
    result = run(clock, {"model": FakeModel(clock, MS, disturb=off_the_core)})
    assert result.num_rejected == 0


def test_done_blocks_are_not_measured_again():
    clock = FakeClock()
    kept = []
    models = {"a": FakeModel(clock, MS), "b": FakeModel(clock, MS)}
    done = [TimedBlock("a", 0, (7 * MS,) * 5), TimedBlock("b", 3, (7 * MS,) * 5), TimedBlock("forgotten", 0, (MS,))]
    result = run(clock, models, done=done, on_block=kept.append)
    measured = Counter((block.name, block.round) for block in kept)
    assert set(measured) == {(name, number) for name in "ab" for number in range(4)} - {("a", 0), ("b", 3)}
    assert set(measured.values()) == {1}
    assert len(result.blocks) == 8


def test_repeatability_by_hand():
    blocks = [TimedBlock("model", number, (cost,) * 3) for number, cost in enumerate([MS, 2 * MS, MS, 2 * MS])]
    result = TimingResult(blocks=blocks)
    assert result.repeatability_percent(["model"])[0] == pytest.approx(100 / 1.5)


def test_one_round_cannot_be_compared():
    with pytest.raises(ValueError, match="at least 2, not 1"):
        run(FakeClock(), {}, rounds=1)


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
        models, anchor=models["model"], rng=np.random.default_rng(0), rounds=2, block_seconds=0.01, clock=clock
    )
    assert len(result.blocks) == 2
