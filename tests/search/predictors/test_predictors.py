"""Contract of every predictor in the registry, and the ridge against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.linear_model import RidgeCV

from ofa.search.predictors import PREDICTORS, Chosen, Features, choose, held_out_kendall_tau
from ofa.search.predictors.gaussian_process import GaussianProcess, _misfit
from ofa.search.predictors.nearest import Nearest
from ofa.search.predictors.ridge import PENALTIES, RidgePredictor
from ofa.search.predictors.warp import Warp
from ofa.space import Dim, SearchSpace


@pytest.fixture
def samples(space, world):
    population = space.sample_population(120, np.random.default_rng(0))
    return population, world.exact_top1(population) + np.random.default_rng(1).normal(0, 0.3, 120)


@pytest.mark.parametrize("name", PREDICTORS)
class TestEveryPredictor:
    def test_ranks_unseen_architectures(self, name, space, world, samples):
        others = space.sample_population(300, np.random.default_rng(2))
        predicted = PREDICTORS[name](Features(space)).fit(*samples).predict(others)
        assert predicted.shape == (300,)
        assert kendalltau(predicted, world.exact_top1(others)).statistic > (0.65 if "boosting" in name else 0.8)

    def test_same_samples_same_predictions(self, name, space, samples):
        first, second = (PREDICTORS[name](Features(space)).fit(*samples).predict(samples[0]) for _ in range(2))
        assert np.array_equal(first, second)

    @pytest.mark.parametrize("num", [1, 2, 3])
    def test_learns_from_hardly_anything(self, name, space, samples, num):
        population, top1 = samples
        assert np.isfinite(
            PREDICTORS[name](Features(space)).fit(population[:num], top1[:num]).predict(population)
        ).all()

    def test_equal_accuracies_are_predicted(self, name, space, samples):
        population, _ = samples
        predicted = PREDICTORS[name](Features(space)).fit(population, np.full(120, 93.5)).predict(population)
        assert predicted == pytest.approx(93.5, abs=1e-3)

    def test_refuses_what_it_cannot_learn_from(self, name, space, samples):
        population, top1 = samples
        with pytest.raises(ValueError, match="one finite value each, not from 120 architectures"):
            PREDICTORS[name](Features(space)).fit(population, top1[:-1])
        with pytest.raises(ValueError, match="one finite value"):
            PREDICTORS[name](Features(space)).fit(population, np.where(top1 > top1.mean(), np.nan, top1))
        with pytest.raises(ValueError, match="at least one"):
            PREDICTORS[name](Features(space)).fit(population[:0], top1[:0])
        with pytest.raises(ValueError, match="call fit first"):
            PREDICTORS[name](Features(space)).predict(population)


@pytest.mark.parametrize("num", [25, 120])
def test_ridge_is_scikit_learns_with_leave_one_out(space, samples, num):
    population, top1 = samples[0][:num], samples[1][:num]
    ours = RidgePredictor(Features(space)).fit(population, top1)
    theirs = RidgeCV(alphas=PENALTIES).fit(space.encode(population).astype(float), top1)
    assert ours.penalty == pytest.approx(theirs.alpha_)
    others = space.sample_population(50, np.random.default_rng(3))
    assert ours.predict(others) == pytest.approx(theirs.predict(space.encode(others)), abs=1e-6)


def test_ridge_with_statistics_and_inactive_dims(space, world, samples):
    """The fast sum of factors is the plain product of features and weights."""
    features = Features(space, (world.predict_ms,))
    predictor = RidgePredictor(features).fit(*samples)
    others = space.sample_population(200, np.random.default_rng(3))
    assert predictor.predict(others) == pytest.approx(features(others) @ predictor.weights + predictor.offset)
    # One of the statistics explains everything: then it must be used.
    exact = RidgePredictor(features).fit(samples[0], 3 * np.log(world.predict_ms(samples[0])))
    assert exact.predict(others) == pytest.approx(3 * np.log(world.predict_ms(others)), abs=0.05)


def test_the_best_predictor_is_chosen_and_all_taus_are_told(space, samples):
    chosen = choose("auto", Features(space), *samples, rng=np.random.default_rng(0))
    assert set(chosen.kendall_tau) == {"ridge", "gaussian_process", "gradient_boosting"}
    assert chosen.kendall_tau[chosen.name] == max(chosen.kendall_tau.values()) > 0.8
    assert choose("ridge", Features(space), *samples, rng=np.random.default_rng(0)).name == "ridge"
    with pytest.raises(ValueError, match="unknown predictor 'rigde'; did you mean 'ridge'"):
        choose("rigde", Features(space), *samples, rng=np.random.default_rng(0))


def test_draws_scatter_around_the_prediction_and_less_where_more_is_known(space, world, samples):
    predictor = PREDICTORS["gaussian_process"](Features(space)).fit(*samples)
    others = space.sample_population(50, np.random.default_rng(5))
    draws = predictor.draw(others, 200, np.random.default_rng(0))
    assert draws.shape == (200, 50)
    assert np.corrcoef(draws.mean(axis=0), predictor.predict(others))[0, 1] > 0.9
    assert draws.std(axis=0).min() > 0
    known = predictor.draw(samples[0][:50], 200, np.random.default_rng(0))
    assert known.std(axis=0).mean() < draws.std(axis=0).mean()


@pytest.fixture
def categories():
    """Four operations on each of five edges; they count by themselves and in pairs, whatever their order."""
    space = SearchSpace(tuple(Dim(f"edge{number}", ("a", "b", "c", "d")) for number in range(5)))
    rng = np.random.default_rng(3)
    alone, pairs = rng.normal(0, 1, (5, 4)), rng.normal(0, 1, (4, 4))

    def values(population):
        return alone[np.arange(5), population].sum(axis=1) + pairs[population[:, 0], population[:, 1]]

    return space, values


class TestCategories:
    def test_any_two_are_equally_far_apart(self, categories):
        space, _ = categories
        places = Features(space).places(space.every()[:4])  # the four of the last edge
        squares = np.sum((places[:, None] - places) ** 2, axis=2)
        assert squares == pytest.approx(1 - np.eye(4))

    def test_numbers_are_far_apart_as_they_are_and_what_is_inactive_is_nowhere(self):
        space = SearchSpace((Dim("depth", (1, 2)), Dim("kernel", (3, 5, 7, 9), ("depth", (2,))), Dim("op", ("a", "b"))))
        features = Features(space, (lambda population: np.ones(len(population)),))
        assert features.dim_of_place.tolist() == [0, 1, 2, 2, 3]
        half = np.sqrt(0.5)
        expected = [[0.5, 0, half, 0], [1, 0.25, half, 0], [1, 1, 0, half]]
        assert features.places(np.array([[0, 0, 0], [1, 0, 0], [1, 3, 1]])) == pytest.approx(np.array(expected))

    def test_the_process_does_not_ask_for_their_order(self, categories):
        space, values = categories
        shuffled = SearchSpace(tuple(Dim(dim.name, (*dim.values[2:], *dim.values[:2])) for dim in space.dims))
        population = space.sample_population(80, np.random.default_rng(0))
        others = space.sample_population(200, np.random.default_rng(1))
        turned, turned_others = ((each + 2) % 4 for each in (population, others))
        ours = GaussianProcess(Features(space)).fit(population, values(population)).predict(others)
        theirs = GaussianProcess(Features(shuffled)).fit(turned, values(population)).predict(turned_others)
        assert theirs == pytest.approx(ours, abs=1e-3)

    def test_the_process_ranks_them_better_than_as_numbers(self, categories):
        space, values = categories
        numbers = SearchSpace(tuple(Dim(dim.name, dim.values, ordered=True) for dim in space.dims))
        population = space.sample_population(80, np.random.default_rng(0))
        others = space.sample_population(300, np.random.default_rng(1))
        taus = [
            kendalltau(
                GaussianProcess(Features(each)).fit(population, values(population)).predict(others), values(others)
            ).statistic
            for each in (space, numbers)
        ]
        assert taus[0] > max(0.7, taus[1])


@pytest.mark.parametrize("name", ["ridge", "gaussian_process"])
def test_lucky_values_are_believed_less_than_they_are(name, space, world):
    population = np.unique(space.sample_population(120, np.random.default_rng(0)), axis=0)
    truth = world.exact_top1(population)
    seen = truth + np.random.default_rng(1).standard_normal(len(truth))
    features = Features(space, noise=lambda some: np.ones(len(some)))
    chosen = choose(name, features, population, seen, rng=np.random.default_rng(0))
    believed = chosen.believed(population, seen, np.ones(len(seen)))
    assert np.mean((believed - truth) ** 2) < 0.5 * np.mean((seen - truth) ** 2)
    lucky = np.argsort(seen - truth)[-10:]
    assert (believed[lucky] < seen[lucky]).all()
    assert chosen.error < choose(name, Features(space), population, seen, rng=np.random.default_rng(0)).error


class TestGaussianProcess:
    def test_the_slope_is_that_of_the_likelihood(self, rng=np.random.default_rng(0)):  # noqa: B008
        points, targets = rng.normal(size=(12, 2)), rng.normal(size=12)
        squares = np.stack([(each[:, None] - each) ** 2 for each in points.T])
        logs = np.array([0.3, -0.5, 0.1, -0.2, -2.0])
        variances = rng.uniform(0.1, 0.5, 12)
        _, slope = _misfit(logs, squares, points @ points.T, targets, variances)
        steps = 1e-5 * np.eye(5)
        differences = [
            (_misfit(logs + step, squares, points @ points.T, targets, variances)[0] -
             _misfit(logs - step, squares, points @ points.T, targets, variances)[0]) / 2e-5
            for step in steps
        ]  # fmt: skip
        assert slope == pytest.approx(differences, rel=1e-4, abs=1e-6)

    def test_its_likelihood_is_scikit_learns(self, rng=np.random.default_rng(1)):  # noqa: B008
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, DotProduct, WhiteKernel

        points, targets = rng.normal(size=(15, 2)), rng.normal(size=15)
        squares = np.stack([(each[:, None] - each) ** 2 for each in points.T])
        weights, noise, variances = np.array([0.7, 0.2]), 0.1, rng.uniform(0.1, 0.5, 15)
        kernel = RBF(np.sqrt(0.5 / weights)) + DotProduct(0.0, sigma_0_bounds="fixed") + WhiteKernel(noise)
        theirs = GaussianProcessRegressor(kernel, alpha=variances, optimizer=None).fit(points, targets)
        logs = np.log([*weights, 1.0, 1.0, noise])
        ours, _ = _misfit(logs, squares, points @ points.T, targets, variances)
        assert -ours - 0.5 * 15 * np.log(2 * np.pi) == pytest.approx(theirs.log_marginal_likelihood_value_)

    def test_what_is_left_out_is_predicted_by_the_others(self, space, samples):
        """In closed form as by processes that learn without it, of the same weights and scale."""
        population, top1 = samples
        process = GaussianProcess(Features(space)).fit(population, top1)
        folds = np.array_split(np.arange(120), 5)
        left_out = process.left_out(folds)
        process._num_found = 10**6  # keeps weights and scale
        for fold in folds:
            others = np.setdiff1d(np.arange(120), fold)
            refitted = process.fit(population[others], top1[others]).predict(population[fold])
            assert left_out[fold] == pytest.approx(refitted, abs=1e-6)

    def test_it_says_how_sure_it_is(self, categories):
        """Of what it has not seen, nine in ten lie between the 5th and the 95th of a hundred draws."""
        space, values = categories
        population = space.sample_population(100, np.random.default_rng(0))
        process = GaussianProcess(Features(space)).fit(population, values(population))
        others = space.sample_population(400, np.random.default_rng(1))
        others = np.unique(others[~np.isin(space.row_keys(others), space.row_keys(population))], axis=0)
        low, high = np.percentile(process.draw(others, 100, np.random.default_rng(2)), [5, 95], axis=0)
        assert 0.75 < np.mean((low <= values(others)) & (values(others) <= high)) <= 1.0

    def test_of_noisy_values_it_tells_the_truth_better_than_they_do(self, space, world):
        population = np.unique(space.sample_population(150, np.random.default_rng(0)), axis=0)
        truth = world.exact_top1(population)
        deviations = np.where(np.arange(len(truth)) % 2, 0.5, 1.0)
        seen = truth + deviations * np.random.default_rng(1).standard_normal(len(truth))
        process = GaussianProcess(Features(space, noise=lambda _: deviations**2)).fit(population, seen)
        errors = process.believed() - truth
        assert np.sqrt(np.mean(errors**2)) < 0.6 * np.sqrt(np.mean((seen - truth) ** 2))
        draws = process.draw_known(np.arange(100), 2000, np.random.default_rng(2))
        assert draws.shape == (2000, 100) and draws.mean(axis=0) == pytest.approx(process.believed()[:100], abs=0.1)
        low, high = np.percentile(draws, [5, 95], axis=0)
        assert 0.8 < np.mean((low <= truth[:100]) & (truth[:100] <= high)) <= 1.0

    def test_without_noise_values_are_what_they_are(self, space, samples):
        process = GaussianProcess(Features(space)).fit(*samples)
        assert process.believed() == pytest.approx(samples[1])
        draws = process.draw_known(np.arange(4, 8), 3, np.random.default_rng(0))
        assert draws == pytest.approx(np.tile(samples[1][4:8], (3, 1)))

    def test_truths_are_those_of_a_joint_normal_distribution(self, space, samples):
        """The moments of some numbers given others, by the formula for any normal distribution."""
        population, top1 = samples[0][:30], samples[1][:30]
        process = GaussianProcess(Features(space, noise=lambda some: np.linspace(0.0, 0.4, len(some))))
        process.fit(population, top1)
        noise = np.diag(process._noise)
        seen = process._cholesky @ process._cholesky.T
        truth = seen - noise
        mean = truth @ np.linalg.solve(seen, process._learnt)
        covariance = truth - truth @ np.linalg.solve(seen, truth)
        assert process.believed() == pytest.approx(process._warp.inverse(mean))
        draws = process._warp(process.draw_known(np.arange(30), 40_000, np.random.default_rng(0)))
        assert draws.mean(axis=0) == pytest.approx(mean, abs=0.02)
        assert np.cov(draws.T) == pytest.approx(covariance, abs=0.02 * np.abs(covariance).max() + 1e-3)


class TestWarp:
    def test_its_slope_is_by_how_much_it_stretches(self):
        values = np.random.default_rng(0).lognormal(0, 1, 40)
        warp = Warp(values)
        assert warp.slope(values) == pytest.approx((warp(values + 1e-6) - warp(values - 1e-6)) / 2e-6, rel=1e-4)

    def test_it_is_scikit_learns_power_transform(self):
        from sklearn.preprocessing import PowerTransformer

        values = np.random.default_rng(0).lognormal(0, 1, 400)
        warped = Warp(values)(values)
        theirs = PowerTransformer().fit_transform(((values - np.median(values)) / values.std())[:, None])[:, 0]
        assert warped == pytest.approx(theirs, abs=0.15)  # the power is one of a grid
        assert (warped.mean(), warped.std()) == pytest.approx((0, 1))

    @pytest.mark.parametrize(
        "values", [[5.0], [5.0] * 9, [1.0, 2.0, 90.0], [-3.0, -1.0, 4.0, 5.0, 6.0, 6.5, 7.0, 90.0]]
    )
    def test_there_and_back(self, values):
        values = np.array(values)
        warp = Warp(values)
        assert warp.inverse(warp(values)) == pytest.approx(values)
        assert np.isfinite(warp.inverse(np.array([-1e6, 1e6]))).all()

    def test_it_is_cut_far_beyond(self):
        warp = Warp(np.linspace(10.0, 20.0, 30))
        assert warp.inverse(np.array([-50.0, 50.0])) == pytest.approx([0.0, 30.0])


def test_the_nearest_is_what_local_search_goes_by(categories):
    space, _ = categories
    known = np.array([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 2]])
    nearest = Nearest(Features(space)).fit(known, np.array([1.0, 2.0, 4.0]))
    assert nearest.predict(np.array([[0, 0, 0, 0, 1], [1, 1, 1, 1, 3], [1, 1, 1, 1, 2]])).tolist() == [1.0, 3.0, 4.0]
    with pytest.raises(ValueError, match="call fit first"):
        Nearest(Features(space)).predict(known)


def test_a_predictor_that_does_not_say_how_sure_it_is_errs_as_it_did(space, samples):
    chosen = choose("ridge", Features(space), *samples, rng=np.random.default_rng(0))
    assert isinstance(chosen, Chosen) and 0.2 < chosen.error < 0.6  # 0.3 of noise in what it learns from
    drawn = chosen.draw(samples[0], 300, np.random.default_rng(0))
    assert drawn.std(axis=0) == pytest.approx(np.full(120, chosen.error), rel=0.3)
    assert drawn.mean(axis=0) == pytest.approx(chosen.predictor.predict(samples[0]), abs=0.2)


class TestHeldOutKendallTau:
    def test_is_near_the_tau_on_others(self, space, world, samples):
        tau = held_out_kendall_tau(RidgePredictor, Features(space), *samples, rng=np.random.default_rng(0))
        others = space.sample_population(2000, np.random.default_rng(2))
        noisy = world.exact_top1(others) + np.random.default_rng(3).normal(0, 0.3, 2000)
        other_tau = kendalltau(RidgePredictor(Features(space)).fit(*samples).predict(others), noisy).statistic
        assert tau == pytest.approx(other_tau, abs=0.08)

    def test_of_noise_is_near_zero(self, space, samples):
        noise = np.random.default_rng(4).normal(90, 1, 120)
        tau = held_out_kendall_tau(RidgePredictor, Features(space), samples[0], noise, rng=np.random.default_rng(0))
        assert abs(tau) < 0.2

    def test_is_undefined_without_differences_or_samples(self, space, samples):
        population, top1 = samples
        rng = np.random.default_rng(0)
        assert held_out_kendall_tau(RidgePredictor, Features(space), population, np.full(120, 90.0), rng=rng) is None
        assert held_out_kendall_tau(RidgePredictor, Features(space), population[:3], top1[:3], rng=rng) is None
