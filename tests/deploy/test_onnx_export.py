"""ONNX files: contents, size, names, bytes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from ofa.deploy import ExportResult, export_onnx
from ofa.formats.onnx import export_for_timing
from ofa.supernet import create_supernet
from ofa.training import SubnetEvaluator


@pytest.fixture(scope="module")
def model(exported: ExportResult) -> onnx.ModelProto:
    return onnx.load(exported.path / "model.onnx")


def test_nothing_is_left_to_fold(model: onnx.ModelProto) -> None:
    operators = {node.op_type for node in model.graph.node}
    assert "Conv" in operators
    assert not operators & {"BatchNormalization", "Constant", "Identity", "Dropout"}


def test_what_is_deployed_is_what_was_timed(model: onnx.ModelProto, exported: ExportResult) -> None:
    """The latency table speaks of graphs by another exporter; but for one free reshape they hold the same operators."""
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10).eval()
    arch = supernet.space.arch(exported.info.arch)
    timed = onnx.load_from_string(export_for_timing(supernet.extract(arch), supernet.input_shape(arch)))
    operators = [
        sorted(
            "Reshape" if node.op_type == "Flatten" else node.op_type
            for node in graph.node
            if node.op_type != "Identity"
        )
        for graph in (model.graph, timed.graph)
    ]
    assert operators[0] == operators[1]


def test_names_and_shapes(model: onnx.ModelProto, exported: ExportResult) -> None:
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    resolution = exported.info.arch["resolution"]
    assert [dim.dim_value for dim in images.type.tensor_type.shape.dim] == [1, 3, resolution, resolution]
    assert [dim.dim_value for dim in logits.type.tensor_type.shape.dim] == [1, 10]


def test_file_is_little_more_than_its_weights(exported: ExportResult, evaluator: SubnetEvaluator) -> None:
    num_params = sum(parameter.numel() for parameter in evaluator.supernet.extract(exported.info.arch).parameters())
    assert (exported.path / "model.onnx").stat().st_size == pytest.approx(4 * num_params, rel=0.05)


def test_file_does_not_tell_about_this_machine(exported: ExportResult) -> None:
    data = (exported.path / "model.onnx").read_bytes()
    assert b"site-packages" not in data
    assert b".py" not in data


def test_quiet_repeatable_and_without_a_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).eval()
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = [export_onnx(module, (3, 8, 8), tmp_path / name) for name in ("a.onnx", "b.onnx")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
    assert torch.equal(torch.get_rng_state(), state)
    assert tuple(capfd.readouterr()) == ("", "")


def test_dynamic_batch(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    path = export_onnx(module, (3, 8, 8), tmp_path / "model.onnx", dynamic_batch=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num_images in (1, 2, 7):
        images = torch.randn(num_images, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        (found,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, module(images).detach().numpy(), atol=1e-5)


def test_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training mode; call .eval\(\)"):
        export_onnx(nn.Conv2d(3, 4, 3), (3, 8, 8), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["ofa_mobilenetv3_w1.0", "ofa_mobilenetv3_w1.2", "ofa_proxyless_w1.3"])
@pytest.mark.parametrize("seed", range(2))
def test_published_subnets_equal_torch(preset: str, seed: int, tmp_path: Path) -> None:
    supernet = create_supernet(preset, num_classes=1000).eval()
    arch = supernet.space.sample(np.random.default_rng(seed))
    module = supernet.extract(arch)
    path = export_onnx(module, supernet.input_shape(arch), tmp_path / "model.onnx")
    assert not any(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node)
    images = torch.randn(2, *supernet.input_shape(arch), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        expected = module(images).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = np.concatenate([session.run(None, {"images": image[None].numpy()})[0] for image in images])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
