"""Every export target whose software is installed is held to this, for every device that it serves here."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ofa.deploy.artefact import on_disk
from ofa.deploy.bundle import TOP_LEVEL
from ofa.deploy.parity import TOLERANCES, compare_outputs, load_outputs
from ofa.deploy.targets import TARGETS, target_of
from ofa.deploy.targets.network import Accuracy, HalfPrecision, Network, TargetError
from ofa.formats import FORMATS
from ofa.hardware import Device, list_devices, load_device
from ofa.hardware.runtimes import RUNTIMES, NotInstalledError
from ofa.setting import Setting
from ofa.tasks.image_feed import FromPixels

pytestmark = pytest.mark.alone
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(params=[name for name in list_devices() if load_device(name).host.name == "local"])
def device(request: pytest.FixtureRequest) -> Device:
    device = load_device(request.param)
    try:
        target_of(device)
        RUNTIMES[device.setting.runtime]().versions()
    except (TargetError, NotInstalledError) as error:
        pytest.skip(str(error))
    if device.setting.threads > 1:
        pytest.skip("the same files as with one thread")
    return device


@pytest.fixture(scope="module")
def module() -> nn.Module:
    """With all that exporters fold and quantizers look at: batch norm, depthwise, shortcut, mean, product."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Hardswish())
            self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU())
            self.head = nn.Linear(8, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.stem(images)
            features = features + self.block(features)
            logits: torch.Tensor = self.head(features.mean((2, 3)))
            return logits

    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = Small()
        for layer in small.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean, layer.running_var = torch.randn(8) * 0.1, torch.rand(8) + 0.5
    return small.eval()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), dtype=np.uint8)


def normalised(pixels: np.ndarray) -> np.ndarray:
    scaled = (pixels.transpose(0, 3, 1, 2) / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    return scaled.astype(np.float32)


@pytest.mark.parametrize("from_pixels", [False, True], ids=["normalised", "from pixels"])
def test_it_computes_what_torch_does(device: Device, module: nn.Module, pixels: np.ndarray, from_pixels: bool) -> None:
    _, target = target_of(device)
    inner = HalfPrecision(module) if device.setting.precision == "fp16" else module
    images = pixels if from_pixels else normalised(pixels)
    network = Network(
        module=FromPixels(inner, mean=MEAN, std=STD) if from_pixels else inner,
        input_shape=images.shape[1:],
        dtype=torch.uint8 if from_pixels else torch.float32,
        batch=device.setting.batch,
        accuracy=Accuracy(calibration_images=images, images=images, worth=lambda outputs: 100.0, max_loss_points=1.0),
    )
    exported = target.export(network, device.setting)
    assert tuple(exported.files) == target.files
    assert set(target.files) <= TOP_LEVEL
    with on_disk(exported.files) as file:
        found = load_outputs(file, setting=device.setting, batch=network.batch)(images)
    with torch.inference_mode():
        expected = module(torch.from_numpy(normalised(pixels)))
    expected = expected.softmax(1).numpy() if from_pixels else expected.numpy()
    assert np.ptp(expected, axis=0).max() > 1e-2
    compare_outputs(expected, found, what=device.name, tolerance=TOLERANCES[device.setting.precision])
    compare_outputs(exported.reference(images), found, what=device.name, tolerance=TOLERANCES[device.setting.precision])
    assert (exported.quantization is not None) == (device.setting.precision == "int8")
    size = sum(map(len, exported.files.values()))
    assert not re.search(str(Path(__file__).parents[2]).encode(), b"".join(exported.files.values()))
    assert size < 200_000  # 1,000 bytes of weights: nothing but the graph comes with them


def check_bytes(device: Device, module: nn.Module, pixels: np.ndarray) -> None:
    _, target = target_of(device)
    images = normalised(pixels)
    accuracy = Accuracy(calibration_images=images, images=images, worth=lambda _: 1.0, max_loss_points=1.0)
    network = Network(module=module, input_shape=(3, 12, 12), accuracy=accuracy)
    first, second = (target.export(network, device.setting).files for _ in range(2))
    assert first == second


def test_the_same_network_gives_the_same_bytes(device: Device, module: nn.Module, pixels: np.ndarray) -> None:
    if FORMATS[target_of(device)[1].format].is_slow:
        pytest.skip("seconds an export: see the slow test")
    check_bytes(device, module, pixels)


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes_of_all_targets(
    device: Device, module: nn.Module, pixels: np.ndarray
) -> None:
    check_bytes(device, module, pixels)


def test_what_runs_no_file_is_refused() -> None:
    with pytest.raises(TargetError, match=r"device torch-1t computes in fp32 on torch, which runs no file"):
        target_of(load_device("torch-1t"))
    assert {name for name in TARGETS if TARGETS[name].runtimes} == set(TARGETS)


def test_devices_get_the_form_that_their_runtime_takes() -> None:
    found = {name: target_of(load_device(name))[0] for name in ("cpu-1t", "cpu-int8-1t", "openvino-int8-1t")}
    assert found == {"cpu-1t": "onnx", "cpu-int8-1t": "onnx-int8", "openvino-int8-1t": "openvino"}
    half = Device(name="half", setting=Setting(runtime="tensorrt", precision="fp16"))
    assert target_of(half)[0] == "tensorrt"
