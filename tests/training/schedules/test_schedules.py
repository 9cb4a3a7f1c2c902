"""Schedules cover the run, and are as published."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa.config import ConfigError
from ofa.space import Dim, SearchSpace, SpaceError
from ofa.supernet import create_supernet
from ofa.training.schedules import SCHEDULES, Schedule, stretch_at
from ofa.training.schedules.largest_first import LargestFirst
from ofa.training.schedules.one_stage import OneStage
from ofa.training.schedules.progressive_shrinking import ProgressiveShrinking


def space(*, depths: int = 3, kernels: int = 3, expands: int = 3) -> SearchSpace:
    return SearchSpace(
        (
            Dim("resolution", (16, 20)),
            Dim("stage0.depth", tuple(range(1, depths + 1))),
            Dim("stage0.block0.kernel", tuple(range(3, 2 * kernels + 3, 2))),
            Dim("stage0.block0.expand", tuple(range(1, expands + 1))),
        )
    )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [7, 100, 12345])
def test_contract(name: str, num_steps: int) -> None:
    schedule: Schedule = SCHEDULES[name]()
    plan = schedule.plan(space(), num_steps)
    assert [stretch.first for stretch in plan] == [0, *(stretch.end for stretch in plan[:-1])]
    assert plan[-1].end == num_steps
    assert all(stretch.end > stretch.first for stretch in plan)
    rates = [schedule.learning_rate(step, plan, warmup_steps=2) for step in range(min(num_steps, 500))]
    assert all(0 < rate <= 1 for rate in rates)
    assert plan[-1].space == space()  # in the end everything is open
    assert [stretch_at(plan, step) for step in (0, num_steps - 1, num_steps)] == [plan[0], plan[-1], plan[-1]]


def test_decays_by_hand() -> None:
    def rates(decay: str) -> list[float]:
        schedule = OneStage(decay=decay)  # type: ignore[arg-type]
        plan = schedule.plan(space(), 12)
        return [schedule.learning_rate(step, plan, warmup_steps=3) for step in range(12)]

    for decay in ("cosine", "exponential", "constant"):
        np.testing.assert_allclose(rates(decay)[:4], [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(rates("cosine")[3:], [0.5 * (1 + math.cos(math.pi * k / 9)) for k in range(9)])
    assert rates("constant")[3:] == [1] * 9
    falling = rates("exponential")[3:]
    np.testing.assert_allclose(falling[1:6], [falling[1] ** k for k in range(1, 6)])  # geometric
    np.testing.assert_allclose(falling[6:], [0.05] * 3, rtol=0.02)


def test_progressive_shrinking_is_as_published() -> None:
    plan = ProgressiveShrinking().plan(space(), 6050)
    assert [stretch.phase.name for stretch in plan] == ["largest", "kernel", "depth_2", "depth", "expand_2", "expand"]
    assert [stretch.end - stretch.first for stretch in plan] == [1800, 1250, 250, 1250, 250, 1250]
    opened = [[len(dim.values) for dim in stretch.space.dims] for stretch in plan]  # resolution, depth, kernel, expand
    assert opened == [[2, 1, 1, 1], [2, 1, 3, 1], [2, 2, 3, 1], [2, 3, 3, 1], [2, 3, 3, 2], [2, 3, 3, 3]]
    assert plan[2].space["stage0.depth"].values == (2, 3)  # the largest open first
    assert [stretch.phase.num_random for stretch in plan] == [None, 1, 2, 2, 4, 4]
    # Learning rates per 64 images: 2.6 / 32 for the largest, then .03, .0025, .0075, .0025, .0075.
    peaks = [stretch.phase.learning_rate for stretch in plan]
    np.testing.assert_allclose(peaks, np.array([2.6 / 32, 0.03, 0.0025, 0.0075, 0.0025, 0.0075]) / (2.6 / 32))  # type: ignore[arg-type]
    assert [stretch.phase.sort_channels for stretch in plan] == [False] * 4 + [True, False]
    assert [stretch.phase.freezes_largest for stretch in plan] == [False, True, False, False, False, False]


def test_progressive_shrinking_leaves_out_what_a_space_does_not_have() -> None:
    def names(**sizes: int) -> list[str]:
        return [phase.name for phase in ProgressiveShrinking().phases(space(**sizes))]

    assert names(kernels=1) == ["largest", "depth_2", "depth", "expand_2", "expand"]
    assert names(depths=2) == ["largest", "kernel", "depth", "expand_2", "expand"]
    assert names(depths=1, expands=2) == ["largest", "kernel", "expand"]
    for sizes in ({"kernels": 1}, {"depths": 2}, {"depths": 1, "expands": 2}, {"kernels": 1, "depths": 1}):
        phases = ProgressiveShrinking().phases(space(**sizes))
        assert [phase.freezes_largest for phase in phases] == [False, True, *[False] * (len(phases) - 2)]
        assert sum(phase.sort_channels for phase in phases) == 1


def test_the_largest_first() -> None:
    plan = LargestFirst(alone=0.25, ramp=0.1).plan(space(), 100)
    assert [(stretch.first, stretch.end, stretch.phase.only_largest) for stretch in plan] == [
        (0, 25, True),
        (25, 100, False),
    ]
    assert plan[1].phase.sort_channels
    assert plan[1].phase.ramp == 0.1
    with pytest.raises(ConfigError, match="alone must be a share of the run between 0 and 1, not 1"):
        LargestFirst(alone=1)
    with pytest.raises(ConfigError, match=r"ramp must be from 0 to 0\.5, what is left of the run, not 0\.6"):
        LargestFirst(ramp=0.6)


def test_too_few_steps() -> None:
    with pytest.raises(ConfigError, match=r"has 6 phases, but the run has 5 steps; raise train\.epochs"):
        ProgressiveShrinking().plan(space(), 5)
    with pytest.raises(ConfigError, match="kernel must be positive, not 0"):
        ProgressiveShrinking(kernel=0)
    with pytest.raises(ConfigError, match=r"depth must be one or two positive numbers, not \[\]"):
        ProgressiveShrinking(depth=())


@pytest.fixture(scope="module")
def tiny() -> SearchSpace:
    return create_supernet("ofa_mobilenetv3_tiny", num_classes=10).space


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("decay", ["cosine", "exponential", "constant"])
def test_what_is_open_grows_and_rates_stay_positive(name: str, decay: str, tiny: SearchSpace) -> None:
    schedule = SCHEDULES[name](decay=decay)  # type: ignore[call-arg]
    num_steps = len(schedule.phases(tiny))  # the fewest possible
    for plan in (schedule.plan(tiny, num_steps), schedule.plan(tiny, 400)):
        rates = [schedule.learning_rate(step, plan, warmup_steps=5) for step in range(plan[-1].end)]
        assert all(0 < rate <= 1 for rate in rates)
        counts = [stretch.space.num_archs for stretch in plan]
        assert counts == sorted(counts)
        assert plan[-1].space == tiny
        for stretch in plan:
            assert stretch.space.largest() == tiny.largest()
    assert [stretch.end - stretch.first for stretch in schedule.plan(tiny, num_steps)] == [1] * num_steps


def test_progressive_shrinking_of_a_preset(tiny: SearchSpace) -> None:
    """Four stages of one to three blocks; kernels 3, 5; ratios 2, 3, 4; four resolutions."""
    phases = ProgressiveShrinking().phases(tiny)
    assert [phase.name for phase in phases] == ["largest", "kernel", "depth_2", "depth", "expand_2", "expand"]
    counts = [stretch.space.num_archs for stretch in ProgressiveShrinking().plan(tiny, 605)]
    assert counts == [
        4,
        4 * (2**3) ** 4,
        4 * (2**2 + 2**3) ** 4,
        4 * (2 + 2**2 + 2**3) ** 4,
        4 * (4 + 4**2 + 4**3) ** 4,
        4 * (6 + 6**2 + 6**3) ** 4,
    ]
    assert counts[-1] == tiny.num_archs


def test_peaks_are_reached_in_every_phase() -> None:
    schedule = ProgressiveShrinking()
    plan = schedule.plan(space(), 6050)
    for stretch in plan:
        rates = [schedule.learning_rate(step, plan, warmup_steps=99) for step in range(stretch.first, stretch.end)]
        assert max(rates) == pytest.approx(stretch.phase.learning_rate)
        warmup = {"largest": 50, "kernel": 50, "depth": 50, "expand": 50}.get(stretch.phase.name, 0)  # 5 epochs
        assert int(np.argmax(rates)) == warmup
        assert rates[-1] < 0.01 * max(rates)


def test_progressive_shrinking_may_open_a_kind_at_once() -> None:
    phases = ProgressiveShrinking(depth=(150,), expand=(10,)).phases(space())
    assert [(phase.name, phase.share) for phase in phases] == [
        ("largest", 180),
        ("kernel", 125),
        ("depth", 150),
        ("expand", 10),
    ]
    assert [phase.sort_channels for phase in phases] == [False, False, False, True]


def test_widths_heads_and_ratios_open_with_the_expand_ratio() -> None:
    dims = [Dim("stem.width", (8, 12, 16)), Dim("stage0.width", (8, 16))]
    dims += [Dim("stage0.block0.heads", (1, 2, 3)), Dim("stage0.block0.mlp_ratio", (2, 3, 4))]
    wide = SearchSpace(tuple(dims))
    plan = ProgressiveShrinking().plan(wide, 60)
    assert [stretch.phase.name for stretch in plan] == ["largest", "expand_2", "expand"]
    assert [stretch.space.num_values.tolist() for stretch in plan] == [[1, 1, 1, 1], [2, 2, 2, 2], [3, 2, 3, 3]]


def test_a_space_where_nothing_but_the_resolution_varies_has_one_phase() -> None:
    only = SearchSpace((Dim("resolution", (16, 20)),))
    assert [phase.name for phase in ProgressiveShrinking().phases(only)] == ["largest"]


def test_the_ramp_and_warmup_of_the_run_go_on_through_phases_without_a_curve() -> None:
    schedule = LargestFirst(alone=0.5)
    plan = schedule.plan(space(), 100)
    whole = OneStage().plan(space(), 100)
    for step in range(100):
        assert schedule.learning_rate(step, plan, warmup_steps=10) == OneStage().learning_rate(
            step, whole, warmup_steps=10
        )


def test_the_exponential_decay_is_that_of_bignas() -> None:
    """0.97 every 2.4 of 360 epochs, to 5 % (arXiv:2003.11142, sec. 3.3 and 4.1)."""
    schedule = OneStage(decay="exponential")
    plan = schedule.plan(space(), 3600)
    for epoch in (24, 120, 240):
        actual = schedule.learning_rate(10 * epoch, plan, warmup_steps=0)
        assert actual == pytest.approx(max(0.05, 0.97 ** (epoch / 2.4)), rel=0.03)
    assert schedule.learning_rate(3599, plan, warmup_steps=0) == 0.05


@pytest.mark.parametrize("name", ["ofa_resnet50d", "vit_small", "mobilenetv2_050"])
def test_progressive_shrinking_begins_with_the_largest_alone(name: str) -> None:
    """Whatever kinds of dims there are: stage widths, two of them at one place, heads, kernels."""
    with torch.device("meta"):
        real = create_supernet(name, num_classes=10).space
    plan = ProgressiveShrinking().plan(real, 1000)
    assert plan[0].space.num_archs == len(real["resolution"].values)
    assert plan[-1].space == real
    for before, after in itertools.pairwise(plan):
        assert before.space.num_archs < after.space.num_archs
        for dim in before.space.dims:
            assert set(dim.values) <= set(after.space[dim.name].values)


def test_every_width_of_a_place_opens_with_the_others() -> None:
    widths = SearchSpace((Dim("stem.width", (8, 12, 16)), Dim("stem.width1", (8, 12, 16))))
    plan = ProgressiveShrinking().plan(widths, 60)
    assert [stretch.space.num_values.tolist() for stretch in plan] == [[1, 1], [2, 2], [3, 3]]


def test_what_is_coupled_cannot_open_by_and_by() -> None:
    coupled = SearchSpace((Dim("stage0.depth", (1, 2)), Dim("stage0.block0.expand", (1, 2), follows="stage0.depth")))
    with pytest.raises(SpaceError, match=r"'stage0\.depth' and 'stage0\.block0\.expand' are coupled"):
        ProgressiveShrinking().plan(coupled, 100)
    for schedule in (OneStage(), LargestFirst()):
        assert schedule.plan(coupled, 100)[-1].space == coupled


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    st.integers(6, 200),
    st.lists(st.floats(0.01, 100), min_size=2, max_size=2),
    st.integers(0, 300),
)
def test_any_shares_cover_any_run(
    name: str, sizes: tuple[int, int, int], num_steps: int, shares: list[float], warmup_steps: int
) -> None:
    settings: dict[str, dict[str, Any]] = {
        "one_stage": {},
        "largest_first": {"alone": shares[0] / sum(shares), "ramp": 0},
        "progressive_shrinking": {"largest": shares[0], "kernel": shares[1], "depth": shares, "expand": shares[:1]},
    }
    schedule = SCHEDULES[name](**settings[name])
    plan = schedule.plan(space(depths=sizes[0], kernels=sizes[1], expands=sizes[2]), num_steps)
    assert [step for stretch in plan for step in range(stretch.first, stretch.end)] == list(range(num_steps))
    assert all(stretch.end > stretch.first for stretch in plan)
    for step in range(num_steps):
        assert 0 < schedule.learning_rate(step, plan, warmup_steps=warmup_steps) <= 1
