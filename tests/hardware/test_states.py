"""Simulated machines: which speeds are found, and at which each block ran."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ofa.errors import UsageError
from ofa.states import States, find_states


def two_speeds(rng, num=400, *, slow=1.37, share=0.3, hold=40, noise=0.01):
    """A telegraph that holds each speed for about so many readings."""
    is_slow, states = rng.random() < share, []
    while len(states) < num:
        length = rng.exponential(hold * (share if is_slow else 1 - share) * 2) + 1
        states += [is_slow] * int(length)
        is_slow = not is_slow
    return np.where(states[:num], slow, 1.0) * np.exp(rng.normal(0, noise, num)), np.array(states[:num])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", [0.003, 0.01, 0.02])
def test_one_speed(seed, noise):
    rng = np.random.default_rng(seed)
    found = find_states(2.0 * np.exp(rng.normal(0, noise, 300)))
    assert found.kind == "steady"
    assert found.fast_ms == found.typical_ms == found.slow_ms == pytest.approx(2.0, rel=0.005)
    assert found.noise == pytest.approx(noise, rel=0.25)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("slow", "noise"), [(1.37, 0.01), (1.37, 0.03), (1.1, 0.01)])
def test_two_speeds(seed, slow, noise):
    rng = np.random.default_rng(seed)
    readings, is_slow = two_speeds(rng, slow=slow, noise=noise)
    found = find_states(readings)
    assert found.kind == "two speeds"
    assert found.fast_ms == pytest.approx(1.0, rel=noise) and found.slow_ms == pytest.approx(slow, rel=noise)
    assert found.typical_ms == (found.slow_ms if is_slow.mean() > 0.5 else found.fast_ms)
    assert found.slow_share == pytest.approx(is_slow.mean(), abs=0.02)
    speeds = found.speed_ms(readings[:-1], readings[1:])
    jumps = is_slow[:-1] != is_slow[1:]
    assert np.isnan(speeds[jumps]).mean() > 0.9
    assert np.isnan(speeds[~jumps]).mean() < 0.02
    told = ~np.isnan(speeds) & ~jumps
    assert np.array_equal(speeds[told] > 1.02, is_slow[1:][told])
    assert np.array_equal(found.is_typical(speeds)[told], (is_slow == (is_slow.mean() > 0.5))[1:][told])


@pytest.mark.parametrize("seed", range(20))
def test_a_board_that_heats_up(seed):
    rng = np.random.default_rng(seed)
    true = 1 + 0.25 * (1 - np.exp(-np.arange(400) / 150))
    readings = true * np.exp(rng.normal(0, 0.01, 400))
    found = find_states(readings)
    assert found.kind == "drift"
    assert found.fast_ms == pytest.approx(1.02, abs=0.03) and found.slow_ms == pytest.approx(1.23, abs=0.03)
    speeds = found.speed_ms(readings[:-1], readings[1:])
    told = np.isfinite(speeds)
    assert told.mean() > 0.95 and found.is_typical(speeds)[told].all()
    assert np.abs(speeds / true[1:] - 1)[told].mean() < 0.006


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_outliers_are_no_speed(seed, share):
    rng = np.random.default_rng(seed)
    readings = np.exp(rng.normal(0, 0.01, 400)) * np.where(rng.random(400) < share, 2.5, 1.0)
    found = find_states(readings)
    assert found.kind == "steady" and found.slow_ms == pytest.approx(1.0, rel=0.01)
    speeds = found.speed_ms(readings[:-1], readings[1:])
    hit = (readings[:-1] > 1.5) | (readings[1:] > 1.5)
    assert np.isnan(speeds[hit]).all() and np.isnan(speeds[~hit]).mean() < 0.02


def test_a_slow_wave_is_a_drift():
    readings = 1 + 0.1 * np.sin(np.arange(400) / 60)
    assert find_states(readings).kind == "drift"


@pytest.mark.parametrize("num", [1, 2, 5])
def test_few_readings_tell_one_speed(num):
    found = find_states(np.linspace(1, 2, num))
    assert found.kind == "steady" and found.typical_ms == pytest.approx(
        np.exp(np.median(np.log(np.linspace(1, 2, num))))
    )


def test_how_much_longer_models_take():
    found = States("two speeds", 1.0, 1.0, 1.44, slope=0.5)
    assert [found.times_as_long(state) for state in ("fast", "typical", "slow")] == [1.0, 1.0, pytest.approx(1.2)]
    assert found.times_as_long(0.81) == pytest.approx(0.9)
    assert States("two speeds", 1.0, 1.0, 1.44).times_as_long("slow") == pytest.approx(1.44)


def test_how_much_longer_models_take_at_another_time():
    """Half in proportion to the anchor, half by the slope, but for the change from one of two speeds to the other."""
    then = States("two speeds", 1.0, 1.0, 1.44, slope=0.5)
    for typical_ms, expected in ((1.1, 1.1**0.75), (1.0, 1.0), (1.44, 1.2), (1.5, 1.2 * (1.5 / 1.44) ** 0.75)):
        now = States("steady", typical_ms, typical_ms, typical_ms)
        assert now.times_as_long_as(then) == pytest.approx(expected)
    drift = States("drift", 0.9, 1.0, 1.1, slope=0.5)
    assert States("drift", 1.0, 1.1, 1.3, slope=0.7).times_as_long_as(drift) == pytest.approx(1.1**0.75)
    assert States("steady", 1.1, 1.1, 1.1).times_as_long_as(States("steady", 1.0, 1.0, 1.0)) == pytest.approx(1.1)


def test_there_and_back():
    found = States("two speeds", 1.0, 1.0, 1.37, slow_share=0.25, noise=0.0123, slope=0.9)
    assert States(**json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    "wrong",
    [{"typical_ms": 0.0}, {"fast_ms": -1.0}, {"slow_ms": 1e300}, {"slope": 1e300}, {"typical_ms": math.nan}],
)
def test_speeds_that_no_machine_has_are_refused(wrong):
    with pytest.raises(UsageError, match="must be"):
        States(**{"kind": "steady", "fast_ms": 1.0, "typical_ms": 1.0, "slow_ms": 1.0, **wrong})
