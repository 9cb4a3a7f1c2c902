"""The contract of every supernet: presets, and timm models from each family of blocks."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ofa.space import Arch, SpaceError
from ofa.supernet import Supernet, create_supernet, elasticize

from .helpers import batch_norms, make_images, randomise

TIMM_MODELS = [
    "mobilenetv3_large_100",
    "mobilenetv2_100",
    "efficientnet_b0",
    "tf_efficientnetv2_b0",
    "efficientnetv2_rw_t",  # squeeze-excite widths that are no multiple of 8
    "lcnet_035",
    "mnasnet_small",
    "fbnetv3_b",
]


def sample(supernet: Supernet, num: int, seed: int = 0) -> list[Arch]:
    space = supernet.space
    population = space.sample_population(num, np.random.default_rng(seed))
    return [space.largest(), space.smallest(), *space.to_archs(population)]


@torch.no_grad()
def assert_extracted_equals_active(supernet: Supernet, archs: list[Arch]) -> None:
    outputs = []
    for arch in archs:
        images = make_images(supernet, arch)
        extracted = supernet.extract(arch)
        outputs.append(extracted(images))
        torch.testing.assert_close(outputs[-1], supernet(images, arch), atol=1e-5, rtol=0)
        assert outputs[-1].std() > 1e-3
    for (arch, output), (other, other_output) in itertools.combinations(zip(archs, outputs, strict=True), 2):
        assert arch == other or (output - other_output).abs().max() > 1e-3


def test_extracted_equals_active(preset: Supernet) -> None:
    assert_extracted_equals_active(preset, sample(preset, 5))


@pytest.mark.slow
def test_extracted_equals_active_and_onnx_runtime_for_50_archs(preset: Supernet) -> None:
    import onnxruntime

    from ofa.formats.onnx import export_for_timing

    archs = sample(preset, 50, seed=1)
    assert_extracted_equals_active(preset, archs)
    for arch in archs:
        images = make_images(preset, arch, num=1)
        extracted = preset.extract(arch)
        session = onnxruntime.InferenceSession(
            export_for_timing(extracted, preset.input_shape(arch)), providers=["CPUExecutionProvider"]
        )
        with torch.no_grad():
            expected = extracted(images)
        (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_largest_is_timms_own_model(name: str) -> None:
    model = timm.create_model(name, num_classes=10)
    randomise(model, size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
        parameters = [tensor.clone() for tensor in model.state_dict().values()]
        supernet = elasticize(model, resolution=[48, 64]).eval()
        largest = supernet.space.largest()
        assert torch.equal(supernet(images, largest), expected)
        # torch.equal would ask too much of a copy: its memory may be aligned otherwise.
        torch.testing.assert_close(supernet.extract(largest)(images), expected, atol=1e-5, rtol=0)
        assert repr(supernet.extract(largest)) == repr(model)
    assert all(map(torch.equal, supernet.model.state_dict().values(), parameters))
    assert_extracted_equals_active(supernet, sample(supernet, 2))


def test_images_are_resized_to_the_resolution_of_the_arch(tiny: Supernet) -> None:
    arch = tiny.space.smallest()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smaller = nn.functional.interpolate(images, size=(20, 20), mode="bicubic", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(tiny(images, arch), tiny.extract(arch)(smaller), atol=1e-5, rtol=0)


def test_an_arch_may_be_a_plain_mapping(tiny: Supernet) -> None:
    arch = tiny.space.sample(np.random.default_rng(0))
    images = make_images(tiny, arch)
    with torch.no_grad():
        assert torch.equal(tiny(images, dict(arch)), tiny(images, arch))


def test_an_arch_that_does_not_fit_is_refused(tiny: Supernet) -> None:
    arch = dict(tiny.space.largest())
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(SpaceError, match="unknown dim 'resolutoin'; did you mean 'resolution'"):
        tiny(images, {"resolutoin": 32})
    for use in (lambda wrong: tiny(images, wrong), tiny.extract, tiny.subnet):
        with pytest.raises(SpaceError, match=r"'stage1.depth' cannot be 9; choices: \[1, 2, 3\]"):
            use(arch | {"stage1.depth": 9})
        with pytest.raises(SpaceError, match=r"'stage1.block2.kernel' is inactive in this architecture"):
            use(arch | {"stage1.depth": 2})


# -- extracted modules -------------------------------------------------------------------------------------------------


def test_extracted_modules_are_plain(preset: Supernet, tmp_path: Path) -> None:
    arch = preset.space.sample(np.random.default_rng(0))
    extracted = preset.extract(arch)
    assert not [type(module) for module in extracted.modules() if type(module).__module__.split(".")[0] == "ofa"]
    assert not any(module.training for module in extracted.modules())
    assert not any("kernel_transform" in name for name in extracted.state_dict())
    for parameter in extracted.parameters():
        assert parameter.is_leaf and parameter.is_contiguous() and parameter.requires_grad

    images = make_images(preset, arch)
    save_file(extracted.state_dict(), tmp_path / "subnet.safetensors")
    twin = copy.deepcopy(extracted)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        expected = extracted(images)
        assert not torch.allclose(twin(images), expected)
        twin.load_state_dict(load_file(tmp_path / "subnet.safetensors"))
        assert torch.equal(twin(images), expected)


def test_extracted_module_shares_nothing(tiny: Supernet) -> None:
    arch = tiny.space.smallest()
    extracted = tiny.extract(arch)
    before = {name: tensor.clone() for name, tensor in extracted.state_dict().items()}
    with torch.no_grad():
        for tensor in (*tiny.parameters(), *batch_tensors(tiny)):
            tensor.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in extracted.state_dict().items())


def batch_tensors(module: nn.Module) -> list[Tensor]:
    return [
        tensor for norm in batch_norms(module) for tensor in (norm.running_mean, norm.running_var) if tensor is not None
    ]


def test_no_state_outlives_a_call(tiny: Supernet) -> None:
    largest, smallest = tiny.space.largest(), tiny.space.smallest()
    images = make_images(tiny, largest)
    before = repr(tiny)
    with torch.no_grad():
        expected = tiny(images, largest)
        tiny(images, smallest)
        tiny.extract(smallest)
        assert torch.equal(tiny(images, largest), expected)
    assert repr(tiny) == before


def test_deep_copy_is_independent(tiny: Supernet) -> None:
    arch = tiny.space.sample(np.random.default_rng(0))
    images = make_images(tiny, arch)
    assert tiny.slots  # the tables, once made, are copied too
    twin = copy.deepcopy(tiny)
    with torch.no_grad():
        expected = tiny(images, arch)
        assert torch.equal(twin(images, arch), expected)
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        assert torch.equal(tiny(images, arch), expected)
        assert not torch.equal(twin(images, arch), expected)
        key = str(twin.slots[0].keys.flat[0])
        mine, theirs = (next(supernet.part(key).module.parameters()) for supernet in (tiny, twin))
        assert torch.equal(0.5 * mine, theirs)


# -- training ----------------------------------------------------------------------------------------------------------


def test_gradients_of_the_largest_reach_every_parameter(tiny: Supernet) -> None:
    tiny(make_images(tiny, tiny.space.largest()), tiny.space.largest()).square().sum().backward()
    assert [name for name, parameter in tiny.named_parameters() if parameter.grad is None] == []


def used(shared: Tensor, own: Tensor) -> Tensor:
    """Mask of what a subnet's tensor is a slice of: the first channels and the centre of the kernel."""
    margins = [
        (size - own_size) // 2 if axis > 1 else 0
        for axis, (size, own_size) in enumerate(zip(shared.shape, own.shape, strict=True))
    ]
    mask = torch.zeros(shared.shape, dtype=torch.bool)
    mask[tuple(slice(margin, margin + size) for margin, size in zip(margins, own.shape, strict=True))] = True
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_training_a_subnet_changes_exactly_the_slices_that_it_uses(tiny: Supernet, seed: int) -> None:
    arch = tiny.space.sample(np.random.default_rng(seed))
    own = tiny.extract(arch).state_dict()
    masks = {
        name: used(parameter, own[name]) if name in own else torch.zeros(parameter.shape, dtype=torch.bool)
        for name, parameter in tiny.model.named_parameters()
    }
    # Nothing else is read: it may be anything.
    images = make_images(tiny, arch, num=16)
    expected = tiny(images, arch)
    with torch.no_grad():
        for name, parameter in tiny.model.named_parameters():
            parameter[~masks[name]] = torch.nan
    tiny.train()
    logits = tiny(images, arch)
    tiny.eval()
    assert torch.equal(tiny(images, arch), expected)

    before = {name: parameter.detach().clone() for name, parameter in tiny.model.named_parameters()}
    logits.square().sum().backward()
    torch.optim.SGD(tiny.parameters(), lr=0.1).step()
    num_changed = num_used = 0
    for name, parameter in tiny.model.named_parameters():
        changed = ~torch.isclose(parameter, before[name], rtol=0, atol=0, equal_nan=True)
        assert not (changed & ~masks[name]).any(), name
        assert changed.any() == masks[name].any(), name
        num_changed, num_used = num_changed + int(changed.sum()), num_used + int(masks[name].sum())
    assert num_changed > 0.9 * num_used  # units that a ReLU keeps silent learn nothing


def test_only_the_largest_updates_statistics(tiny: Supernet) -> None:
    tiny.train()
    before = {name: buffer.clone() for name, buffer in tiny.named_buffers()}
    assert before
    for arch in sample(tiny, 3)[1:]:
        tiny(make_images(tiny, arch), arch)
    assert all(torch.equal(buffer, before[name]) for name, buffer in tiny.named_buffers())
    tiny(make_images(tiny, tiny.space.largest()), tiny.space.largest())
    assert [name for name, buffer in tiny.named_buffers() if torch.equal(buffer, before[name])] == []


def test_training_mode_normalises_by_the_batch(tiny: Supernet) -> None:
    arch = tiny.space.smallest()
    images = make_images(tiny, arch, num=8)
    extracted = tiny.extract(arch).train()
    tiny.train()
    with torch.no_grad():
        torch.testing.assert_close(tiny(images, arch), extracted(images), atol=1e-5, rtol=0)


def test_channels_last_computes_the_same(tiny: Supernet) -> None:
    arch = tiny.space.sample(np.random.default_rng(0))
    images = make_images(tiny, arch)
    with torch.no_grad():
        expected = tiny(images, arch)
        tiny.to(memory_format=torch.channels_last)
        actual = tiny(images.to(memory_format=torch.channels_last), arch)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_kernel_transforms_of_the_largest_are_unused_and_learn_in_others() -> None:
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10, kernel_transforms=True)
    space = supernet.space
    transforms = {name: p for name, p in supernet.named_parameters() if "kernel_transform_5to3" in name}
    assert len(transforms) == sum(name.endswith(".kernel") for name in space.names)
    supernet(make_images(supernet, space.largest()), space.largest()).sum().backward()
    assert all(parameter.grad is None for parameter in transforms.values())
    small_kernels = space.arch(
        {name: 3 if name.endswith("kernel") else value for name, value in space.largest().items()}
    )
    supernet(make_images(supernet, small_kernels), small_kernels).square().sum().backward()
    assert all(parameter.grad is not None for parameter in transforms.values())


@torch.no_grad()
def test_on_any_device(tiny: Supernet, torch_device: str, full_fp32: None) -> None:
    archs = sample(tiny, 2)
    expected = [tiny(make_images(tiny, arch), arch) for arch in archs]
    largest = make_images(tiny, tiny.space.largest())
    resized = tiny(largest, archs[1])
    tiny.to(torch_device)
    for arch, logits in zip(archs, expected, strict=True):
        images = make_images(tiny, arch).to(torch_device)
        active, extracted = tiny(images, arch), tiny.extract(arch)
        assert {tensor.device.type for tensor in extracted.state_dict().values()} == {torch_device}
        torch.testing.assert_close(extracted(images), active, atol=1e-5, rtol=0)
        torch.testing.assert_close(active.cpu(), logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tiny(largest.to(torch_device), archs[1]).cpu(), resized, atol=1e-3, rtol=1e-3)


def test_gradients_on_any_device(tiny: Supernet, torch_device: str, full_fp32: None) -> None:
    """Through views of the shared weights, in the layout of the weights, as fused optimisers want them.

    In float64: in float32 a sum over a picture differs by 1e-3 of itself from one device to another.
    """
    tiny.double().train().to(memory_format=torch.channels_last)
    arch = tiny.space.smallest()
    images = make_images(tiny, arch, num=8).double()

    def gradients(device: str) -> dict[str, Tensor]:
        tiny.to(device).zero_grad()
        for each in (tiny.space.largest(), arch):
            tiny(images.to(device), each).square().mean().backward()
        for parameter in tiny.parameters():
            if parameter.grad is not None and 1 not in parameter.shape:
                assert parameter.grad.stride() == parameter.stride()
        return {name: p.grad.cpu().clone() for name, p in tiny.named_parameters() if p.grad is not None}

    expected, found = gradients("cpu"), gradients(torch_device)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        limit = 1e-9 * max(float(gradient.abs().max()), 1e-2)
        torch.testing.assert_close(
            found[name], gradient, atol=limit, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
