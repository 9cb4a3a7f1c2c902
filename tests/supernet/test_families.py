"""The contract of elasticity, on models of many families: what a subnet computes, exports, costs and teaches.

By default a dozen or so models that differ most; `make test-slow` takes the smallest model of every family that
docs/results/coverage.csv lists as converted.
"""

from __future__ import annotations

import csv
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from ofa.formats.onnx import export_for_timing
from ofa.nn.structure import clone_structure, own_tensors
from ofa.space import Arch
from ofa.supernet import Supernet, elasticize, sort_channels
from ofa.supernet.channels import trace
from ofa.supernet.channels.tracer import stand_in
from ofa.supernet.dims import DIM_KINDS, Narrowing
from ofa.supernet.narrowing import Narrower, build
from ofa.supernet.stitching import Stitched

from .helpers import batch_norms, disagreement, make_images, randomise

COVERAGE = Path(__file__).parents[2] / "docs" / "results" / "coverage.csv"

DIFFERENT = [
    "resnet10t",  # basic blocks, deep stem
    "resnext26ts",  # grouped bottlenecks
    "regnety_002",  # stages that are no Sequential, squeeze-excite
    "densenet121",  # concatenation: no depth, but hidden width
    "convnextv2_atto",  # global response normalisation
    "vit_tiny_patch16_224",  # heads, MLP ratio
    "swin_s3_tiny_224",  # relative position tables
    "mixer_s32_224",  # token mixing
    "poolformer_s12",  # no attention
    "levit_conv_128s",  # caches
    "mobilevit_xxs",  # convolution and attention
    "repvgg_a0",  # nothing but stage width
    "iformer_t",  # width of queries and keys
]


def smallest_of_each_family() -> list[str]:
    """Of the models that convert, the one with the fewest parameters in each family."""
    if not COVERAGE.exists():
        return []
    with COVERAGE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["converts"] == "yes"]
    smallest: dict[str, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: int(row["largest_params"])):
        smallest.setdefault(row["family"], row)
    return sorted(row["model"] for row in smallest.values())


def build_model(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10).eval()
    fuse_attention(model, fused=False)  # the older exporter and the counter want the products themselves
    randomise(model, size=model.default_cfg["input_size"][-1])
    # Scales that do not amplify: with larger ones LeViT's logits in float32 and float64 are 10 % apart.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for norm in batch_norms(model):
            norm.weight.copy_(0.6 + 0.3 * torch.rand(norm.num_features, generator=generator))
            norm.bias.mul_(0.2)
    return model


def fuse_attention(model: nn.Module, *, fused: bool = True) -> int:
    """Choose the kernel that computes attention, in place; how many modules have the choice."""
    choosing: list[Any] = [module for module in model.modules() if hasattr(module, "fused_attn")]
    for module in choosing:
        module.fused_attn = fused
    return len(choosing)


def scaled_difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value; randomly initialised networks give logits of any size."""
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1))


def archs_of(supernet: Supernet, num: int) -> list[Arch]:
    space, rng = supernet.space, np.random.default_rng(0)
    return [space.sample(rng) for _ in range(num)]


def macs_of(supernet: Supernet, arch: Arch) -> float:
    row = supernet.space.to_population(arch)[0]
    return sum(
        float(table[tuple(int(row[supernet.space.column(name)]) for name in dims)])
        for dims, table in supernet.factors("macs")
    )


def check_contract(name: str, *, num_archs: int) -> None:
    model = build_model(name)
    size = model.default_cfg["input_size"][-1]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images)
    supernet = elasticize(model).eval()
    space = supernet.space
    largest = space.largest()
    with torch.no_grad():
        assert torch.equal(supernet(images, largest), expected)

    full_macs = macs_of(supernet, largest)
    for arch in archs_of(supernet, num_archs):
        inputs = make_images(supernet, arch, num=1)
        extracted = supernet.extract(arch).requires_grad_(False)
        output = extracted(inputs)
        assert not output.requires_grad, "the extracted network computes with tensors of the supernet"
        with torch.no_grad():
            assert scaled_difference(output, supernet(inputs, arch)) <= 1e-5
        assert output.isfinite().all()
        assert arch == largest or macs_of(supernet, arch) < full_macs
        assert scaled_difference(run_onnx(extracted, inputs), output) <= 1e-4
        assert not {type(m).__module__ for m in extracted.modules() if type(m).__module__.split(".")[0] == "ofa"}
    check_attention(supernet)
    check_narrowed_equals_masked(supernet, images)
    check_code_agrees(supernet)
    check_sorting_changes_nothing(supernet, images, expected)
    check_gradients(supernet, images)


def run_onnx(module: nn.Module, images: Tensor) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    graph = export_for_timing(module, tuple(images.shape[1:]))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(output)


@torch.no_grad()
def check_attention(supernet: Supernet) -> None:
    """Fused attention computes what the products do in the smallest subnet too: sizes and scales belong together."""
    arch = supernet.space.smallest()
    subnet, images = supernet.extract(arch), make_images(supernet, arch, num=1)
    expected = subnet(images)
    if fuse_attention(subnet):
        assert scaled_difference(subnet(images), expected) <= 1e-4


@torch.no_grad()
def check_narrowed_equals_masked(supernet: Supernet, images: Tensor) -> None:
    """A narrow subnet is the largest with the weights that read dropped channels set to zero.

    Normalisation over the channels of a layer (LayerNorm and its kin) makes no exception for zeros, so groups that pass
    one stay whole here, as do stage widths, and squeeze-excite bottlenecks, whose mean is the same. So do channels of
    queries and keys, which no weight reads, and whose product is scaled by their number.
    """
    modules = dict(supernet.model.named_modules())
    normalising = ("LayerNorm", "GlobalResponseNorm", "RmsNorm", "GroupNorm1", "SimpleNorm")
    choice = Narrowing()
    for dim in [dim for dim in supernet.dims if dim.scope == "block"]:
        values = {other.name: other.values[-1] for other in supernet.dims} | {dim.name: dim.values[0]}
        dim.apply(values, choice)
    groups = supernet.analysis.groups.all
    for number in list(choice.units):
        owners = [modules[path] for path in groups[number].modules]
        is_normalised = any(kind in type(m).__name__ for m in owners for kind in normalising)
        is_read = any(site.axis > 0 for site in groups[number].sites)
        if groups[number].is_ordered or is_normalised or not is_read:
            del choice.units[number]
    narrowed = build(supernet.model, supernet._narrower, choice)(images)

    masked = clone_structure(supernet.model)
    masked_modules = dict(masked.named_modules())
    for number, units in choice.units.items():
        for site in groups[number].sites:
            path, _, name = site.tensor.rpartition(".")
            owner = masked_modules[path]
            if site.axis == 1 and name == "weight" and isinstance(owner, nn.Conv2d | nn.Linear | nn.Conv1d):
                weight = owner._parameters["weight"].clone()  # type: ignore[union-attr]
                weight.index_fill_(1, torch.from_numpy(site.indices[units:].ravel()), 0)
                owner._parameters["weight"] = weight  # type: ignore[assignment]
    for path, size in choice.kernels.items():
        owner = masked_modules[path]
        weight = owner._parameters["weight"].clone()  # type: ignore[union-attr]
        for axis in (2, 3):
            margin = max(0, (weight.shape[axis] - size) // 2)
            outside = [i for i in range(weight.shape[axis]) if not margin <= i < weight.shape[axis] - margin]
            weight.index_fill_(axis, torch.tensor(outside, dtype=torch.long), 0)
        owner._parameters["weight"] = weight  # type: ignore[assignment]
    assert scaled_difference(narrowed, masked(images)) <= 1e-4


def check_code_agrees(supernet: Supernet) -> None:
    """The narrowed model's own trace ties the same channels: its code does with fewer what it does with all."""
    analysis = supernet.analysis
    smallest = {dim.name: dim.values[0] for dim in supernet.dims}
    choice = Narrowing.of([dim for dim in supernet.dims if dim.scope != "stage"], smallest)
    meta = stand_in(supernet.model)
    narrower = Narrower(meta, {n: analysis.groups.all[n] for dim in supernet.dims for n in dim.groups})
    narrowed = build(meta, narrower, choice)
    own_tensors(narrowed)
    found = disagreement(analysis.trace, analysis.groups, choice.units, trace(narrowed, analysis.inputs.example))
    assert found is None, found


@torch.no_grad()
def check_sorting_changes_nothing(supernet: Supernet, images: Tensor, expected: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in supernet.model.state_dict().items()}
    sort_channels(supernet)
    if any(dim.groups for dim in supernet.dims):
        assert any(not torch.equal(tensor, before[name]) for name, tensor in supernet.model.state_dict().items())
    assert scaled_difference(supernet(images, supernet.space.largest()), expected) <= 1e-4


def check_gradients(supernet: Supernet, images: Tensor) -> None:
    fuse_attention(supernet)  # else every block keeps its scores: 24 GB in a transformer for images of 768 pixels
    supernet.train()
    supernet(images, supernet.space.largest()).square().sum().backward()
    untouched = [name for name, p in supernet.model.named_parameters() if p.requires_grad and p.grad is None]
    used = supernet.analysis.trace.sources
    assert not set(untouched) & {source.tensor for source in used}
    supernet.zero_grad()


LARGE = ("densenet121", "iformer_t", "mobilevit_xxs", "repvgg_a0", "swin_s3_tiny_224")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in DIFFERENT])
def test_contract_of_different_models(name: str) -> None:
    check_contract(name, num_archs=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", smallest_of_each_family())
def test_contract_of_every_family(name: str) -> None:
    check_contract(name, num_archs=5)
    gc.collect()


@pytest.mark.slow
def test_different_models_show_every_kind_of_dim() -> None:
    kinds: set[str] = set()
    for name in DIFFERENT:
        with torch.device("meta"):
            kinds |= {dim.kind for dim in elasticize(timm.create_model(name)).dims}
    with torch.device("meta"):
        anchors = [timm.create_model(f"vit_{size}_patch16_224") for size in ("tiny", "small")]
        kinds |= {dim.kind for dim in elasticize(Stitched(anchors)).dims}
    assert kinds == set(DIM_KINDS)
