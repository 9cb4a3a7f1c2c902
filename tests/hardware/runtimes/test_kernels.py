"""How much of a network is in INT8, counted in what each runtime makes of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ofa.formats import FORMATS, Shipped
from ofa.hardware.runtimes import RUNTIMES, HasKernels, Kernels, NotInstalledError
from ofa.hardware.timed_models import export_model
from ofa.setting import Setting

pytestmark = pytest.mark.alone
ON_CPU = ["onnxruntime", "openvino", "executorch", "litert"]


class Small(nn.Module):
    """A stem, a depthwise block around a shortcut, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU())
        self.project = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        features = features + self.project(self.depthwise(features))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


# Of an image of 8 x 8 pixels: output pixels x channels x what one is the sum of.
STEM, DEPTHWISE, PROJECT, HEAD = 16 * 16 * 27, 16 * 16 * 9, 16 * 16 * 16, 10 * 16
MACS = STEM + DEPTHWISE + PROJECT + HEAD


@pytest.fixture(scope="module")
def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small().eval()


def kernels_of(model: bytes, runtime: str, precision: Any) -> Kernels:
    session = RUNTIMES[runtime]().prepare(model, Setting(runtime=runtime, precision=precision))
    assert isinstance(session, HasKernels)
    return session.kernels()


def quantized(module: nn.Module, runtime: str, float_nodes: Collection[int] = ()) -> Kernels:
    """Of the network that is deployed, nodes of these numbers in floating point."""
    setting, images = Setting(runtime=runtime, precision="int8"), np.random.default_rng(0).standard_normal((4, 3, 8, 8))
    to_calibrate = FORMATS[RUNTIMES[runtime]().format].to_calibrate
    assert to_calibrate is not None
    batches = [image[None] for image in images.astype(np.float32)]
    calibrated = to_calibrate(module, Shipped(input_shape=(3, 8, 8)), batches, setting)
    kept = [calibrated.nodes[number] for number in float_nodes]
    return kernels_of(calibrated.to_file(calibrated.quantize(kept)), runtime, "int8")


@pytest.fixture(params=ON_CPU)
def runtime(request: pytest.FixtureRequest) -> str:
    try:
        RUNTIMES[request.param]().versions()
    except NotInstalledError as error:
        pytest.skip(str(error))
    return str(request.param)


def test_in_floating_point_nothing_is_in_int8(runtime: str, small: nn.Module) -> None:
    found = kernels_of(export_model(small, (3, 8, 8), Setting(runtime=runtime)), runtime, "fp32")
    assert found == (MACS, 0, 0)
    assert found.int8_percent == 0


def test_in_int8_everything_is_and_only_the_ends_are_converted(runtime: str, small: nn.Module) -> None:
    found = quantized(small, runtime)
    assert found[:2] == (MACS, MACS)
    assert found.int8_percent == 100
    # Both ends; a mean over pixels is in floating point in some, and ends of kernels count apart.
    assert 2 <= found.num_conversions <= 5


def test_what_stays_in_floating_point_does_not_count(runtime: str, small: nn.Module) -> None:
    found = quantized(small, runtime, [0])
    assert found[:2] == (MACS, MACS - STEM)


def test_what_is_timed_is_in_int8_too(runtime: str, small: nn.Module) -> None:
    model = export_model(small, (3, 8, 8), Setting(runtime=runtime, precision="int8"))
    assert isinstance(model, bytes)
    assert kernels_of(model, runtime, "int8")[:2] == (MACS, MACS)
