"""Contract of every predictor in the registry, and the ridge against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.linear_model import RidgeCV

from ofa.search.predictors import PREDICTORS, Features, choose, held_out_kendall_tau
from ofa.search.predictors.ridge import PENALTIES, RidgePredictor


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
