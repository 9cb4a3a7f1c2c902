"""A machine whose kernels cost what we say, and networks that are sums of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ofa.estimate.fit import Observed, fit, fit_prior
from ofa.estimate.kernels import Kernel, Kernels, Value

CALL_MS = 0.01


def product(rows: int, inner: int, columns: int) -> Kernel:
    weights = Value((inner, columns), is_weight=True)
    return Kernel("Gemm", (Value((rows, inner)), weights), (Value((rows, columns)),))


def sigmoid(size: int) -> Kernel:
    return Kernel("Sigmoid", (Value((size,)),), (Value((size,)),))


def true_ms(kernel: Kernel) -> float:
    """Products of narrow matrices are slow, smoothly so."""
    if kernel.op == "Sigmoid":
        return 0.002 + 1e-6 * kernel.input_bytes
    columns = kernel.outputs[0].shape[1]
    return 0.001 + 2e-8 * kernel.macs * (1 + 32 / (32 + columns))


def network(rng: np.random.Generator, num: int) -> Kernels:
    kernels = Counter[Kernel]()
    for _ in range(num):
        sizes = np.exp(rng.uniform(np.log(16), np.log(512), 3)).astype(int).tolist()
        kernels[product(*sizes)] += int(rng.integers(1, 3))
        kernels[sigmoid(int(np.exp(rng.uniform(np.log(1e3), np.log(1e5)))))] += 1
    return kernels


def latency_ms(kernels: Kernels, *, times: float = 1.0) -> float:
    return CALL_MS + times * sum(count * true_ms(kernel) for kernel, count in kernels.items())


def observed(num: int, size: int, seed: int, **settings: float) -> list[Observed]:
    rng = np.random.default_rng(seed)
    drawn = [network(rng, size) for _ in range(num)]
    return [Observed(each, latency_ms(each, **settings), 0.01, size > 5) for each in drawn]


def test_networks_are_predicted_from_samples() -> None:
    posterior = fit(observed(150, 2, 0))
    errors = [posterior.predict_ms(each.kernels) / each.latency_ms - 1 for each in observed(20, 20, 1)]
    assert np.abs(errors).max() < 0.05
    kernel = product(128, 128, 16)
    assert posterior.kernel_ms([kernel])[0] == pytest.approx(true_ms(kernel), rel=0.15)


def test_what_whole_networks_take_more_is_learnt_from_them() -> None:
    """And of them only: samples stay what they are."""
    samples, whole = observed(150, 2, 0), observed(10, 20, 1, times=1.2)
    posterior = fit([*samples, *whole])
    errors = [posterior.predict_ms(each.kernels) / each.latency_ms - 1 for each in observed(20, 20, 2, times=1.2)]
    assert np.median(np.abs(errors)) < 0.05  # samples alone err by 17 %
    left_out, _ = posterior.left_out
    assert np.abs(left_out[:150]).mean() < 0.05


def test_errors_of_what_is_left_out_are_those_of_a_fit_without_it() -> None:
    networks = observed(40, 2, 0)
    posterior = fit(networks)
    error, _ = posterior.left_out
    from dataclasses import replace

    from ofa.estimate.fit import _group_observed

    rest = networks[1:]

    groups = _group_observed(rest, posterior.prior)
    without = replace(posterior, networks=rest, groups=groups)
    assert 1 - without.predict_ms(networks[0].kernels) / networks[0].latency_ms == pytest.approx(error[0], abs=1e-3)


def test_the_unknown_is_told_and_widens_the_interval() -> None:
    posterior = fit(observed(100, 2, 0))
    known, other = product(64, 64, 64), Kernel("Erf", (Value((9, 9)),), (Value((9, 9)),))
    assert posterior.is_known(known) and posterior.is_known(sigmoid(5000))
    assert not posterior.is_known(other) and not posterior.is_known(product(8192, 8192, 8192))
    usual = network(np.random.default_rng(9), 20)
    assert posterior.deviation({**usual, other: 5000}) > 2 * posterior.deviation(usual)
    assert posterior.kernel_ms([other])[0] > 0


def test_a_kind_that_is_seen_once_is_not_made_to_explain_the_rest() -> None:
    networks = observed(100, 2, 0)
    flatten = Kernel("Flatten", (Value((10, 10)),), (Value((100,)),))
    odd = Counter(networks[0].kernels) + Counter({flatten: 1})
    prior = fit_prior([*networks, Observed(odd, 2 * networks[0].latency_ms)])
    assert prior.kernel_ms([flatten])[0] < 0.2 * networks[0].latency_ms
