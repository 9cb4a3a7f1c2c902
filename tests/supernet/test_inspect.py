"""What is told of a supernet, against timm, an independent counter, and foldings done by hand."""

from __future__ import annotations

import json
import resource
import sys

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ofa.space import Dim
from ofa.supernet import Supernet, create_supernet, elasticize
from ofa.supernet.inspect import fold_dims, fold_notes, inspect, ranges
from tests.supernet.helpers import create_without_weights


def counted(model: nn.Module, size: int) -> tuple[int, int]:
    """MACs of one image and parameters, by torch's counter, which does not see into fused attention."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.eval()(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in model.parameters())


# -- the whole ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenetv3_large_100", "resnet50", "vit_small_patch16_224", "convnext_tiny"])
def test_the_largest_costs_what_timms_model_costs(name: str) -> None:
    with torch.device("meta"):
        macs, params = counted(timm.create_model(name), 224)
    largest = inspect(create_without_weights(name)).largest
    assert (largest.macs, largest.params) == (macs, params)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t", "test_vit"])
def test_the_smallest_costs_what_its_extracted_subnet_costs(name: str) -> None:
    supernet = elasticize(timm.create_model(name, num_classes=10))
    arch = supernet.space.smallest()
    smallest = inspect(supernet).smallest
    assert (smallest.macs, smallest.params) == counted(supernet.extract(arch), int(arch["resolution"]))


def test_costs_equal_the_tables_and_leave_out_kernel_transforms() -> None:
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10, kernel_transforms=True)
    inspection = inspect(supernet)
    for name in ("macs", "params"):
        tables = [table for _, table in supernet.factors(name)]
        assert getattr(inspection.largest, name) == sum(table[(-1,) * table.ndim] for table in tables)
        assert getattr(inspection.smallest, name) == sum(table[(0,) * table.ndim] for table in tables)


def test_a_published_space_is_told_as_published() -> None:
    """Once-for-All: five stages of 2 to 4 blocks, kernels 3, 5, 7, expand ratios 3, 4, 6, 25 image sizes."""
    inspection = inspect(create_without_weights("ofa_mobilenetv3_w1.0"))
    assert inspection.num_subnets == 25 * (9**2 + 9**3 + 9**4) ** 5
    first, *elastic, last = inspection.stages
    assert [stage.path for stage in inspection.stages] == [f"blocks.{i}" for i in range(7)]
    assert not first.dims and not last.dims
    assert len(elastic) == 5
    for stage in elastic:
        assert stage.blocks == (("InvertedResidual", 4),)
        assert stage.depths == (2, 3, 4)
        assert [(dims.kind, dims.where, dims.values) for dims in stage.dims] == [
            ("kernel", "", (3, 5, 7)),
            ("expand", "", (3, 4, 6)),
        ]
        assert stage.dims[0].names == tuple(f"{stage.name}.block{j}.kernel" for j in range(4))
    (resolution,) = inspection.dims
    assert (resolution.kind, resolution.where, resolution.values) == ("resolution", "", tuple(range(128, 225, 4)))
    assert inspection.resolution == 224
    assert inspection.unknown_operations == ()


def test_every_dim_is_told_once() -> None:
    for supernet in (create_without_weights("resnet18", width=["50%", "100%"]), create_without_weights("vgg11")):
        inspection = inspect(supernet)
        told = [name for dims in inspection.dims for name in dims.names]
        for stage in inspection.stages:
            told += [name for dims in stage.dims for name in dims.names]
            told += [f"{stage.name}.depth"] if len(stage.depths) > 1 else []
        assert sorted(told) == sorted(supernet.space.names)
        for dims in (*inspection.dims, *(dims for stage in inspection.stages for dims in stage.dims)):
            assert {supernet.space[name].values for name in dims.names} == {dims.values}


def test_every_note_is_told_once_with_its_place() -> None:
    supernet = create_without_weights("mobilenetv3_large_100")
    inspection = inspect(supernet)
    told = [name for entry in inspection.not_elastic for name in entry.names]
    assert sorted(told) == sorted(supernet.analysis.notes)
    kernels = {entry.reason: entry.where for entry in inspection.not_elastic if entry.kind == "kernel"}
    # Howard et al., arXiv:1905.02244, table 1: 5×5 kernels in the rows of 40 and 160 channels only.
    assert kernels["3×3 is the smallest kernel"] == "stage0-1,3-4"


def test_json_has_the_documented_keys() -> None:
    data = json.loads(json.dumps(inspect(create_without_weights("resnet18")).to_json()))
    assert set(data) == {
        *("model_class", "resolution", "stages", "dims", "not_elastic", "unknown_operations"),
        *("num_subnets", "smallest", "largest", "model"),
    }
    assert data["model_class"] == "ResNet"
    stage = data["stages"][0]
    assert (stage["name"], stage["path"], stage["depths"]) == ("stage0", "layer1", [1, 2])
    assert stage["blocks"] == [{"type": "BasicBlock", "num": 2}]
    assert set(stage["dims"][0]) == {"kind", "where", "values", "names"}
    assert set(data["not_elastic"][0]) == {"kind", "where", "reason", "names"}
    assert set(data["smallest"]) == set(data["largest"]) == {"macs", "params"}


# -- without weights ---------------------------------------------------------------------------------------------------


def test_a_billion_parameters_take_no_memory() -> None:
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    supernet = create_without_weights("vit_giant_patch14_224")
    inspection = inspect(supernet)
    grown_bytes = unit_bytes * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    tensors = [*supernet.model.parameters(), *supernet.model.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    assert inspection.largest.params > 10**9
    assert grown_bytes < 10**9  # the weights would take four times as much
    assert torch.empty(1).device.type == "cpu"  # the context is left


def test_weights_are_left_alone(tiny: Supernet) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    inspect(tiny.train())
    assert tiny.model.training
    for name, tensor in tiny.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_options_reach_the_model() -> None:
    supernet = create_without_weights("resnet18", num_classes=7, in_chans=1, depth=[1, 2])
    weights = dict(supernet.model.named_parameters())
    assert (len(weights["fc.weight"]), weights["conv1.weight"].shape[1]) == (7, 1)
    assert [stage.depths for stage in inspect(supernet).stages] == [(1, 2)] * 4


# -- folding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "b3"), ([0, 1], "b0-1"), ([2, 0, 3], "b0,2-3"), ([0, 2, 4], "b0,2,4"), (range(12), "b0-11")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges("b", numbers) == text


def told(dims: list[Dim], num_blocks: int) -> list[tuple[str, str, tuple[object, ...]]]:
    return [(entry.kind, entry.where, entry.values) for entry in fold_dims(dims, num_blocks=num_blocks)]


def test_equal_blocks_are_folded() -> None:
    kernels = {0: (3, 5), 1: (3, 5, 7), 2: (3, 5), 3: (3, 5)}
    dims = [Dim(f"stage1.block{j}.kernel", values) for j, values in kernels.items()]
    dims += [Dim(f"stage1.block{j}.expand", (3, 6)) for j in range(4)]
    assert told(dims, 4) == [
        ("kernel", "block0,2-3", (3, 5)),
        ("kernel", "block1", (3, 5, 7)),
        ("expand", "", (3, 6)),
    ]


def test_a_block_without_the_dim_is_not_told_of() -> None:
    assert told([Dim(f"stage1.block{j}.heads", (1, 2)) for j in (1, 2)], 3) == [("heads", "block1-2", (1, 2))]


def test_widths_beside_each_other_are_told_apart() -> None:
    widths = {"": (8, 16), "1": (24, 32), "2": (24, 32), "3": (8, 16)}
    dims = [Dim(f"stage1.width{number}", values) for number, values in widths.items()]
    assert told(dims, 6) == [("width", "width,width3", (8, 16)), ("width", "width1-2", (24, 32))]
    assert told(dims[:1], 6) == [("width", "", (8, 16))]


def test_notes_of_one_reason_are_folded() -> None:
    notes = {
        **{f"stage{i}.block{j}.kernel": "small" for i in (0, 1, 3) for j in range(2)},
        **{f"stage2.block{j}.kernel": "small" for j in (0, 2)},
        "stage2.block1.kernel": "even",
        "head.width": "not asked for",
        "stage0.width": "not asked for",
        "stage0.width1": "not asked for",
        "stem.width": "not asked for",
        "stage0.block0.heads": "shape 12 is not 13",
        "stage1.block1.heads": "shape 7 is not 9",
        "resolution": "some only",
    }
    folded = fold_notes(notes, {"stage0": 2, "stage1": 2, "stage2": 3, "stage3": 2})
    assert [(entry.kind, entry.where, entry.reason) for entry in folded] == [
        ("kernel", "stage0-1,3, stage2.block0,2", "small"),
        ("kernel", "stage2.block1", "even"),
        ("width", "stem, stage0, head", "not asked for"),
        ("heads", "stage0.block0, stage1.block1", "shape 12 is not 13"),
        ("resolution", "", "some only"),
    ]
    assert [name for entry in folded for name in entry.names] == list(notes)
