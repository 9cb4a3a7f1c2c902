from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from ofa.training.bn_calibration import calibrate_bn


def make_batches(num: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 3, 6, 6, generator=generator) * (k + 1) + k for k in range(num)]


def make_model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), BatchNormAct2d(4)).eval()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_statistics_are_the_mean_over_batches_of_what_the_layer_sees(memory_format: torch.memory_format) -> None:
    model = make_model().to(memory_format=memory_format)
    batches = [images.to(memory_format=memory_format) for images in make_batches(3)]
    model[1].running_mean.fill_(100)  # what was before is forgotten
    calibrate_bn(model, iter(batches))

    first = [model[0](images) for images in batches]
    assert all(x.is_contiguous(memory_format=memory_format) for x in first)
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in first])
    variances = torch.stack([x.var(dim=(0, 2, 3), unbiased=True) for x in first])
    torch.testing.assert_close(model[1].running_mean, means.mean(dim=0))
    torch.testing.assert_close(model[1].running_var, variances.mean(dim=0))

    # The second layer sees what the first one gives in training mode; dropout is off.
    norms = [nn.functional.batch_norm(x, None, None, model[1].weight, model[1].bias, training=True) for x in first]
    second = [norm.relu() for norm in norms]
    torch.testing.assert_close(model[4].running_mean, torch.stack([x.mean(dim=(0, 2, 3)) for x in second]).mean(dim=0))
    variances = torch.stack([x.var(dim=(0, 2, 3), unbiased=True) for x in second])
    torch.testing.assert_close(model[4].running_var, variances.mean(dim=0))


def test_one_batch_gives_its_own_statistics_so_evaluation_equals_training() -> None:
    model, (images,) = make_model(), make_batches(1)
    calibrate_bn(model, [images])
    with torch.no_grad():
        x = model[0](images)
        torch.testing.assert_close(model[1].running_mean, x.mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_leaves_modes_and_momentum_and_weights_as_they_were(training: bool) -> None:
    model = make_model().train(training)
    model[1].momentum = 0.3
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    calibrate_bn(model, make_batches(2))
    assert all(module.training is training for module in model.modules())
    assert [model[1].momentum, model[4].momentum] == [0.3, 0.1]
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_put_back_after_an_error() -> None:
    model = make_model()
    with pytest.raises(RuntimeError):
        calibrate_bn(model, [torch.zeros(2, 5, 6, 6)])  # five channels
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.1


def test_no_batches_are_refused_before_anything_is_lost() -> None:
    model = make_model()
    model[1].running_mean.fill_(5)
    with pytest.raises(ValueError, match="needs at least one batch"):
        calibrate_bn(model, [])
    assert (model[1].running_mean == 5).all()


def test_each_image_is_seen_once() -> None:
    model = make_model()
    num_calls = 0

    def count(*_: object) -> None:
        nonlocal num_calls
        num_calls += 1

    model.register_forward_hook(count)
    calibrate_bn(model, make_batches(4))
    assert num_calls == 4


def test_a_model_without_batch_norm_is_left_alone() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    calibrate_bn(model, make_batches(1))
    assert model[1].running_mean is None


def test_several_networks_share_a_pass() -> None:
    batches, passes = make_batches(3), 0

    def once() -> Iterator[Tensor]:
        nonlocal passes
        passes += 1
        yield from batches

    alone, together = [make_model(seed) for seed in (0, 1)], [make_model(seed) for seed in (0, 1)]
    for model in alone:
        calibrate_bn(model, iter(batches))
    calibrate_bn(together, once())
    assert passes == 1
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_statistics_do_not_depend_on_the_device(
    memory_format: torch.memory_format, torch_device: str, full_fp32: None
) -> None:
    expected, found = make_model(), make_model().to(torch_device, memory_format=memory_format)
    calibrate_bn(expected, make_batches(3))
    calibrate_bn(found, [images.to(torch_device, memory_format=memory_format) for images in make_batches(3)])
    for one, other in zip(expected.buffers(), found.buffers(), strict=True):
        torch.testing.assert_close(other.cpu(), one, atol=1e-4, rtol=1e-4)
