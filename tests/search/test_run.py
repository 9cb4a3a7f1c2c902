from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from ofa.files import read_json
from ofa.metrics import TOP1
from ofa.search.answer import answer
from ofa.search.bucket_elimination import exact_front
from ofa.search.evaluation_cache import EvaluationCache, Scores
from ofa.search.pareto import non_dominated
from ofa.search.pick import InfeasibleBudgetError, InfeasibleMetricError
from ofa.search.predictors.ridge import additive
from ofa.search.problem import Constraint, Dearest, InfeasibleError
from ofa.search.run import Target, TargetSearch
from ofa.space import Dim, SearchSpace

from .world import SumCost, World, make_space

BUDGETS_MS = [1.2, 1.8, 2.4]
MANY_IMAGES = 1_000_000
SMALL = {"num_evaluations": 40, "method": "nsga2", "predictor": "ridge"}


def target(world, name="cpu-1t"):
    return Target(name, world.predict_ms, world.measure_ms, {"table_sha256": name})


def search(world, out_dir, **options):
    settings = {"budgets_ms": BUDGETS_MS, "targets": [target(world)], "seed": 3} | SMALL | options
    scores = Scores(TOP1, world.race, settings.pop("num_images", 1000), settings.pop("cache", None))
    results = TargetSearch(
        space=world.space,
        scores=scores,
        costs={"macs": SumCost(world.space), "params": SumCost(world.space)},
        out_dir=out_dir,
        **settings,
    ).run()
    return results["cpu-1t"] if list(results) == ["cpu-1t"] else results


def test_picks_keep_their_budgets_and_are_nearly_the_best_there_are(world, tmp_path):
    result = search(world, tmp_path, method="linas")
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
    front, selected = (
        pd.read_csv(tmp_path / "cpu-1t/front.csv"),
        read_json(tmp_path / "cpu-1t/selected.json", kind="", remedy=""),
    )
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
        "latency_ms_p10",
        "latency_ms_p90",
        "latency_ms_p99",
        "num_images",
        "promised_top1_percent",
        "promised_low",
        "promised_high",
        "pick_from_ms",
    ]
    assert front["macs"].dtype == np.int64
    assert front["measured_top1_percent"].notna().all()
    assert not front.duplicated(["arch", "origin"]).any()
    origins = front.groupby("origin").size()
    assert origins["pick"] == 3 and origins["front"] >= 40 and origins["random"] == 40
    archs = [world.space.arch(json.loads(text)) for text in front["arch"]]
    assert front["predicted_latency_ms"].to_numpy() == pytest.approx(world.predict_ms(world.space.to_population(archs)))
    assert selected["num_evaluations"] == front["arch"].nunique()
    assert selected["predictor"]["name"] == "ridge" and 60 < selected["predictor"]["num_samples"] <= 80
    assert selected["facts"] == {"table_sha256": "cpu-1t"}
    assert selected["predictor"]["kendall_tau"] > 0.8
    assert [pick["budget_ms"] for pick in selected["picks"]] == BUDGETS_MS
    for pick in selected["picks"]:
        low, high = pick["top1_interval_percent"]
        assert low < pick["measured_top1_percent"] < high and pick["num_images"] == 1000
        low, high = pick["promised_interval"]
        assert low < pick["promised_top1_percent"] < high
        assert pick["choices"][0]["gain_per_ms"] > 0 and "class_losses" not in pick
    assert front[["promised_top1_percent", "promised_low", "promised_high"]].notna().all(axis=None)
    promised = [pick["promised_top1_percent"] for pick in selected["picks"]]
    assert promised == sorted(promised) and selected["replace_below"] == 0.6


def test_exact_search_proposes_where_the_latency_is_a_sum(world, tmp_path):
    """It adds to what is evaluated at the end; the searches before it are the same."""
    exact = dataclasses.replace(target(world), cost_model=additive(world.space, world.costs_ms, 0.0))
    with_it = search(world, tmp_path / "with", targets=[exact])
    without = search(world, tmp_path / "without")
    assert "nsga2_gap" not in without.selected
    far = with_it.selected["nsga2_gap"]
    assert 90 < far["hypervolume_percent"] <= 100 and 0 <= far["mean"] <= far["largest"] < 1
    assert with_it.selected["hypervolume"] == without.selected["hypervolume"]
    best = exact_front(exact.cost_model, additive(world.space, -world.gains, 20.0)).values
    for pick in with_it.selected["picks"]:
        arch = world.space.to_population(world.space.arch(pick["arch"]))
        limit = pick["budget_ms"] / 1.03 / world.slowdown
        assert 100 - world.exact_top1(arch)[0] < best[best[:, 0] <= limit, 1].min() + 0.5


def test_random_search_had_as_many_evaluations_and_is_beaten(world, tmp_path):
    selected = search(world, tmp_path, method="linas").selected
    numbers = selected["hypervolume_num_evaluations"]
    assert numbers["front"] == numbers["random"] == 40
    assert selected["hypervolume"]["front"] > 1.02 * selected["hypervolume"]["random"] > 0
    assert set(selected["hypervolume_reference"]) == {"top1_percent", "latency_ms"}
    curve = selected["hypervolume_curve"]
    assert curve["num_evaluations"][-1] == 40 and curve["front"][-1] == selected["hypervolume"]["front"]
    assert all(curve[side] == sorted(curve[side]) for side in ("front", "random"))


def test_the_seed_decides(space, tmp_path):
    results = [search(World(space), tmp_path / name, seed=seed) for name, seed in [("a", 0), ("b", 0), ("c", 1)]]
    files = [
        [(tmp_path / name / "cpu-1t" / file).read_text() for file in ("front.csv", "selected.json")] for name in "abc"
    ]
    assert files[0] == files[1]
    assert not results[0].front.equals(results[2].front)


def test_interrupted_and_resumed_is_as_if_never_interrupted(space, tmp_path):
    whole = search(World(space), tmp_path / "whole")
    interrupted = World(space)
    evaluate = interrupted.evaluate_top1

    def evaluate_until_killed(archs):
        if len(interrupted.evaluated) >= 30:
            raise KeyboardInterrupt
        return evaluate(archs)

    interrupted.evaluate_top1 = evaluate_until_killed
    with pytest.raises(KeyboardInterrupt):
        search(interrupted, tmp_path, cache=EvaluationCache(tmp_path / "cache.csv", values=TOP1.columns))
    resumed = World(space)
    result = search(resumed, tmp_path, cache=EvaluationCache(tmp_path / "cache.csv", values=TOP1.columns))
    assert not set(resumed.evaluated) & set(interrupted.evaluated)
    pd.testing.assert_frame_equal(result.front, whole.front)
    assert result.selected == whole.selected


def test_another_budget_evaluates_only_its_candidates(space, tmp_path):
    cache = EvaluationCache(tmp_path / "cache.csv", values=TOP1.columns)
    first, second = World(space), World(space)
    search(first, tmp_path, cache=cache)
    assert len(first.evaluated) == len(set(first.evaluated))
    search(second, tmp_path, cache=cache, budgets_ms=[1.5])
    assert len(second.evaluated) <= 20  # only candidates of the new budget, at most 4 in each of 5 rounds
    third = World(space)
    search(third, tmp_path, cache=cache, budgets_ms=[1.5])
    assert third.evaluated == []


def test_classes_that_lose_against_the_largest(world, tmp_path):
    asked = []

    def by_class(archs):
        asked.extend(archs)
        return [{"coat": world.exact_top1(world.space.to_population(arch))[0], "shoe": 50.0} for arch in archs]

    selected = search(world, tmp_path, by_class=by_class).selected
    assert len(asked) == len(set(asked)) and world.space.largest() in asked
    best = world.exact_top1(world.space.to_population(world.space.largest()))[0]
    for pick in selected["picks"]:
        (loss,) = pick["class_losses"]
        assert loss["class"] == "coat" and loss["pick"] < loss["largest"] == best


def test_the_fastest_that_is_accurate_enough(world, tmp_path):
    result = search(world, tmp_path, budgets_ms=[2.4], min_metric=[83.0])
    pick = result.selected["picks"][1]
    assert pick["min_top1_percent"] == 83.0 <= pick["promised_top1_percent"]
    assert pick["budget_ms"] == pytest.approx(1.03 * pick["measured_latency_ms"], abs=0.001)
    front = result.front.dropna(subset="measured_latency_ms")
    enough = front[front["promised_top1_percent"] >= 83.0]
    assert pick["measured_latency_ms"] == enough["measured_latency_ms"].min()
    every = world.space.sample_population(200_000, np.random.default_rng(0))
    best_ms = (world.slowdown * world.predict_ms(every))[world.exact_top1(every) >= 83.0].min()
    assert pick["measured_latency_ms"] < 1.15 * best_ms
    answered = answer(tmp_path / "cpu-1t", [], min_metric=[83.0], facts=FACTS, **ANSWER)
    assert [again["arch"] for again in answered["picks"]] == [pick["arch"]]
    assert answer(tmp_path / "cpu-1t", [], min_metric=[99.9], facts=FACTS, **ANSWER) is None
    with pytest.raises(InfeasibleMetricError, match="the best of those that were measured promises"):
        search(world, tmp_path, budgets_ms=[], min_metric=[99.9])


FACTS = {"table_sha256": "cpu-1t"}
ANSWER = {"costs": ["macs", "params"]}


def test_another_budget_is_answered_from_what_was_measured(world, tmp_path):
    result = search(world, tmp_path)
    num_measured, num_evaluated = len(world.measured), len(world.evaluated)
    budget_ms = 2.1
    selected = answer(tmp_path / "cpu-1t", [budget_ms], facts=FACTS, **ANSWER)
    assert (len(world.measured), len(world.evaluated)) == (num_measured, num_evaluated)
    (pick,) = selected["picks"]
    measured = result.front.dropna(subset=["measured_latency_ms"])
    holding = measured[measured["measured_latency_ms"] <= budget_ms / 1.03]
    assert pick["promised_top1_percent"] > holding["promised_top1_percent"].max() - 0.3
    assert pick["measured_latency_ms"] <= budget_ms / 1.03
    assert read_json(tmp_path / "cpu-1t/selected.json", kind="", remedy="") == selected
    front = pd.read_csv(tmp_path / "cpu-1t/front.csv")
    assert front["origin"].eq("pick").sum() == 1
    assert set(front["arch"]) == set(result.front["arch"])
    again = answer(tmp_path / "cpu-1t", BUDGETS_MS, facts=FACTS, **ANSWER)
    assert [pick["arch"] for pick in again["picks"]] == [pick["arch"] for pick in result.selected["picks"]]


@pytest.mark.parametrize(("budgets_ms", "facts"), [([0.01], FACTS), ([2.1], {"table_sha256": "another"})])
def test_what_was_not_measured_or_is_of_another_search_is_no_answer(world, tmp_path, budgets_ms, facts):
    assert answer(tmp_path / "cpu-1t", budgets_ms, facts=facts, **ANSWER) is None
    search(world, tmp_path)
    before = (tmp_path / "cpu-1t/selected.json").read_bytes()
    assert answer(tmp_path / "cpu-1t", budgets_ms, facts=facts, **ANSWER) is None
    assert (tmp_path / "cpu-1t/selected.json").read_bytes() == before


def test_several_devices_and_the_fleet(space, tmp_path):
    worlds = [World(space), World(space)]
    worlds[1].costs_ms = worlds[1].costs_ms[::-1].copy()
    targets = [target(world, name) for world, name in zip(worlds, ("one", "two"), strict=True)]
    results = search(worlds[0], tmp_path, targets=targets, with_fleet=True, budgets_ms=[2.4])
    assert list(results) == ["one", "two", "fleet"]
    assert len(worlds[0].evaluated) == len(set(worlds[0].evaluated)) <= 40 + 40 + 10 + 10 + 3 * 20
    (pick,) = results["fleet"].selected["picks"]
    population = space.to_population(space.arch(pick["arch"]))
    slowest = max(world.slowdown * world.predict_ms(population)[0] for world in worlds)
    assert pick["measured_latency_ms"] == pytest.approx(slowest) and slowest <= 2.4
    for name in ("one", "two"):  # who serves all cannot be better than who serves one
        assert results[name].selected["picks"][0]["measured_top1_percent"] >= pick["measured_top1_percent"] - 0.3
        assert (tmp_path / name / "front.csv").exists()


def test_constraints_hold_for_all_that_is_evaluated(world, tmp_path):
    cost = SumCost(world.space)
    constraint = Constraint.of(world.space, "macs", cost, "60%")
    result = search(world, tmp_path, constraints=[constraint], budgets_ms=[3.0])
    limit = 0.6 * cost.predict(world.space.to_population(world.space.largest()))[0]
    assert result.front["macs"].max() <= limit
    with pytest.raises(InfeasibleError, match=r"no architecture has macs <= 1; the nearest has macs = 1000"):
        search(world, tmp_path, constraints=[Constraint.of(world.space, "macs", cost, 1)])


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
    assert len(world.evaluated) == len(set(world.evaluated)) == world.space.num_archs
    assert dict(world.space.largest()) == result.selected["picks"][0]["arch"]


def test_noise_does_not_break_it(tmp_path):
    result = search(World(make_space(), noise=20.0), tmp_path)
    assert len(result.selected["picks"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_evaluations": 1}, "num_evaluations is 1; a search needs at least 2"),
        ({"method": "lians"}, "unknown search method 'lians'; did you mean 'linas'"),
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
    assert reports[-1][0] == 2 * SMALL["num_evaluations"]


def test_what_is_surely_beaten_is_given_up_and_picks_are_evaluated_to_the_end(world, tmp_path):
    floors = []
    race = world.race

    def give_up(archs, floors_percent):
        floors.extend(floors_percent)
        found = race(archs, floors_percent)
        found[:, 1] = np.where(found[:, 0] < floors_percent - 0.3, MANY_IMAGES // 2, MANY_IMAGES)
        return found

    world.race = give_up
    result = search(world, tmp_path, num_images=MANY_IMAGES)
    front = result.front
    assert (front["num_images"] < MANY_IMAGES).any() and max(floors) > 80
    given_up = set(front.loc[front["num_images"] < MANY_IMAGES, "arch"])
    assert not given_up & set(front.loc[front["origin"] == "pick", "arch"])
    # Nothing of a side's own front was given up.
    for origin in ("front", "random"):
        own = front[front["origin"] == origin]
        best = own[non_dominated(np.column_stack([-own["measured_top1_percent"], own["predicted_latency_ms"]]))]
        assert not given_up & set(best["arch"])


class Times:
    """A cost that is so many times another."""

    def __init__(self, cost, factor):
        self.cost, self.factor = cost, factor

    def predict(self, archs):
        return self.factor * self.cost.predict(archs)


def test_each_device_has_its_own_bytes_and_a_limit_holds_on_all(world, tmp_path):
    size = SumCost(world.space)
    on = {"fp32": Times(size, 4), "int8": Times(size, 1)}
    limit = float(np.median(on["fp32"].predict(world.space.sample_population(1000, np.random.default_rng(0)))))
    results = search(
        world,
        tmp_path,
        targets=[
            Target(name, world.predict_ms, world.measure_ms, costs={"model_bytes": cost}) for name, cost in on.items()
        ],
        constraints=[Constraint("model_bytes", Dearest(list(on.values())), limit)],
        with_fleet=True,
    )
    for name, cost in {**on, "fleet": on["fp32"]}.items():
        front = pd.read_csv(tmp_path / name / "front.csv")
        archs = world.space.to_population([world.space.arch(json.loads(text)) for text in front["arch"]])
        np.testing.assert_array_equal(front["model_bytes"], cost.predict(archs))
        assert on["fp32"].predict(archs).max() <= limit
        for pick in results[name].selected["picks"]:
            assert pick["model_bytes"] == cost.predict(world.space.to_population(world.space.arch(pick["arch"])))[0]
