from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ofa.files import read_json
from ofa.search.evaluation_cache import EvaluationCache
from ofa.search.pick import InfeasibleBudgetError
from ofa.search.run import run_search
from ofa.space import Dim, SearchSpace

from .world import SumCost, World, make_space

BUDGETS_MS = [1.2, 1.8, 2.4]
SMALL = {"num_samples": 60, "num_front": 12, "population_size": 60, "num_generations": 15}


def search(world, out_dir, **options):
    settings = {"budgets_ms": BUDGETS_MS, "device_name": "cpu-1t", "seed": 3} | SMALL | options
    return run_search(
        world.space,
        evaluate_top1=world.evaluate_top1,
        predict_ms=world.predict_ms,
        measure_ms=world.measure_ms,
        costs={"macs": SumCost(world.space), "params": SumCost(world.space)},
        out_dir=out_dir,
        **settings,
    )


def test_picks_keep_their_budgets_and_are_nearly_the_best_there_are(world, tmp_path):
    result = search(world, tmp_path)
    every = world.space.sample_population(200_000, np.random.default_rng(0))
    top1, latency_ms = world.exact_top1(every), world.slowdown * world.predict_ms(every)
    spread_top1 = np.ptp(top1)
    for pick in result.selected["picks"]:
        assert pick["measured_latency_ms"] == pick["latency_ms"]["p50"] <= pick["budget_ms"] / 1.03
        arch = world.space.to_population(world.space.arch(pick["arch"]))
        best = top1[latency_ms <= pick["budget_ms"] / 1.03].max()
        assert world.exact_top1(arch)[0] > best - 0.05 * spread_top1
    accuracies = [pick["measured_top1_percent"] for pick in result.selected["picks"]]
    assert accuracies == sorted(accuracies)


def test_files(world, tmp_path):
    result = search(world, tmp_path)
    front, selected = pd.read_csv(tmp_path / "front.csv"), read_json(tmp_path / "selected.json", kind="", remedy="")
    assert selected == result.selected
    pd.testing.assert_frame_equal(front, result.front)
    assert list(front.columns) == [
        "arch",
        "predicted_top1_percent",
        "predicted_latency_ms",
        "measured_top1_percent",
        "measured_latency_ms",
        "macs",
        "params",
        "origin",
    ]
    assert front["macs"].dtype == np.int64
    assert front["measured_top1_percent"].notna().all()
    assert not front.duplicated(["arch", "origin"]).any()
    origins = front.groupby("origin").size()
    assert origins["pick"] == 3 and origins["front"] >= SMALL["num_front"] and origins["random"] > SMALL["num_samples"]
    archs = [world.space.arch(json.loads(text)) for text in front["arch"]]
    assert front["predicted_latency_ms"].to_numpy() == pytest.approx(world.predict_ms(world.space.to_population(archs)))
    assert selected["num_evaluations"] == front["arch"].nunique()
    assert selected["predictor"]["name"] == "ridge" and selected["predictor"]["num_samples"] == SMALL["num_samples"]
    assert selected["predictor"]["kendall_tau"] > 0.8
    assert [pick["budget_ms"] for pick in selected["picks"]] == BUDGETS_MS


def test_random_search_had_as_many_evaluations_and_is_beaten(world, tmp_path):
    selected = search(world, tmp_path).selected
    numbers = selected["hypervolume_num_evaluations"]
    assert numbers["front"] == numbers["random"] > SMALL["num_samples"]
    assert selected["hypervolume"]["front"] > 1.02 * selected["hypervolume"]["random"] > 0
    assert set(selected["hypervolume_reference"]) == {"top1_percent", "latency_ms"}


def test_the_seed_decides(space, tmp_path):
    results = [search(World(space), tmp_path / name, seed=seed) for name, seed in [("a", 0), ("b", 0), ("c", 1)]]
    files = [[(tmp_path / name / file).read_text() for file in ("front.csv", "selected.json")] for name in "abc"]
    assert files[0] == files[1]
    assert not results[0].front.equals(results[2].front)


def test_interrupted_and_resumed_is_as_if_never_interrupted(space, tmp_path):
    whole = search(World(space), tmp_path / "whole")
    interrupted = World(space)
    evaluate = interrupted.evaluate_top1

    def evaluate_until_killed(archs):
        if len(interrupted.evaluated) == 65:
            raise KeyboardInterrupt
        return evaluate(archs)

    interrupted.evaluate_top1 = evaluate_until_killed
    with pytest.raises(KeyboardInterrupt):
        search(interrupted, tmp_path, cache=EvaluationCache(tmp_path / "cache.csv"))
    resumed = World(space)
    result = search(resumed, tmp_path, cache=EvaluationCache(tmp_path / "cache.csv"))
    assert not set(resumed.evaluated) & set(interrupted.evaluated)
    pd.testing.assert_frame_equal(result.front, whole.front)
    assert result.selected == whole.selected


def test_another_budget_is_answered_from_the_cache(space, tmp_path):
    cache = EvaluationCache(tmp_path / "cache.csv")
    first, second = World(space), World(space)
    search(first, tmp_path, cache=cache)
    assert len(first.evaluated) == len(set(first.evaluated))
    search(second, tmp_path, cache=cache, budgets_ms=[1.5])
    assert len(second.evaluated) <= 20  # only candidates of the new budget, at most 4 in each of 5 rounds
    third = World(space)
    search(third, tmp_path, cache=cache, budgets_ms=[1.5])
    assert third.evaluated == []


def test_devices_share_the_sampled_subnets(space, tmp_path):
    cache = EvaluationCache(tmp_path / "cache.csv")
    first, second = World(space), World(space)
    second.costs_ms = second.costs_ms[::-1].copy()
    search(first, tmp_path, cache=cache, budgets_ms=[])
    search(second, tmp_path, cache=cache, budgets_ms=[])
    assert len(second.evaluated) <= 2 * SMALL["num_front"]


def test_an_infeasible_budget_is_refused_before_anything_is_evaluated(world, tmp_path):
    with pytest.raises(
        InfeasibleBudgetError,
        match=r"no subnet keeps a budget of 0.1 ms on device 'cpu-1t': the fastest is predicted at .* ask for at least",
    ) as error:
        search(world, tmp_path / "out", budgets_ms=[2.0, 0.1])
    assert world.evaluated == world.measured == []
    assert not (tmp_path / "out").exists()
    world.slowdown = 1.0
    search(world, tmp_path, budgets_ms=[error.value.nearest_ms])


def test_a_device_slower_than_predicted_makes_a_budget_infeasible(world, tmp_path):
    world.slowdown = 10.0
    with pytest.raises(InfeasibleBudgetError, match="the fastest is measured at") as error:
        search(world, tmp_path, budgets_ms=[1.2])
    result = search(world, tmp_path, budgets_ms=[error.value.nearest_ms])
    assert result.selected["picks"][0]["measured_latency_ms"] <= error.value.nearest_ms


@pytest.mark.parametrize("dims", [(Dim("resolution", (24,)),), (Dim("resolution", (24, 28)), Dim("k", (3, 5, 7)))])
def test_tiny_spaces(dims, tmp_path):
    world = World(SearchSpace(dims))
    result = search(world, tmp_path, budgets_ms=[100.0])
    assert len(world.evaluated) == world.space.num_archs
    assert dict(world.space.largest()) == result.selected["picks"][0]["arch"]


def test_noise_does_not_break_it(tmp_path):
    result = search(World(make_space(), noise=20.0), tmp_path)
    assert len(result.selected["picks"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 1}, "num_samples is 1; the search learns from at least 2"),
        ({"budgets_ms": [1.0, -2.0]}, r"positive numbers of milliseconds, not \[1.0, -2.0\]"),
        ({"budgets_ms": [float("nan")]}, "positive numbers"),
        ({"predictor": "rigde"}, "unknown predictor 'rigde'; did you mean 'ridge'"),
    ],
)
def test_bad_arguments(world, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        search(world, tmp_path, **options)
    assert world.evaluated == []


def test_progress_is_reported(world, tmp_path):
    reports = []
    search(world, tmp_path, progress=lambda *report: reports.append(report))
    assert all(0 <= done <= total and what == "evaluating subnets" for done, total, what in reports)
    assert (SMALL["num_samples"], SMALL["num_samples"], "evaluating subnets") in reports
