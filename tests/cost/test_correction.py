from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from ofa.cost.correction import Correction, fit_correction

STAGES = ["stem", "stage1", "stage2"]
SCALE = {"stem": 0.8, "stage1": 1.1, "stage2": 0.95}
OFFSET_MS = {"stem": 0.0, "stage1": -0.02, "stage2": 0.03}


def planted(rng, num, noise=0.0):
    """Stage sums of random subnets, and latencies that follow SCALE and OFFSET_MS exactly but for noise."""
    parts = np.stack([np.ones(num), rng.integers(1, 5, num), rng.integers(1, 5, num)], axis=1).astype(float)
    ms = parts * rng.uniform(0.2, 0.6, parts.shape)
    measured = 0.005 + ms @ np.array(list(SCALE.values())) + parts @ np.array(list(OFFSET_MS.values()))
    return ms, parts, measured * (1 + noise * rng.standard_normal(num))


def predict(correction, ms, parts):
    scale = np.array([correction.scale.get(stage, 1.0) for stage in STAGES])
    offset = np.array([correction.offset_ms.get(stage, 0.0) for stage in STAGES])
    return correction.call_overhead_ms + ms @ scale + parts @ offset


def test_a_planted_correction_is_recovered():
    rng = np.random.default_rng(0)
    correction = fit_correction(STAGES, *planted(rng, 200), call_overhead_ms=0.005)
    assert correction.scale == pytest.approx(SCALE, abs=0.01)
    assert correction.offset_ms == pytest.approx(OFFSET_MS, abs=0.005)
    assert correction.num_fit == 200


def test_it_generalises_from_few_noisy_subnets():
    rng = np.random.default_rng(1)
    correction = fit_correction(STAGES, *planted(rng, 20, noise=0.01), call_overhead_ms=0.005)
    ms, parts, measured = planted(rng, 200)
    corrected = np.abs(predict(correction, ms, parts) / measured - 1).mean()
    uncorrected = np.abs(predict(Correction(0.005), ms, parts) / measured - 1).mean()
    assert corrected < 0.01 < uncorrected


def test_noise_alone_leaves_the_prior():
    rng = np.random.default_rng(2)
    ms, parts, _ = planted(rng, 20)
    measured = (0.005 + ms.sum(axis=1)) * (1 + 0.05 * rng.standard_normal(20))
    correction = fit_correction(STAGES, ms, parts, measured, call_overhead_ms=0.005)
    assert list(correction.scale.values()) == pytest.approx([1, 1, 1], abs=0.1)


def test_a_stage_that_never_varies_keeps_a_positive_scale():
    rng = np.random.default_rng(3)
    ms, parts, measured = planted(rng, 30, noise=0.002)
    ms[:, 0] = 0.01  # tiny and constant: nearly any scale would fit
    correction = fit_correction(STAGES, ms, parts, measured - 0.03, call_overhead_ms=0.005)
    assert all(scale > 0 for scale in correction.scale.values())


def test_nothing_to_fit_on_leaves_the_sum_of_parts():
    correction = fit_correction(STAGES, np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), call_overhead_ms=0.005)
    assert correction == Correction(0.005)
    np.testing.assert_allclose(correction.part_in_network_ms("stem", np.array([0.105])), [0.1])


def test_a_part_never_saves_time():
    correction = Correction(0.01, {"stem": 1.0}, {"stem": -0.02})
    np.testing.assert_array_equal(correction.part_in_network_ms("stem", np.array([0.011, np.nan])), [0.0, np.nan])


def test_json_round_trip():
    correction = Correction(0.005, SCALE, OFFSET_MS, ridge=0.01, num_fit=30)
    assert Correction(**json.loads(json.dumps(asdict(correction)))) == correction


def test_weights_that_do_not_stay_in_the_caches():
    """A millisecond for each 2 M parameters, which parts alone do not show: it is found, and only if it is there."""
    rng = np.random.default_rng(4)
    ms, parts, measured = planted(rng, 36, noise=0.005)
    num_params = rng.uniform(1e5, 2e6, 36)
    without = fit_correction(STAGES, ms, parts, measured, call_overhead_ms=0.005, num_params=num_params)
    assert without == fit_correction(STAGES, ms, parts, measured, call_overhead_ms=0.005)
    assert without.ms_per_param == 0
    measured = measured + num_params / 2e6
    found = fit_correction(STAGES, ms, parts, measured, call_overhead_ms=0.005, num_params=num_params)
    assert found.ms_per_param == pytest.approx(1 / 2e6, rel=0.05)
    alone = found.part_in_network_ms("stage1", np.array([0.3]))
    np.testing.assert_allclose(
        found.part_in_network_ms("stage1", np.array([0.3]), 1e6), alone + 1e6 * found.ms_per_param
    )
    faster = fit_correction(
        STAGES, ms, parts, measured - num_params / 1e6, call_overhead_ms=0.005, num_params=num_params
    )
    assert faster.ms_per_param == 0
