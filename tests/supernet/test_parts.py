"""Slots, parts and cost tables against the extracted subnets that they describe."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ofa.cost import file_bytes, model_bytes, peak_activation_bytes
from ofa.deploy.targets.network import HalfPrecision
from ofa.formats.onnx import export_for_timing, to_bytes, to_onnx
from ofa.formats.onnx_int8 import quantize_qdq
from ofa.space import Arch
from ofa.supernet import Supernet, create_supernet, elasticize
from ofa.supernet.parts import Slot
from tests.cost.memory_plan import plan_onnx

from .helpers import CLASSIFIERS, blocks_of, input_shapes, make_images, tensor_sizes

Factors = list[tuple[tuple[str, ...], npt.NDArray[np.float64]]]


def at(supernet: Supernet, arch: Arch, dims: tuple[str, ...]) -> tuple[int, ...]:
    """Index of an architecture in a table over ``dims``."""
    row = supernet.space.to_population(arch)[0]
    return tuple(int(row[supernet.space.column(name)]) for name in dims)


def keys_of(supernet: Supernet, arch: Arch) -> dict[str, str]:
    """Slot name -> part key, for the slots where something stands."""
    keys = {slot.name: str(slot.keys[at(supernet, arch, slot.dims)]) for slot in supernet.slots}
    return {name: key for name, key in keys.items() if key}


def entries(supernet: Supernet, arch: Arch, factors: Factors) -> list[float]:
    """What each factor of a cost says about an architecture."""
    return [float(table[at(supernet, arch, dims)]) for dims, table in factors]


def archs_of(supernet: Supernet, num: int) -> list[Arch]:
    space = supernet.space
    rng = np.random.default_rng(5)
    return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(num))]


@pytest.fixture(
    scope="module", params=["tf_efficientnetv2_b0", "efficientnetv2_rw_t", "fbnetv3_b", "mobilenetv3_large_100"]
)
def converted(request: pytest.FixtureRequest) -> Supernet:
    return elasticize(timm.create_model(request.param, num_classes=10), resolution=[48, 64]).eval()


@pytest.fixture(scope="module", params=[name for name in CLASSIFIERS if not name.startswith("vit")])
def small_preset(request: pytest.FixtureRequest) -> Supernet:
    """Presets with two resolutions, so that all of their parts can be built; transformers take one size only."""
    return create_supernet(request.param, num_classes=10, resolution=[24, 32]).eval()


# -- costs -------------------------------------------------------------------------------------------------------------


def assert_costs_equal_counts(supernet: Supernet, num: int) -> None:
    macs, params = supernet.factors("macs"), supernet.factors("params")
    for arch in archs_of(supernet, num):
        extracted = supernet.extract(arch)
        for module in extracted.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # the counter does not see the products inside a fused kernel
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            extracted(torch.zeros(1, *supernet.input_shape(arch)))
        assert 2 * sum(entries(supernet, arch, macs)) == counter.get_total_flops()
        assert sum(entries(supernet, arch, params)) == sum(parameter.numel() for parameter in extracted.parameters())


def test_costs_of_presets(preset: Supernet) -> None:
    assert_costs_equal_counts(preset, 2)


def test_costs_of_timm_models(converted: Supernet) -> None:
    assert_costs_equal_counts(converted, 2)


FAMILIES = [
    "mobilenetv4_conv_small",
    "resnet26d",
    "regnety_002",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
    "poolformer_s12",
    "xcit_nano_12_p16_224",
    "densenet121",
]


LARGE = ("densenet121", "xcit_nano_12_p16_224")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in FAMILIES])
def test_macs_equal_another_counter(name: str) -> None:
    """Ten subnets of each of ten families, within 1 % of what torch counts while they run; without values."""
    with torch.device("meta"):
        supernet = elasticize(timm.create_model(name)).eval()
        macs = supernet.factors("macs")
        rng = np.random.default_rng(0)
        for arch in [supernet.space.sample(rng) for _ in range(10)]:
            extracted = supernet.extract(arch)
            for module in extracted.modules():
                if hasattr(module, "fused_attn"):
                    module.fused_attn = False  # the counter does not see the products inside a fused kernel
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                extracted(torch.zeros(1, *supernet.input_shape(arch)))
            assert 2 * sum(entries(supernet, arch, macs)) == pytest.approx(counter.get_total_flops(), rel=0.01)


def assert_model_bytes_are_those_of_the_file(supernet: Supernet, num: int) -> None:
    for arch in archs_of(supernet, num):
        subnet = supernet.extract(arch)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in subnet.parameters():  # equal ones, such as new biases, would be written once
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for precision, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
            exported = export_for_timing(subnet, supernet.input_shape(arch), dtype=dtype)
            graph = onnx.load_from_string(exported).graph
            in_file = sum(len(tensor.raw_data) for tensor in graph.initializer)
            predicted = model_bytes(supernet, precision=precision).predict(arch)[0]
            assert predicted == pytest.approx(in_file, rel=1e-4)
            assert 0 < len(exported) - predicted < 200_000  # the graph


@pytest.mark.parametrize("name", ["ofa_mobilenetv3_tiny", "vit_tiny", "convnext_atto", "resnet26d"])
def test_model_bytes_are_those_of_the_exported_file(name: str) -> None:
    assert_model_bytes_are_those_of_the_file(create_supernet(name, num_classes=10).eval(), 1)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("ofa_mobilenetv3_tiny", 0.03),
        pytest.param("test_efficientnet", 0.05, marks=pytest.mark.slow),
        pytest.param("mobilenetv2_050", 0.03, marks=pytest.mark.slow),
        pytest.param("convnext_atto", 0.03, marks=pytest.mark.slow),
    ],
)
def test_bytes_of_a_file_are_those_of_what_is_shipped(name: str, share: float) -> None:
    """Graph, scales, zero points and all, in each precision."""
    supernet = create_supernet(name, num_classes=10).eval()
    for arch in archs_of(supernet, 0):
        subnet, shape = supernet.extract(arch), supernet.input_shape(arch)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in subnet.parameters():  # equal ones would be written once
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model = to_onnx(subnet, shape)
        shipped = {"fp32": model, "fp16": to_onnx(HalfPrecision(subnet), shape), "int8": quantize_qdq(model)}
        for precision, graph in shipped.items():
            found = len(to_bytes(graph))
            predicted = file_bytes(supernet, precision=precision).predict(arch)[0]
            assert predicted == pytest.approx(found, rel=share), (arch, precision)
        weights = model_bytes(supernet, precision="int8").predict(arch)[0]
        assert abs(weights - found) > 2 * abs(predicted - found)  # without the graph it is worse


def test_layers_are_those_of_the_extracted_subnet() -> None:
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10).eval()
    layers = supernet.factors("layers")
    for arch in archs_of(supernet, 3):
        modules = supernet.extract(arch).modules()
        assert sum(entries(supernet, arch, layers)) == sum(isinstance(each, nn.Conv2d | nn.Linear) for each in modules)


def assert_peak_is_that_of_the_plan(supernet: Supernet, num: int) -> None:
    cost = peak_activation_bytes(supernet, bytes_per_activation=1)
    for arch in archs_of(supernet, num):
        exported = export_for_timing(supernet.extract(arch), supernet.input_shape(arch))
        assert cost.predict(arch)[0] == plan_onnx(exported, bytes_per_element=1).arena_bytes


def test_peak_of_presets_is_that_of_the_plan_of_the_exported_subnet(small_preset: Supernet) -> None:
    assert_peak_is_that_of_the_plan(small_preset, 2)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "convnext_atto", "vit_tiny", "regnety_002", "resnetv2_50", "mixer_s32_224"]
)
def test_peak_of_families_is_that_of_the_plan_of_the_exported_subnet(name: str) -> None:
    assert_peak_is_that_of_the_plan(create_supernet(name).eval(), 1)


def test_peak_is_at_least_what_a_product_reads_and_writes_with_the_waiting_shortcut(small_preset: Supernet) -> None:
    peaks = small_preset.factors("peak_activation_bytes")
    for arch in archs_of(small_preset, 2):
        extracted = small_preset.extract(arch)
        blocks = blocks_of(small_preset, extracted)
        with input_shapes(blocks) as shapes, torch.no_grad():
            extracted(torch.zeros(1, *small_preset.input_shape(arch)))
        waiting: dict[nn.Module, int] = {}
        for name, block in blocks.items():
            has_shortcut = block.has_skip if hasattr(block, "has_skip") else block.downsample is None
            convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
            waiting |= dict.fromkeys(convolutions[1:], math.prod(shapes[name]) if has_shortcut else 0)
        layers = {
            str(n): layer for n, layer in enumerate(extracted.modules()) if isinstance(layer, nn.Conv2d | nn.Linear)
        }
        with tensor_sizes(layers) as sizes, torch.no_grad():
            extracted(torch.zeros(1, *small_preset.input_shape(arch)))
        alive = [sizes[name] + waiting.get(layer, 0) for name, layer in layers.items()]
        assert max(entries(small_preset, arch, peaks)) >= 4 * max(alive)


def test_peak_of_dense_connections_is_an_upper_bound() -> None:
    supernet = elasticize(timm.create_model("densenet121"), resolution=[64]).eval()
    cost = peak_activation_bytes(supernet)
    for arch in archs_of(supernet, 1):
        exported = export_for_timing(supernet.extract(arch), supernet.input_shape(arch))
        assert cost.predict(arch)[0] >= plan_onnx(exported).lower_bound_bytes


def test_kernel_transforms_cost_nothing() -> None:
    plain, learned = (
        create_supernet("ofa_mobilenetv3_tiny", num_classes=10, resolution=[24, 32], kernel_transforms=transforms)
        for transforms in (False, True)
    )
    for cost in ("macs", "params", "peak_activation_bytes"):
        for (dims, table), (other_dims, other) in zip(plain.factors(cost), learned.factors(cost), strict=True):
            assert dims == other_dims
            assert np.array_equal(table, other)
    assert [set(slot.keys.flat) for slot in plain.slots] == [set(slot.keys.flat) for slot in learned.slots]


def test_unknown_cost_and_part(tiny: Supernet) -> None:
    with pytest.raises(LookupError, match="unknown cost 'mac'; did you mean 'macs'"):
        tiny.factors("mac")
    key = next(iter(keys_of(tiny, tiny.space.largest()).values()))
    with pytest.raises(LookupError, match=f"unknown part '{key}x'; did you mean '{key}'"):
        tiny.part(key + "x")


# -- slots and parts ---------------------------------------------------------------------------------------------------


def first_part(supernet: Supernet) -> str:
    """The stem, or its first block where it is a stage, whose depth varies."""
    return "stage0.block0" if "stage0.width1" in supernet.space.names else "stem"


def assert_slots_fit_the_space(supernet: Supernet) -> None:
    space = supernet.space
    slots = supernet.slots
    assert [slots[0].name, slots[-1].name.partition(".")[0]] == [first_part(supernet), "head"]
    assert len({slot.name for slot in slots}) == len(slots)
    read = {name for slot in slots for name in slot.dims}
    assert read == set(space.names)  # no dim is without effect
    for slot in slots:
        assert slot.keys.shape == tuple(len(space[name].values) for name in slot.dims)
    for cost in ("macs", "params", "peak_activation_bytes"):
        for slot, (dims, table) in zip(slots, supernet.factors(cost), strict=True):
            assert dims == slot.dims
            assert not table[slot.keys == ""].any()
            if ".block" in slot.name:  # a head may be a norm alone, which multiplies nothing
                assert (table[slot.keys != ""] > 0).all()


def assert_parts_are_those_of_the_subnets(supernet: Supernet, num: int) -> None:
    for arch in archs_of(supernet, num):
        extracted = supernet.extract(arch)
        blocks = blocks_of(supernet, extracted)
        with input_shapes(blocks) as shapes, torch.no_grad():
            extracted(torch.zeros(1, *supernet.input_shape(arch)))
        keys = keys_of(supernet, arch)
        assert [name for name in keys if name in blocks] == list(blocks)
        # A stem that is a stage has the pooling behind it.
        before = "stem" if first_part(supernet) == "stem" else "stage1"
        assert {name.partition(".")[0] for name in keys if name not in blocks} == {before, "head"}
        for name, block in blocks.items():
            part = supernet.part(keys[name])
            assert part.key == keys[name]
            assert repr(part.module) == repr(block)
            assert part.input_shape == shapes[name]
            shape = shapes[name]  # (channels, height, width), or (tokens, channels)
            assert part.fields["resolution"] == (shape[-1] if len(shape) == 3 else shape[0])


def assert_parts_in_a_row_are_the_subnet(supernet: Supernet, num: int) -> None:
    for arch in archs_of(supernet, num):
        blocks = blocks_of(supernet, supernet.extract(arch))
        images = make_images(supernet, arch)
        with torch.no_grad():
            x = images
            for name, key in keys_of(supernet, arch).items():
                part = supernet.part(key)
                module = copy.deepcopy(part.module)
                if name in blocks:  # other slots may share the key, so it comes with the weights of one of them
                    module.load_state_dict(blocks[name].state_dict())
                assert tuple(x.shape[1:]) == part.input_shape
                assert not any(child.training for child in module.modules())
                x = module(x)
            torch.testing.assert_close(x, supernet(images, arch), atol=1e-5, rtol=0)


def assert_a_key_is_one_thing(slots: tuple[Slot, ...], supernet: Supernet) -> None:
    """No two keys for the same thing; that one key is not two things, the comparison with subnets shows."""
    things: dict[tuple[str, bool, tuple[int, ...]], str] = {}
    for key in sorted({str(key) for slot in slots for key in slot.keys.flat} - {""}):
        part = supernet.part(key)
        thing = (repr(part.module), bool(getattr(part.module, "has_skip", False)), part.input_shape)
        assert things.setdefault(thing, key) == key


def test_slots_of_presets(preset: Supernet) -> None:
    assert_slots_fit_the_space(preset)
    assert_parts_are_those_of_the_subnets(preset, 1)
    if not isinstance(preset.model, VisionTransformer):  # it adds its position embedding between parts
        assert_parts_in_a_row_are_the_subnet(preset, 1)


def test_slots_of_timm_models(converted: Supernet) -> None:
    assert_slots_fit_the_space(converted)
    assert_parts_are_those_of_the_subnets(converted, 1)
    assert_a_key_is_one_thing(converted.slots, converted)


def test_keys_of_presets(small_preset: Supernet) -> None:
    assert_parts_are_those_of_the_subnets(small_preset, 8)
    assert_a_key_is_one_thing(small_preset.slots, small_preset)


def test_slots_share_keys(tiny: Supernet) -> None:
    keys = [{str(key) for key in slot.keys.flat} - {""} for slot in tiny.slots if slot.name.startswith("stage2.")]
    assert any(first & second for first, second in itertools.combinations(keys, 2))
