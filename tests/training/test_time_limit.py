"""Runs that end in time, by a clock that a test moves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ofa.training import Recipe, Run, load_recipe, time_limit, train, trainer
from ofa.training.checkpoint import checkpoints_in, load_checkpoint
from ofa.training.time_limit import TimeLimit

from .test_trainer import SMALL, Killed, assert_same_result

SECONDS_PER_STEP = 10.0


class Clock:
    """A step takes so many seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, kill_at: int = 0) -> None:
        self.now, self.kill_at, self.said = 0.0, kill_at, list[str]()
        monkeypatch.setattr(time_limit, "clock", lambda: self.now)
        really = trainer._Trainer._backward

        def backward(*args: object, **kwargs: object) -> object:
            self.now += SECONDS_PER_STEP * (len(args[1]) / 4)  # type: ignore[arg-type]  # of four draws
            return really(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(trainer._Trainer, "_backward", backward)

    def __call__(self, done: int, total: int, what: str) -> None:
        if total == 0:
            self.said += [what] * what.endswith(" s a step")
        elif what.startswith("epoch") and done == self.kill_at:
            raise Killed


def steps_of(run: Run) -> int:
    return int(pd.read_csv(run.path / "metrics.csv")["step"].iloc[-1])


def recipe(*words: str) -> Recipe:
    return load_recipe("bignas", (*SMALL, "train.epochs=90", "train.average_epochs=0", "model.resolution=[16]", *words))


@pytest.mark.slow
def test_a_run_ends_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock(monkeypatch)
    run = train(recipe("train.max_hours=0.2"), tmp_path / "run", progress=clock)
    assert steps_of(run) == 0.95 * 720 // SECONDS_PER_STEP == 68  # 360 steps were asked for
    assert clock.now <= 720
    assert clock.said == ["17 of 90 epochs fit into 0.2 h, at 10 s a step"]
    last = pd.read_csv(run.path / "metrics.csv")["learning_rate"].iloc[-1]
    assert last < 0.01 * run.recipe.train.learning_rate  # the curve ran its course


@pytest.mark.slow
def test_a_killed_run_keeps_to_what_was_decided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = recipe("train.max_hours=0.2")
    whole = train(asked, tmp_path / "whole", progress=Clock(monkeypatch))
    with pytest.raises(Killed):
        train(asked, tmp_path / "run", progress=Clock(monkeypatch, kill_at=50))
    latest = checkpoints_in(tmp_path / "run" / "checkpoints")[-1]
    assert load_checkpoint(latest)[1]["num_steps"] == 68
    monkeypatch.setattr(f"{__name__}.SECONDS_PER_STEP", 99.0)  # now the machine is slower
    clock = Clock(monkeypatch)
    assert_same_result(train(asked, tmp_path / "run", resume=True, progress=clock), whole)
    assert clock.said == []


@pytest.mark.slow
def test_what_fits_is_not_shortened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock(monkeypatch)
    run = train(recipe("train.max_hours=2", "train.epochs=10"), tmp_path / "run", progress=clock)
    assert steps_of(run) == 40
    assert clock.said == ["all 10 epochs fit into 2 h, at 10 s a step"]


@pytest.mark.slow
def test_later_phases_are_counted_with_what_they_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The largest alone is a quarter of a step; the sandwich of four, four times as much."""
    clock = Clock(monkeypatch)
    words = ("train.max_hours=0.5", "strategy.schedule={name: largest_first, alone: 0.5}", "train.epochs=200")
    run = train(recipe(*words), tmp_path / "run", progress=clock)
    # n steps take n / 2 * 2.5 s + n / 2 * 10 s: 1,710 s are 273 steps, with the first 31 in them.
    assert steps_of(run) == pytest.approx(273, abs=2)
    assert clock.now <= 1800


@pytest.mark.parametrize("speed", [0.001, 1e6])
def test_whatever_the_speed_a_decision_is_made(speed: float) -> None:
    from ofa.space import Dim, SearchSpace
    from ofa.training.schedules.largest_first import LargestFirst

    space, schedule = SearchSpace((Dim("resolution", (16, 32)),)), LargestFirst()
    limit = TimeLimit(100.0)
    for done in range(1, 1000):
        seen = limit.seconds_per_step(done, done * speed, at_once=done == 500)
        if seen is not None:
            break
    assert seen == pytest.approx(speed)
    limit.fit(
        lambda num: schedule.plan(space, num),
        1000,
        done=done,
        elapsed=done * speed,
        seconds_per_step=seen,
        weights=[1, 4],
    )
    assert limit.num_steps == (1000 if speed < 1 else 3)  # of three steps the first phase has two, which are done
