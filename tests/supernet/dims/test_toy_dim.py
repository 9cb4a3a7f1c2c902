"""A new kind of elastic dim is one class and one line in ``DIM_KINDS``: everything else follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import ofa.cli
from ofa.config import ConfigError
from ofa.nn.conv import kernel_is_elastic
from ofa.report.drawing import describe_blocks
from ofa.space import SpaceError, Value
from ofa.supernet import Supernet, create_supernet, sort_channels
from ofa.supernet.choices import Allowed, Choices, amounts
from ofa.supernet.dims import DIM_KINDS, ElasticDim, Narrowing
from ofa.supernet.dims.inner_width import is_pooled
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.inspect import inspect
from ofa.supernet.stages import is_within
from ofa.training import Recipe, build_supernet, load_recipe

from ..helpers import make_images, randomise


@dataclass(frozen=True)
class ElasticSqueeze(ElasticDim):
    """Share of a squeeze-excite's bottleneck, of what the expand ratio leaves of it."""

    kind = "squeeze"

    @classmethod
    def find(
        cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Mapping[str, ElasticDim]
    ) -> list[ElasticDim]:
        dims: list[ElasticDim] = []
        for block in analysis.all_blocks():
            members = tuple(group for group in analysis.inside[block.name] if is_pooled(analysis, block, group))
            if members:
                shares = amounts(choices.at(cls.kind, block.name) or ("50%",), 1)
                values = (*(share for share in shares if share < 1), 1)
                dims.append(cls(f"{block.name}.squeeze", values, members=members))
            else:
                analysis.notes[f"{block.name}.squeeze"] = "no squeeze-excite"
        return dims

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        share = float(arch.get(self.name, 1))
        for group in self.members if share < 1 else ():
            left = narrowing.units.get(group.number, group.num_units)
            narrowing.units[group.number] = max(1, round(share * left))

    def sizes(self, narrowing: Narrowing) -> Mapping[str, int]:
        return {"squeeze": narrowing.units.get(self.members[0].number, self.members[0].num_units)}


@dataclass(frozen=True)
class ElasticWindow(ElasticDim):
    """One kernel size for all blocks of a stage."""

    kind = "window"
    scope = "stage"
    allowed = Allowed(whole=True, odd=True)

    convolutions: tuple[tuple[str, int], ...]

    @classmethod
    def find(
        cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Mapping[str, ElasticDim]
    ) -> list[ElasticDim]:
        dims: list[ElasticDim] = []
        for name, blocks in analysis.stages:
            convolutions = tuple(
                (path, max(module.kernel_size))
                for path, module in analysis.modules.items()
                if isinstance(module, nn.Conv2d) and kernel_is_elastic(module)
                if any(is_within(path, block.path) for block in blocks)
            )
            if convolutions:
                own = max(size for _, size in convolutions)
                sizes = map(int, choices.at(cls.kind, name) or (3,))
                dims.append(cls(f"{name}.window", (*(size for size in sizes if size < own), own), convolutions))
        return dims

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        for path, size in self.convolutions:
            if (smaller := int(arch.get(self.name, size))) < size:
                narrowing.kernels[path] = smaller


TOYS: dict[str, type[ElasticDim]] = {"squeeze": ElasticSqueeze, "window": ElasticWindow}
STAGES = {"squeeze": (2, 3, 4), "window": (1, 2, 3, 4)}
CHOICES = {"squeeze": [0.25, 0.5], "window": [3]}


@pytest.fixture(params=TOYS)
def toy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a kind that is there for one test: the line in the registry."""
    name: str = request.param
    monkeypatch.setitem(DIM_KINDS, name, TOYS[name])
    return name


@pytest.fixture
def supernet(toy: str) -> Supernet:
    """Beside expand ratios and depths; there is one kind for kernels at a time."""
    kernel = ["100%"] if toy == "window" else [3, 5]
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10, kernel=kernel, **{toy: CHOICES[toy]})
    randomise(supernet.model, size=32)
    return supernet.eval()


def dims_of(supernet: Supernet, toy: str) -> list[str]:
    return [dim.name for dim in supernet.space.dims if dim.name.endswith(f".{toy}")]


def test_models_are_elastic_in_it(toy: str, supernet: Supernet) -> None:
    names = dims_of(supernet, toy)
    if toy == "squeeze":
        assert names == [f"stage{i}.block{j}.squeeze" for i in STAGES[toy] for j in range(3)]
    else:
        assert names == [f"stage{i}.window" for i in STAGES[toy]]
    assert supernet.space[names[0]].values == (*CHOICES[toy], 1 if toy == "squeeze" else 5)
    if toy == "squeeze":
        assert supernet.space["stage2.block2.squeeze"].requires == ("stage2.depth", (3,))


def test_its_choices_are_checked_by_name(toy: str) -> None:
    misspelt = toy[:-1]
    with pytest.raises(SpaceError, match=f"unknown elastic choice '{misspelt}'; did you mean '{toy}'"):
        create_supernet("ofa_mobilenetv3_tiny", **{misspelt: [3]})
    with pytest.raises(SpaceError, match=f"choices of '{toy}' must be a list of positive numbers"):
        create_supernet("ofa_mobilenetv3_tiny", **{toy: []})
    with pytest.raises(SpaceError, match="unknown stage in choices of"):
        create_supernet("ofa_mobilenetv3_tiny", **{toy: {"stag1": [3]}})


def test_subnets_are_extracted_and_counted(toy: str, supernet: Supernet) -> None:
    space, rng = supernet.space, np.random.default_rng(0)
    tables = {cost: supernet.factors(cost) for cost in ("macs", "params")}
    for arch in [space.smallest(), *(space.sample(rng) for _ in range(5))]:
        extracted, images = supernet.extract(arch), make_images(supernet, arch)
        with torch.no_grad():
            torch.testing.assert_close(extracted(images), supernet(images, arch))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            extracted(images[:1])
        row = space.to_population(arch)[0]
        counted = {
            "macs": counter.get_total_flops() / 2,
            "params": sum(parameter.numel() for parameter in extracted.parameters()),
        }
        for cost, factors in tables.items():
            predicted = sum(table[tuple(row[[space.column(name) for name in dims]])] for dims, table in factors)
            assert predicted == counted[cost]


def test_each_of_its_values_is_a_subnet_of_its_own(toy: str, supernet: Supernet) -> None:
    largest = supernet.space.largest()
    images = make_images(supernet, largest)
    with torch.no_grad():
        whole = supernet(images, largest)
        for name in dims_of(supernet, toy):
            narrow = supernet.space.arch({**largest, name: CHOICES[toy][0]})
            assert not torch.allclose(supernet(images, narrow), whole)


def test_parts_tell_its_values_apart(toy: str, supernet: Supernet) -> None:
    slot = next(slot for slot in supernet.slots if slot.name == "stage2.block0")
    name = next(name for name in slot.dims if name.endswith(toy))
    assert len(set(slot.keys[0].ravel())) == np.prod([len(supernet.space[dim].values) for dim in slot.dims[1:]])
    axis = slot.dims.index(name)
    smallest, largest = (slot.keys.take(index, axis).ravel()[-1] for index in (0, -1))
    parts = [supernet.part(key) for key in (smallest, largest)]
    shown = "squeeze" if toy == "squeeze" else "kernel"
    assert [part.fields[shown] for part in parts] == ([4, 16] if toy == "squeeze" else [3, 5])
    for part in parts:
        assert part.module(torch.randn(1, *part.input_shape)).isfinite().all()


def test_sorting_changes_nothing(supernet: Supernet) -> None:
    largest = supernet.space.largest()
    images = make_images(supernet, largest)
    with torch.no_grad():
        before = supernet(images, largest)
        sort_channels(supernet)
        torch.testing.assert_close(supernet(images, largest), before, atol=1e-4, rtol=1e-4)


def test_recipes_hold_it(toy: str) -> None:
    recipe = load_recipe("demo", [f"model.{toy}={CHOICES[toy]}", "model.kernel=['100%']"])
    stored = json.loads(json.dumps(recipe.to_json()))
    assert stored["model"][toy] == CHOICES[toy] and stored["model"]["width"] is None
    assert Recipe.from_json(stored, where="test") == recipe
    assert dims_of(build_supernet(recipe.model, num_classes=10), toy)
    with pytest.raises(ConfigError, match=f"unknown key '{toy}s'; did you mean '{toy}'"):
        load_recipe("demo", [f"model.{toy}s=[3]"])


def test_recipes_of_before_are_read(toy: str) -> None:
    stored = load_recipe("demo").to_json()
    del stored["model"][toy]
    assert toy not in Recipe.from_json(stored, where="test").model.choices()


def test_it_can_be_inspected(toy: str, supernet: Supernet) -> None:
    stage = inspect(supernet).stages[2]
    assert [(dims.kind, dims.where) for dims in stage.dims if dims.kind == toy] == [(toy, "")]
    words = ["inspect", "ofa_mobilenetv3_tiny", f"{toy}={CHOICES[toy]}", "kernel=['100%']", "--json"]
    result = CliRunner().invoke(ofa.cli.app, words)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert toy in {dims["kind"] for dims in found["stages"][2]["dims"]}
    if toy == "squeeze":
        assert (toy, "no squeeze-excite") in {(entry["kind"], entry["reason"]) for entry in found["not_elastic"]}


def test_the_report_says_it(toy: str, supernet: Supernet) -> None:
    if toy == "squeeze":  # as of widths, the report says nothing of what a whole stage has
        assert "expand 2 squeeze 0.25" in describe_blocks(supernet.space, supernet.space.smallest())
