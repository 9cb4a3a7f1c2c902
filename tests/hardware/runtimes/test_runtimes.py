"""Every registered runtime that is installed is held to this."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ofa.formats.onnx import export_for_timing
from ofa.hardware.runtimes import RUNTIMES, ModelError, NotInstalledError
from ofa.hardware.runtimes.session import Burst
from ofa.hardware.timed_models import export_model
from ofa.setting import Setting

pytestmark = pytest.mark.alone


@pytest.fixture(params=sorted(RUNTIMES))
def setting(request):
    try:
        RUNTIMES[request.param]().versions()
    except NotInstalledError as error:
        pytest.skip(str(error))
    return Setting(runtime=request.param, threads=2)


@pytest.fixture
def runtime(setting):
    return RUNTIMES[setting.runtime]()


@pytest.fixture
def takes_files(runtime):
    if runtime.format == "module":
        pytest.skip("takes modules")


@pytest.fixture
def takes_onnx(runtime):
    if runtime.format != "onnx":
        pytest.skip(f"takes {runtime.format}")


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


def test_it_computes_what_torch_does_from_bytes_and_from_a_file(runtime, setting, module, tmp_path):
    model = export_model(module, (3, 6, 6), setting)
    sources = [model]
    if isinstance(model, bytes):
        path = tmp_path / "model"
        path.write_bytes(model)
        sources += [path, str(path)]
    for source in sources:
        session = runtime.prepare(source, setting)
        inputs = session.random_inputs(np.random.default_rng(0))
        (images,) = inputs.values()
        with torch.no_grad():
            expected = module(torch.from_numpy(images)).numpy()
        for _ in range(2):
            np.testing.assert_allclose(session.run(inputs)[0], expected, atol=1e-5)


def test_what_is_prepared_runs_as_often_as_wanted(runtime, setting, module):
    session = runtime.prepare(export_model(module, (3, 6, 6), setting), setting)
    inputs = session.random_inputs(np.random.default_rng(0))
    (expected,), run = session.run(inputs), session.prepared(inputs)
    for _ in range(3):
        if isinstance(run, Burst):
            assert all(duration > 0 for duration in run.durations_ns(1000, 1))
        else:
            run()
    np.testing.assert_array_equal(session.run(inputs)[0], expected)


def test_what_is_prepared_needs_nothing_but_itself(runtime, setting, module, tmp_path):
    """Whoever measures many models keeps what runs, and neither sessions nor the bytes that they came from."""
    model = export_model(module, (3, 8, 8), setting)
    runs = []
    for number in range(30):
        source = model
        if runtime.format != "module":
            source = tmp_path / f"{number}.{runtime.format}"
            source.write_bytes(model)
        session = runtime.prepare(source, setting)
        runs.append(session.prepared(session.random_inputs(np.random.default_rng(number))))
        del session
    rubbish = [bytes(len(model) if isinstance(model, bytes) else 1000) for _ in range(100)]
    for run in runs:
        if isinstance(run, Burst):
            run.durations_ns(1, 1)
        else:
            run()
    assert len(rubbish) == 100


def test_random_inputs_fill_the_batch_and_are_reproducible(runtime, setting, module):
    setting = dataclasses.replace(setting, batch=3)
    session = runtime.prepare(export_model(module, (3, 6, 6), setting), setting)
    first, second = (next(iter(session.random_inputs(np.random.default_rng(0)).values())) for _ in range(2))
    assert first.shape == (3, 3, 6, 6)
    np.testing.assert_array_equal(first, second)


def test_a_free_batch_becomes_that_of_the_setting(runtime, setting, module, takes_onnx):
    model = free_dimension(export_for_timing(module, (3, 6, 6)), 0)
    session = runtime.prepare(model, dataclasses.replace(setting, batch=3))
    assert session.random_inputs(np.random.default_rng(0))["images"].shape == (3, 3, 6, 6)


def test_other_free_dimensions_are_refused(runtime, setting, module, takes_onnx):
    with pytest.raises(ModelError, match=r"'images' has free dimensions.*fixed size"):
        session = runtime.prepare(free_dimension(export_for_timing(module, (3, 6, 6)), 2), setting)
        session.random_inputs(np.random.default_rng(0))


def test_what_is_not_a_model_is_refused(runtime, setting, tmp_path, takes_files):
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match=r"no model .*model\.onnx"):
        runtime.prepare(path, setting)
    path.write_bytes(b"not a model")
    for source in (path, b"not a model"):
        with pytest.raises(ModelError, match="not a valid"):
            runtime.prepare(source, setting)


def test_runtimes_of_modules_refuse_files(runtime, setting):
    if runtime.format == "module":
        with pytest.raises(ModelError, match="runs torch modules, not files"):
            runtime.prepare(b"", setting)


def test_versions(runtime):
    versions = runtime.versions()
    assert versions
    assert all(version[0].isdigit() for name, version in versions.items() if name != "gpu")


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_what_is_not_installed_says_how_to_install_it(name, monkeypatch):
    from ofa import optional
    from ofa.hardware.runtimes import onnxruntime, torch_module

    def missing(package):
        raise optional.PackageNotFoundError(package)

    def cannot_import(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(optional, "version", missing)
    monkeypatch.setattr(optional.importlib, "import_module", cannot_import)
    assert onnxruntime and torch_module
    with pytest.raises(NotInstalledError, match=r"install|GPU|trtexec"):
        RUNTIMES[name]().versions()
