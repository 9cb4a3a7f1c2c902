from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.cost import CostModel, Factor, cost_model
from ofa.setting import Setting
from ofa.space import Dim, SearchSpace, SpaceError

SPACE = SearchSpace(
    (
        Dim("resolution", (20, 24, 28)),
        Dim("stage1.depth", (1, 2)),
        Dim("stage1.block0.kernel", (3, 5, 7)),
        Dim("stage1.block1.kernel", (3, 5), requires=("stage1.depth", (2,))),
    )
)
FACTORS = [
    Factor((), np.array(0.5)),
    Factor(("resolution",), np.array([1.0, 2.0, 4.0])),
    Factor(("resolution", "stage1.block0.kernel"), np.arange(9.0).reshape(3, 3)),
    Factor(("resolution", "stage1.depth", "stage1.block1.kernel"), np.arange(12.0).reshape(3, 2, 2)),
    Factor(("resolution",), np.array([3.0, 1.0, 2.0])),
]


def brute_force(reduce, factors, genes):
    gene = dict(zip(SPACE.names, genes, strict=True))
    return reduce(factor.array[tuple(gene[dim] for dim in factor.dims)] for factor in factors)


@given(seed=st.integers(0, 2**32 - 1), num_archs=st.integers(0, 20))
@pytest.mark.parametrize(("name", "reduce"), [("sum", sum), ("max", max)])
def test_predict_equals_brute_force(name, reduce, seed, num_archs):
    population = SPACE.sample_population(num_archs, np.random.default_rng(seed))
    model = CostModel(SPACE, FACTORS, name="test", reduce=name)
    expected = [brute_force(reduce, FACTORS, genes) for genes in population]
    np.testing.assert_allclose(model.predict(population), expected)
    np.testing.assert_allclose(model.predict(SPACE.to_archs(population)), expected)


def test_predict_takes_one_arch_and_leaves_the_factors_alone():
    model = CostModel(SPACE, FACTORS, name="test")
    before = [factor.array.copy() for factor in FACTORS]
    first, second = model.predict(SPACE.largest()), model.predict(SPACE.largest())
    assert first.shape == (1,)
    assert first == second
    for factor, array in zip(FACTORS, before, strict=True):
        np.testing.assert_array_equal(factor.array, array)


def test_wrong_shape_unknown_dim_and_no_factors_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\), not \(2,\)"):
        CostModel(SPACE, [Factor(("resolution",), np.zeros(2))], name="test")
    with pytest.raises(SpaceError, match="did you mean 'resolution'"):
        CostModel(SPACE, [Factor(("resolutoin",), np.zeros(3))], name="test")
    with pytest.raises(ValueError, match="no factors"):
        CostModel(SPACE, [], name="test")


class FakeSupernet:
    space = SPACE

    def factors(self, cost):
        scale = {
            "macs": 1.0,
            "params": 10.0,
            "peak_activation_bytes": 100.0,
            "weights": 3.0,
            "biases": 0.5,
            "layers": 0.01,
        }[cost]
        return [(factor.dims, scale * factor.array) for factor in FACTORS]


@pytest.mark.parametrize(
    ("name", "scale", "reduce"), [("macs", 1, sum), ("params", 10, sum), ("peak_activation_bytes", 100, max)]
)
def test_costs_of_a_supernet(name, scale, reduce):
    model = getattr(cost_model, name)(FakeSupernet())
    population = SPACE.sample_population(10, np.random.default_rng(0))
    expected = [scale * brute_force(reduce, FACTORS, genes) for genes in population]
    np.testing.assert_allclose(model.predict(population), expected)
    assert model.name == name


@pytest.mark.parametrize(
    ("precision", "scale"), [("fp32", 4 * (3 + 0.5)), ("fp16", 2 * (3 + 0.5)), ("int8", 3 + (4 + 4) * 0.5)]
)
def test_bytes_of_weights_biases_and_scales(precision, scale):
    population = SPACE.sample_population(10, np.random.default_rng(0))
    expected = [scale * brute_force(sum, FACTORS, genes) for genes in population]
    np.testing.assert_allclose(
        cost_model.model_bytes(FakeSupernet(), precision=precision).predict(population), expected
    )


@pytest.mark.parametrize("cost", [cost_model.model_bytes, cost_model.file_bytes])
def test_unknown_precision(cost):
    with pytest.raises(ValueError, match="unknown precision 'int4'"):
        cost(FakeSupernet(), precision="int4")


def test_bytes_are_those_of_the_setting():
    """A quarter of the activations, and a file that is smaller by three quarters of its weights, but has more graph."""
    population = SPACE.sample_population(10, np.random.default_rng(0))
    fp32, fp16, int8 = (
        cost_model.bytes_on(FakeSupernet(), Setting(runtime="onnxruntime", precision=precision))
        for precision in ("fp32", "fp16", "int8")
    )
    peaks = [each["peak_activation_bytes"].predict(population) for each in (fp32, fp16, int8)]
    np.testing.assert_array_equal(peaks[0], 2 * peaks[1])
    np.testing.assert_array_equal(peaks[0], 4 * peaks[2])
    one = np.array([brute_force(sum, FACTORS, genes) for genes in population])
    scale = (3 + 0.5) * 4 + 0.01 * 560, 3 + 0.5 * (4 + 4 + 9) + 0.01 * 1800
    for each, expected in zip((fp32, int8), scale, strict=True):
        np.testing.assert_allclose(each["model_bytes"].predict(population), expected * one)


@pytest.mark.parametrize("runtime", ["openvino", "litert", "executorch", "tensorrt", "torch"])
def test_every_runtime_has_a_file_size(runtime):
    population = SPACE.sample_population(10, np.random.default_rng(0))
    for precision in ("fp32", "fp16", "bf16", "int8"):
        found = cost_model.file_bytes(FakeSupernet(), runtime=runtime, precision=precision)
        weights = cost_model.model_bytes(FakeSupernet(), precision=precision)
        assert found.name == "model_bytes"
        assert (found.predict(population) >= weights.predict(population)).all()


def test_bytes_per_activation():
    population = SPACE.sample_population(10, np.random.default_rng(0))
    fp32, int8 = (cost_model.peak_activation_bytes(FakeSupernet(), bytes_per_activation=n) for n in (4, 1))
    np.testing.assert_array_equal(fp32.predict(population), 4 * int8.predict(population))
