"""Subnets evaluated by workers have the scores that they have here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ofa import engine
from ofa.engine import Here
from ofa.space import Arch, SearchSpace
from ofa.training import Run, SubnetEvaluator
from ofa.training.elsewhere import RunSource, evaluator_of, race_by


def drawn(space: SearchSpace, num: int) -> list[Arch]:
    """Of one size of inputs."""
    population = space.sample_population(num, np.random.default_rng(0))
    largest = space.largest()
    return [space.arch({**arch, "resolution": largest["resolution"]}) for arch in space.to_archs(population)]


@pytest.mark.parametrize(
    "where", [(2, None), pytest.param((2, "local"), marks=pytest.mark.alone)], ids=["processes", "ray"]
)
def test_workers_find_what_is_found_here(where: tuple[int, str | None], trained: Run) -> None:
    pytest.importorskip("ray") if where[1] else None
    here = SubnetEvaluator(trained.supernet(), trained.data(), trained.task)
    space = trained.space
    archs = [space.largest(), space.smallest(), *drawn(space, 3)]
    floors = np.array([0.0, 100.0, 0.0, 50.0, 0.0])
    expected = here.race(archs, floors)
    source = RunSource(trained.path)
    with engine.opened(*where) as workers:
        assert np.array_equal(race_by(workers, source, here)(archs, floors), expected)


def test_a_single_worker_is_this_process(trained: Run) -> None:
    here = SubnetEvaluator(trained.supernet(), trained.data(), trained.task)
    assert race_by(Here(), RunSource(trained.path), here) == here.race


def test_subnets_that_share_a_pass_stay_together(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Recording(Here):
        num_workers = 2

        def map(self, call: Any, items: Any) -> Any:
            asked.extend(len(item.archs) for item in items)
            return super().map(call, items)

    here = SubnetEvaluator(trained.supernet(), trained.data(), trained.task)
    source = RunSource(trained.path)
    archs = drawn(trained.space, 7)
    floors = np.zeros(7)
    expected = here.race(archs, floors)
    assert np.array_equal(race_by(Recording(), source, here)(archs, floors), expected)
    assert asked == [1] * 7
    asked.clear()
    for each in (here, evaluator_of(source)):
        monkeypatch.setattr(each, "_fits", lambda split, sizes: False)
    assert np.array_equal(race_by(Recording(), source, here)(archs, floors), expected)
    assert asked == [4, 3]
    evaluator_of.cache_clear()
