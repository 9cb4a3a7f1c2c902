"""Parity between torch and exported files."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ofa.deploy import ExportResult, ParityError
from ofa.deploy.parity import compare_outputs, load_outputs
from ofa.hardware.runtimes import ModelError
from ofa.training import SubnetEvaluator


@pytest.fixture(scope="module")
def model(exported: ExportResult) -> Path:
    return exported.path / "model.onnx"


@pytest.fixture(scope="module")
def images(exported: ExportResult, evaluator: SubnetEvaluator) -> torch.Tensor:
    return next(iter(evaluator.batches("search", exported.info.arch)))[0].tensors[0][:4]


def test_tiny_differences_pass(
    model: Path, images: torch.Tensor, exported: ExportResult, evaluator: SubnetEvaluator
) -> None:
    def check(module: nn.Module) -> float:
        with torch.inference_mode():
            expected = module(images).numpy()
        return compare_outputs(expected, load_outputs(model)(images.numpy()), what=model.name, tolerance=1e-4)

    arch = evaluator.supernet.space.arch(exported.info.arch)
    module = evaluator.calibrated(arch)
    assert 0 < check(module) < 1e-4
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.get_submodule("classifier").weight.mul_(1.001)  # type: ignore[operator,union-attr]
    with pytest.raises(ParityError, match=r"model.onnx departs by .* on image \d of 4"):
        check(changed)


def test_worst_image_and_limit_are_named() -> None:
    compare = partial(compare_outputs, what="m", tolerance=1e-4)
    expected = np.array([[100.0, 0], [0, 1], [2, 3]], dtype=np.float32)
    assert compare(expected, expected + np.float32(0.005)) == pytest.approx(0.005, rel=1e-2)
    found = expected.copy()
    found[2, 1] += 0.02
    with pytest.raises(ParityError, match=r"departs by 0.02 on image 2 of 3; at most 0.01"):
        compare(expected, found)
    found[1, 0] = np.nan
    with pytest.raises(ParityError, match="departs by nan on image 1"):
        compare(expected, found)
    with pytest.raises(ParityError, match=r"shape \(3, 1\), not \(3, 2\)"):
        compare(expected, found[:, :1])


def test_wrong_images_and_wrong_files_are_refused(model: Path) -> None:
    with pytest.raises(ModelError, match=r"does not run on images of shape \(3, 7, 7\)"):
        load_outputs(model)(np.zeros((2, 3, 7, 7), dtype=np.float32))
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load_outputs(b"not a model")
