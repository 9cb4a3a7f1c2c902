"""Every registered runtime is held to this."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ofa.hardware import load_device
from ofa.hardware.onnx_export import export_for_timing
from ofa.hardware.runtimes import RUNTIMES, ModelError


@pytest.fixture(params=sorted(RUNTIMES))
def runtime(request):
    return RUNTIMES[request.param]()


@pytest.fixture
def device(runtime):
    names = {cls: name for name, cls in RUNTIMES.items()}
    return dataclasses.replace(load_device("cpu-2t"), runtime=names[type(runtime)])


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()


def free_dimension(model, axis, element_type=onnx.TensorProto.FLOAT):
    """The model with a free input dimension, or of another input type."""
    graph = onnx.load_from_string(model)
    tensor = graph.graph.input[0].type.tensor_type
    tensor.elem_type = element_type
    if axis is not None:
        tensor.shape.dim[axis].dim_param = "free"
    return graph.SerializeToString()


def test_it_computes_what_torch_does_from_bytes_and_from_a_file(runtime, device, module, tmp_path):
    model = export_for_timing(module, (3, 6, 6))
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    for source in (model, path, str(path)):
        session = runtime.prepare(source, device)
        inputs = session.random_inputs(np.random.default_rng(0))
        with torch.no_grad():
            expected = module(torch.from_numpy(inputs["input"])).numpy()
        np.testing.assert_allclose(session.run(inputs)[0], expected, atol=1e-5)


def test_random_inputs_are_reproducible_and_fill_the_batch(runtime, device, module):
    model = free_dimension(export_for_timing(module, (3, 6, 6)), 0)
    session = runtime.prepare(model, dataclasses.replace(device, batch=3))
    first, second = (session.random_inputs(np.random.default_rng(0))["input"] for _ in range(2))
    assert first.shape == (3, 3, 6, 6)
    np.testing.assert_array_equal(first, second)


def test_other_free_dimensions_are_refused(runtime, device, module):
    session = runtime.prepare(free_dimension(export_for_timing(module, (3, 6, 6)), 2), device)
    with pytest.raises(ModelError, match=r"'input' has free dimensions.*fixed size"):
        session.random_inputs(np.random.default_rng(0))


def test_what_is_not_a_model_is_refused(runtime, device, tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match=r"no model .*model\.onnx"):
        runtime.prepare(path, device)
    path.write_bytes(b"not a model")
    for source in (path, b"not a model"):
        with pytest.raises(ModelError, match="not a valid ONNX model"):
            runtime.prepare(source, device)


def test_versions(runtime):
    versions = runtime.versions()
    assert versions
    assert all(version[0].isdigit() for version in versions.values())
