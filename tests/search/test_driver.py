"""Contract of every search method in the registry, and of the function that drives them."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from ofa.files import FileFormatError
from ofa.search import Constraint, InfeasibleError, hypervolume, non_dominated, search
from ofa.search.evaluation_cache import EvaluationCache
from ofa.search.methods import METHODS
from ofa.search.predictors import PREDICTORS
from ofa.search.problem import Problem
from ofa.space import Dim, SearchSpace

from .world import SumCost

OBJECTIVES = ["top1_error_percent", "latency_ms"]
AUTO = sys.modules["ofa.search.methods.auto"]  # the package has a function of that name


class Counted:
    """Values of a world, and what was asked for them."""

    def __init__(self, world, stop_after=None):
        self.world, self.stop_after, self.asked = world, stop_after, []

    def __call__(self, population):
        archs = self.world.space.to_archs(population)
        if self.stop_after is not None and len(self.asked) + len(archs) > self.stop_after:
            raise KeyboardInterrupt
        self.asked += archs
        return np.column_stack([100 - self.world.exact_top1(population), self.world.predict_ms(population)])


def run(world, method, *, evaluate=None, num=24, seed=0, **options):
    free = {"latency_ms": world.predict_ms}
    evaluate = evaluate or Counted(world)
    return search(world.space, evaluate, num_evaluations=num, method=method, seed=seed, free=free, **options)


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_evaluates_as_many_different_ones_as_it_may(self, method, world):
        evaluate = Counted(world)
        found = run(world, method, evaluate=evaluate, num=21)
        assert list(found.columns) == ["arch", *OBJECTIVES, "is_front"]
        assert list(found["arch"]) == evaluate.asked
        assert len(set(evaluate.asked)) == len(evaluate.asked) == 21
        values = found[OBJECTIVES].to_numpy()
        assert np.array_equal(found["is_front"], non_dominated(values))
        assert values == pytest.approx(Counted(world)(world.space.to_population(list(found["arch"]))))

    def test_noise_is_learnt_with_and_left_in_the_values(self, method, world):
        evaluate = Counted(world)
        noise = {"top1_error_percent": lambda population: np.full(len(population), 0.2)}
        found = run(world, method, evaluate=evaluate, num=30, noise=noise)
        assert list(found["arch"]) == evaluate.asked and len(found) == 30
        population = world.space.to_population(list(found["arch"]))
        assert found[OBJECTIVES].to_numpy() == pytest.approx(Counted(world)(population))

    def test_the_seed_decides(self, method, world):
        results = [run(world, method, seed=seed) for seed in (0, 0, 1)]
        pd.testing.assert_frame_equal(results[0], results[1])
        assert list(results[0]["arch"]) != list(results[2]["arch"])

    def test_interrupted_it_goes_on_as_if_nothing_had_been(self, method, world, tmp_path):
        whole = run(world, method)
        first, second = Counted(world, stop_after=18), Counted(world)
        if method == "random":  # one batch only
            first.stop_after = 10
        with pytest.raises(KeyboardInterrupt):
            run(world, method, evaluate=first, cache=tmp_path / "cache.csv")
        resumed = run(world, method, evaluate=second, cache=tmp_path / "cache.csv")
        pd.testing.assert_frame_equal(resumed, whole)
        assert not set(first.asked) & set(second.asked)
        assert len(first.asked) + len(second.asked) == 24

    def test_constraints_hold_for_all(self, method, world):
        limit = Constraint.of(world.space, "macs", SumCost(world.space), "40%")
        found = run(world, method, constraints=[limit])
        assert (limit.cost.predict(world.space.to_population(list(found["arch"]))) <= limit.limit).all()
        assert len(found) == 24

    def test_the_impossible_is_refused_before_anything_is_evaluated(self, method, world):
        evaluate = Counted(world)
        with pytest.raises(InfeasibleError):
            run(world, method, evaluate=evaluate, constraints=[Constraint("macs", SumCost(world.space), 1.0)])
        assert evaluate.asked == []

    def test_a_small_space_is_evaluated_as_a_whole(self, method):
        space = SearchSpace((Dim("a", (1, 2, 3)), Dim("b", (1, 2), ("a", (3,)))))  # 4 architectures
        evaluate = lambda genes: np.column_stack([-genes.sum(axis=1), genes.sum(axis=1)]).astype(float)  # noqa: E731
        found = search(space, evaluate, num_evaluations=50, method=method)
        assert len(found) == len(set(found["arch"])) == 4

    def test_it_finds_the_front_of_a_space_that_it_nearly_exhausts(self, method):
        space = SearchSpace(tuple(Dim(f"d{number}", (1, 2, 3)) for number in range(4)))  # 81 architectures
        weights = np.random.default_rng(0).random((4, 2))
        evaluate = lambda genes: (genes @ weights) * [-1, 1]  # noqa: E731
        every = evaluate(space.every())
        found = search(space, evaluate, num_evaluations=70, method=method)
        reference = np.array([0.0, 10.0])
        assert hypervolume(found[OBJECTIVES].to_numpy(), reference) > 0.97 * hypervolume(every, reference)

    def test_three_objectives(self, method, world):
        three = lambda genes: np.column_stack([Counted(world)(genes), genes.sum(axis=1)])  # noqa: E731
        found = run(world, method, evaluate=three, num=25, objectives=[*OBJECTIVES, "genes"])
        assert len(found) == 25 and found["genes"].ge(0).all()

    def test_a_known_front_is_where_it_begins(self, method, world):
        earlier = run(world, "random", num=30, seed=7)
        evaluate = Counted(world)
        found = run(world, method, evaluate=evaluate, num=10, initial=earlier)
        assert list(found["arch"][:30]) == list(earlier["arch"]) and len(found) == 40
        assert len(evaluate.asked) == 10 and not set(evaluate.asked) & set(earlier["arch"])
        begun = Counted(world)
        run(world, method, evaluate=begun, num=10, initial=list(earlier["arch"][:4]))
        assert begun.asked[:4] == list(earlier["arch"][:4]) and len(begun.asked) == 10

    def test_it_prints_nothing(self, method, world, capfd):
        run(world, method, num=20)
        assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", ["nsga2", "local"])
def test_who_knows_enough_begins_with_nothing_at_random(method, world, monkeypatch):
    earlier = run(world, "random", num=30, seed=7)
    sample, asked = Problem.spread_sample, []
    monkeypatch.setattr(Problem, "spread_sample", lambda self, num, *of: asked.append(num) or sample(self, num, *of))
    run(world, method, num=10, initial=earlier)
    assert sum(asked) == 0
    run(world, method, num=10, initial=earlier[:1])
    assert sum(asked) == {"nsga2": 19, "local": 1}[method]


def mean_hypervolume(world, method, num):
    values = [run(world, method, num=num, seed=seed)[OBJECTIVES].to_numpy() for seed in range(2)]
    return np.mean([hypervolume(points, np.array([25.0, 6.0])) for points in values])


@pytest.mark.slow
def test_learning_beats_evolution_beats_chance_at_equal_evaluations(world):
    volumes = {method: mean_hypervolume(world, method, 60) for method in METHODS}
    assert volumes["linas"] > 1.005 * volumes["nsga2"]
    assert volumes["thompson"] > 1.005 * volumes["nsga2"]
    assert volumes["nsga2"] > volumes["random"]
    assert volumes["thompson"] > mean_hypervolume(world, "nsga2", 300) * 0.995


def categorical_world(num_edges=5, noise=0.0):
    """Six operations on each edge: error and latency are sums over them, and pairs matter for the error."""
    space = SearchSpace(tuple(Dim(f"edge{number}", ("a", "b", "c", "d", "e", "f")) for number in range(num_edges)))
    rng = np.random.default_rng(11)
    error, pairs, latency = rng.random((num_edges, 6)), rng.random((6, 6)), rng.random((num_edges, 6))
    random = rng.normal(0, 1, (6**num_edges, 2))

    def evaluate(population):
        edges = np.arange(num_edges)
        together = sum(pairs[population[:, edge], population[:, edge + 1]] for edge in edges[:-1])
        exact = np.column_stack([error[edges, population].sum(1) + together, latency[edges, population].sum(1)])
        row = population @ 6 ** edges[::-1]
        return (1 - noise) * exact + noise * random[row]

    return space, evaluate


def share_of(found, space, evaluate):
    every = evaluate(space.every())
    reference = np.quantile(every, 0.9, axis=0)
    return hypervolume(found[OBJECTIVES].to_numpy(), reference) / hypervolume(every, reference)


def test_auto_is_far_ahead_of_chance_among_categories():
    space, evaluate = categorical_world()
    shares = {
        method: np.array(
            [share_of(search(space, evaluate, num_evaluations=60, method=method, seed=seed), space, evaluate)
             for seed in range(3)]
        )
        for method in ("auto", "random")
    }  # fmt: skip
    assert (shares["auto"] > shares["random"] + 0.05).all()
    assert shares["auto"].mean() > 0.9


def taken_by_auto(monkeypatch, space, evaluate, **options):
    taken = []
    weigh = AUTO.most_telling
    monkeypatch.setattr(AUTO, "most_telling", lambda *words: taken.append(weigh(*words)) or taken[-1])
    found = search(space, evaluate, num_evaluations=60, seed=1, **options)
    return found, taken


def test_auto_goes_by_a_model_where_one_predicts(monkeypatch):
    _, taken = taken_by_auto(monkeypatch, *categorical_world())
    assert taken.count("model") >= len(taken) - 1 and len(taken) > 4


def test_auto_falls_back_where_nothing_predicts(monkeypatch):
    space, evaluate = categorical_world(noise=1.0)
    found, taken = taken_by_auto(monkeypatch, space, evaluate)
    assert len(found) == len(set(found["arch"])) == 60
    assert {"random", "nearest"} & set(taken)
    constant = lambda population: np.ones((len(population), 2))  # noqa: E731
    found, taken = taken_by_auto(monkeypatch, space, constant)
    assert set(taken) == {"random"} and len(found) == 60


def test_auto_goes_by_the_nearest_where_only_they_tell(monkeypatch):
    """Of a predictor that is wrong: the first of all is as good as any."""

    class Wrong:
        def __init__(self, features):
            pass

        def fit(self, population, values):
            return self

        def predict(self, population):
            return -evaluate(population)[:, 0]

    space, evaluate = categorical_world()
    monkeypatch.setitem(PREDICTORS, "wrong", Wrong)
    _, taken = taken_by_auto(monkeypatch, space, evaluate, predictor="wrong")
    assert "nearest" in taken and "model" not in taken


def test_auto_evolves_where_evaluations_are_cheap(world, monkeypatch):
    found = [run(world, method, num=5000)["arch"].tolist() for method in ("auto", "nsga2")]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num_evaluations is 0; a search evaluates at least 1"),
        ({"method": "nsga3"}, "unknown search method 'nsga3'; did you mean 'nsga2'"),
        ({"predictor": "rigde"}, "unknown predictor 'rigde'"),
        ({"objectives": ["top1_error_percent", "latency_sm"]}, "unknown objective 'latency_ms'; did you mean"),
        ({"initial": pd.DataFrame({"arch": []})}, "the earlier search has no column top1_error_percent, latency_ms"),
    ],
)
def test_bad_arguments(world, options, message):
    evaluate = Counted(world)
    with pytest.raises(ValueError, match=message):
        run(world, **{"method": "auto", "evaluate": evaluate, **options})
    assert evaluate.asked == []


def test_what_evaluate_gives_is_checked(world):
    for wrong in (np.zeros((3, 2)), np.full((10, 2), np.nan), np.zeros(10)):
        with pytest.raises(ValueError, match=r"evaluate gives \(10, 2\) finite values for 10 architectures"):
            run(world, "random", evaluate=lambda genes, wrong=wrong: wrong, num=10)


def test_a_cache_of_other_objectives_is_refused(world, tmp_path):
    EvaluationCache(tmp_path / "cache.csv", values=["x"]).add([world.space.largest()], [1.0])
    evaluate = Counted(world)
    with pytest.raises(
        ValueError, match=r"line 1 of evaluation cache .* \(it should be arch,top1_error_percent,latency_ms"
    ):
        run(world, "auto", evaluate=evaluate, cache=tmp_path / "cache.csv")
    assert evaluate.asked == []


def test_a_damaged_cache_is_refused(world, tmp_path):
    path = tmp_path / "cache.csv"
    run(world, "random", num=5, cache=path)
    path.write_text(path.read_text().replace("{", "[", 1))
    with pytest.raises(FileFormatError, match="line 2 of evaluation cache"):
        run(world, "random", num=5, cache=path)


def test_progress_is_reported(world):
    reports = []
    run(world, "nsga2", num=40, progress=lambda *report: reports.append(report))
    assert reports[-1] == (40, 40, "evaluating subnets")
    assert [done for done, _, _ in reports] == sorted({done for done, _, _ in reports})
