"""What more blocks would bring, against simulated measurements."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ofa.cost import LatencyTable
from ofa.cost.correction import Correction
from ofa.hardware.rounds import look_ahead, measured_seconds, part_shares
from ofa.hardware.timing import TimedBlock, TimingResult

from .fakes import FakeSupernet

SUPERNET = FakeSupernet()
SPACE = SUPERNET.space
KEYS = sorted({key for slot in SUPERNET.slots for key in slot.keys.ravel() if key})
TRUE_MS = {key: 0.1 + 0.05 * number for number, key in enumerate(KEYS)}
POPULATION = np.unique(SPACE.sample_population(500, np.random.default_rng(0)), axis=0)
NAMES = [arch.to_json() for arch in SPACE.to_archs(POPULATION)]


def table_of(part_ms, measured_ms=None):
    latencies = {f"latency_ms_p{p}": list(part_ms.values()) for p in (10, 50, 90)}
    entries = pd.DataFrame({"key": list(part_ms), **latencies, "num_runs": 5})
    table = LatencyTable(
        space=SPACE, slots=SUPERNET.slots, entries=entries, correction=Correction(0.0), device="cpu-1t"
    )
    if measured_ms is None:
        return table
    held_out = {"predicted_ms": table.predict_ms(POPULATION).tolist(), "measured_ms": measured_ms.tolist()}
    return dataclasses.replace(table, held_out=held_out)


WHOLE_MS = dict(zip(NAMES, table_of(TRUE_MS).predict_ms(POPULATION).tolist(), strict=True))


def measured(num_blocks, seed, *, noise=0.02, noisy=(), model_error=0.0):
    """A timing of everything, and the table that follows: blocks scatter, those of ``noisy`` parts three times more."""
    rng = np.random.default_rng(seed)
    blocks = []
    for name, ms in {**TRUE_MS, **WHOLE_MS}.items():
        own = noise * (3 if name in noisy else 1)
        for number in range(num_blocks[name]):
            durations = (round(ms * 1e6 * np.exp(rng.normal(0, own))),) * 5
            blocks.append(TimedBlock(name, number, durations, at_s=0.02 * len(blocks)))
    result = TimingResult(blocks=blocks)
    found = {name: runs.mean() for name, runs in result.runs_ms(num_blocks).items()}
    whole_ms = np.array([found[name] for name in NAMES]) * np.exp(rng.normal(0, model_error, len(NAMES)))
    return result, table_of({key: found[key] for key in KEYS}, whole_ms)


def looked(num_blocks, seed, **settings):
    result, table = measured(num_blocks, seed, **settings)
    return look_ahead(
        table, result, num_blocks=num_blocks, held_out=POPULATION, held_out_names=NAMES, typical=POPULATION
    )


def error_percent(num_blocks, **settings):
    """Root mean square error on held-out subnets, over many measurements."""
    squares = []
    for seed in range(200):
        _, table = measured(num_blocks, seed, **settings)
        ratio = np.divide(table.held_out["predicted_ms"], table.held_out["measured_ms"])
        squares.append(np.mean((ratio - 1) ** 2))
    return 100 * np.sqrt(np.mean(squares))


START = dict.fromkeys([*KEYS, *NAMES], 4)
NOISY = (KEYS[0], KEYS[3])


@pytest.mark.parametrize("model_error", [0.0, pytest.param(0.03, marks=pytest.mark.slow)])
def test_the_error_is_foreseen(model_error):
    """Noise alone makes the error, or networks that are no sums: only the former goes."""
    outlooks = [looked(START, 1000 + seed, noisy=NOISY, model_error=model_error) for seed in range(40)]
    now = error_percent(START, noisy=NOISY, model_error=model_error)
    assert np.sqrt(np.mean([outlook.error_percent**2 for outlook in outlooks])) == pytest.approx(now, rel=0.1)
    noise = error_percent(START, noisy=NOISY)
    assert np.sqrt(np.mean([outlook.noise_percent**2 for outlook in outlooks])) == pytest.approx(noise, rel=0.15)
    typical = outlooks[0].num_blocks
    after = error_percent(typical, noisy=NOISY, model_error=model_error)
    assert np.sqrt(np.mean([outlook.better_percent**2 for outlook in outlooks])) == pytest.approx(after, rel=0.15)
    gain = np.mean([1 - outlook.better_percent / outlook.error_percent for outlook in outlooks])
    assert gain > 0.15 if model_error == 0 else gain < 0.15


def test_blocks_go_where_they_help():
    """To noisy parts and to large ones, two more for each on average, and not too many for one."""

    def mean_blocks(noisy):
        found = np.array([list(looked(START, seed, noisy=noisy).num_blocks.values()) for seed in range(40)])
        assert found.min() >= 4 and found.max() <= 10
        return dict(zip(START, found.mean(axis=0), strict=True))

    quiet, noisy = mean_blocks(()), mean_blocks(NOISY)
    assert all(noisy[key] > quiet[key] + 0.3 for key in NOISY)
    assert quiet["stem_r8"] > quiet["block_k3_r8"] + 0.5  # it takes three times as long
    assert all(mean[name] == 6 for name in NAMES for mean in (quiet, noisy))
    assert all(sum(mean[key] for key in KEYS) <= 6 * len(KEYS) * 1.2 for mean in (quiet, noisy))


def test_shares_by_hand():
    """A network of stem, one block and head: what each takes of the whole."""
    arch = SPACE.smallest()
    shares = part_shares(table_of(TRUE_MS), KEYS, SPACE.to_population(arch))[0]
    expected = {key: TRUE_MS[key] for key in ("stem_r8", "block_k3_r8", "head_r8")}
    total = sum(expected.values())
    assert dict(zip(KEYS, shares, strict=True)) == pytest.approx({key: expected.get(key, 0) / total for key in KEYS})


def test_pauses_are_no_measuring():
    blocks = [TimedBlock("a", number, (1,), at_s=at) for number, at in enumerate([0.0, 1.0, 2.5, 100.0, 101.0])]
    assert measured_seconds(TimingResult(blocks=blocks)) == 3.5
