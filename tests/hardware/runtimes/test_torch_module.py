"""Modules of torch on the CPU and on a GPU, whose outputs may be no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ofa.hardware.runtimes import RUNTIMES
from ofa.hardware.timed_models import empty_model, export_model
from ofa.setting import Setting
from ofa.supernet import create_supernet

RUNTIME_NAMES = [
    "torch",
    pytest.param("torch-cuda", marks=pytest.mark.gpu),
    pytest.param("torch-cuda-graph", marks=pytest.mark.gpu),
]


@pytest.fixture(params=RUNTIME_NAMES)
def runtime_name(request):
    if request.param != "torch":
        request.getfixturevalue("cuda")
    return request.param


@pytest.fixture(scope="module")
def subnet():
    """A whole network, and the shape of its input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10).eval()
    arch = supernet.space.sample(np.random.default_rng(0))
    return supernet.extract(arch), supernet.input_shape(arch)


def outputs(module, images):
    with torch.inference_mode():
        return module(torch.from_numpy(images)).numpy()


def close(found, expected, percent):
    return np.abs(found - expected).max() <= percent / 100 * np.abs(expected).max()


@pytest.mark.parametrize("batch", [1, 4])
def test_outputs_are_those_of_the_module(runtime_name, batch, subnet, full_fp32):
    module, shape = subnet
    setting = Setting(runtime=runtime_name, batch=batch)
    session = RUNTIMES[runtime_name]().prepare(export_model(module, shape, setting), setting)
    rng = np.random.default_rng(0)
    for _ in range(3):  # with a graph: captured, then replayed with other inputs
        inputs = session.random_inputs(rng)
        (images,) = inputs.values()
        assert images.shape == (batch, *shape)
        assert close(session.run(inputs)[0], outputs(module, images), 0.01)


def test_what_was_prepared_keeps_its_own_inputs(runtime_name, subnet, full_fp32):
    module, shape = subnet
    setting = Setting(runtime=runtime_name, batch=2)
    session = RUNTIMES[runtime_name]().prepare(export_model(module, shape, setting), setting)
    rng = np.random.default_rng(0)
    inputs = [session.random_inputs(rng) for _ in range(2)]
    expected = [outputs(module, images) for one in inputs for images in one.values()]
    runs = [session.prepared(one) for one in inputs]
    for turn in (0, 1, 0, 0, 1, 1, 0):
        assert close(runs[turn]().float().cpu().numpy(), expected[turn], 0.01)


def test_sessions_of_one_runtime_do_not_disturb_each_other(runtime_name, subnet, full_fp32):
    """Graphs compute in one memory."""
    module, shape = subnet
    setting, runtime = Setting(runtime=runtime_name), RUNTIMES[runtime_name]()
    rng = np.random.default_rng(0)
    others = [nn.Conv2d(3, channels, 3).eval() for channels in (8, 64, 16)]
    modules = [module, *others, module]
    sessions = [runtime.prepare(export_model(each, shape, setting), setting) for each in modules]
    for turn in (0, 1, 2, 3, 4, 0, 2, 4, 1, 3, 0):
        inputs = sessions[turn].random_inputs(rng)
        assert close(sessions[turn].run(inputs)[0], outputs(modules[turn], *inputs.values()), 0.01)
    first = sessions.pop(0)
    del first  # its memory is still the others'
    inputs = sessions[-1].random_inputs(rng)
    assert close(sessions[-1].run(inputs)[0], outputs(module, *inputs.values()), 0.01)


def test_a_model_that_does_nothing(runtime_name):
    setting = Setting(runtime=runtime_name, batch=2)
    session = RUNTIMES[runtime_name]().prepare(empty_model(setting), setting)
    for seed in range(2):
        inputs = session.random_inputs(np.random.default_rng(seed))
        np.testing.assert_array_equal(session.run(inputs)[0], *inputs.values())


@pytest.mark.gpu
@pytest.mark.parametrize("runtime_name", ["torch-cuda", "torch-cuda-graph"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions(precision, runtime_name, subnet, cuda):
    module, shape = subnet
    setting = Setting(runtime=runtime_name, precision=precision, batch=4)
    session = RUNTIMES[runtime_name]().prepare(export_model(module, shape, setting), setting)
    inputs = session.random_inputs(np.random.default_rng(0))
    (found,), expected = session.run(inputs), outputs(module, *inputs.values())
    assert found.dtype == np.float32 and np.isfinite(found).all()
    assert close(found, expected, 2 if precision == "fp16" else 10)
    assert next(module.parameters()).dtype == torch.float32  # a copy was converted


@pytest.mark.gpu
def test_versions_name_the_card(cuda):
    versions = RUNTIMES["torch-cuda"]().versions()
    assert versions["gpu"] == torch.cuda.get_device_name() and versions["cuda"]
