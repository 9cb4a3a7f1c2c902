"""Places where one of several layers stands: what they compute and cost, and what else varies beside them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from timm.models._efficientnet_blocks import EdgeResidual, InvertedResidual
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ofa.cost import macs, params, peak_activation_bytes
from ofa.deploy.elastic_weights import WeightMap
from ofa.errors import UsageError
from ofa.formats.onnx import export_for_timing
from ofa.nn.layer_choice import LayerChoice
from ofa.space import Arch, SpaceError
from ofa.supernet import Supernet, elasticize
from tests.cost.memory_plan import plan_onnx

from .helpers import make_images, randomise


def either(channels: int, out: int, stride: int, **more: nn.Module) -> LayerChoice:
    """Depthwise or plain, as MobileDets are."""
    depthwise = InvertedResidual(channels, out, 5, stride, exp_ratio=4)
    return LayerChoice({**more, "depthwise": depthwise, "plain": EdgeResidual(channels, out, 3, stride, exp_ratio=4)})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        first = nn.Sequential(either(16, 24, 2), either(24, 24, 1), either(24, 24, 1, nothing=nn.Identity()))
        self.stages = nn.Sequential(first, nn.Sequential(either(24, 40, 2), either(40, 40, 1)))
        self.head = nn.Linear(40, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(images)).mean((2, 3)))


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    net = Net()
    randomise(net, size=64)
    return elasticize(net.eval(), torch.zeros(1, 3, 64, 64), resolution=[48, 64]).eval()


def archs_of(supernet: Supernet, num: int = 6) -> list[Arch]:
    rng = np.random.default_rng(0)
    return [supernet.space.largest(), supernet.space.smallest(), *(supernet.space.sample(rng) for _ in range(num))]


def chosen(arch: Arch) -> list[str]:
    return [str(value) for name, value in arch.items() if name.endswith("choice")]


def test_what_varies(supernet: Supernet) -> None:
    space = supernet.space
    assert space["stage0.block0.choice"].values == ("depthwise", "plain")
    assert space["stage0.block2.choice"].values == ("nothing", "depthwise", "plain")
    assert space["stage0.block2.choice"].requires == ("stage0.depth", (3,))
    assert not space["stage0.block0.choice"].ordered
    kinds = {dim.name.rpartition(".")[2] for dim in space.dims}
    assert kinds == {"resolution", "depth", "choice", "kernel", "expand"}


@torch.no_grad()
def test_the_largest_is_the_model_and_others_are_what_they_extract_to(supernet: Supernet) -> None:
    images = make_images(supernet, supernet.space.largest())
    assert torch.equal(supernet(images, supernet.space.largest()), supernet.model(images))
    for arch in archs_of(supernet):
        subnet, images = supernet.extract(arch), make_images(supernet, arch)
        assert torch.equal(subnet(images), supernet(images, arch))
        standing = [[*module._modules] for module in subnet.modules() if isinstance(module, LayerChoice)]
        assert standing == [[name] for name in chosen(arch)]


def test_costs_are_those_of_the_extracted(supernet: Supernet) -> None:
    peak = peak_activation_bytes(supernet, bytes_per_activation=1)
    for arch in archs_of(supernet):
        subnet, shape = supernet.extract(arch), supernet.input_shape(arch)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subnet(torch.zeros(1, *shape))
        assert 2 * macs(supernet).predict(arch)[0] == counter.get_total_flops()
        assert params(supernet).predict(arch)[0] == sum(each.numel() for each in subnet.parameters())
        assert peak.predict(arch)[0] == plan_onnx(export_for_timing(subnet, shape), bytes_per_element=1).arena_bytes


def test_a_part_is_what_stands_there(supernet: Supernet) -> None:
    slot = next(slot for slot in supernet.slots if slot.name == "stage0.block2")
    arch = supernet.space.largest()
    keys = {}
    for name in ("nothing", "depthwise", "plain"):
        of = {**arch, "stage0.block2.choice": name}
        keys[name] = slot.keys[tuple(supernet.space[dim].values.index(of[dim]) for dim in slot.dims)]
        module = supernet.part(keys[name]).module
        extracted = supernet.extract(of).get_submodule("stages.0.2")
        shapes = ({n: t.shape for n, t in each.state_dict().items()} for each in (module, extracted))
        assert next(shapes) == next(shapes)  # weights may be those of a place that is alike
    assert len(set(keys.values())) == 3


@torch.no_grad()
def test_a_runtime_computes_the_same(supernet: Supernet) -> None:
    arch = supernet.space.arch({**supernet.space.smallest(), "stage0.block1.choice": "plain"})
    subnet, images = supernet.extract(arch), make_images(supernet, arch, num=1)
    graph = export_for_timing(subnet, supernet.input_shape(arch))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), subnet(images), atol=1e-5, rtol=1e-5)


def test_elastic_artefacts_find_its_weights(supernet: Supernet) -> None:
    own, weight_map = supernet.model.state_dict(), WeightMap(supernet)
    for arch in archs_of(supernet, 3):
        parts, tensors = weight_map.parts(weight_map.structure(arch)), dict(supernet.extract(arch).named_parameters())
        assert parts.keys() == tensors.keys()
        assert all(torch.equal(part.take(own[name]), tensors[name]) for name, part in parts.items())


def test_training_moves_what_was_chosen_alone() -> None:
    supernet = elasticize(Net(), torch.zeros(1, 3, 32, 32), resolution=[32])
    arch = {**supernet.space.largest(), "stage0.block0.choice": "depthwise"}
    supernet(torch.randn(2, 3, 32, 32), arch).sum().backward()
    first = supernet.model.get_submodule("stages.0.0")
    gradients = {name: {p.grad is not None for p in child.parameters()} for name, child in first.named_children()}
    assert gradients == {"depthwise": {True}, "plain": {False}}


def test_blocks_go_only_where_every_candidate_has_a_shortcut() -> None:
    def net(last: nn.Module) -> nn.Module:
        blocks = [LayerChoice({"a": InvertedResidual(8, 8, 3), "b": last}) for last in (EdgeResidual(8, 8), last)]
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    for last, values in ((EdgeResidual(8, 8), (1, 2)), (nn.Conv2d(8, 8, 3, padding=1), None)):
        space = elasticize(net(last), torch.zeros(1, 3, 16, 16), resolution=[16]).space
        assert (space["stage0.depth"].values if "stage0.depth" in space.names else None) == values


class Cell(nn.Module):
    """Three edges between three nodes, as cells of tabular benchmarks have them, and no block of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.edges = nn.ModuleList(
            LayerChoice({"skip": nn.Identity(), "pool": nn.AvgPool2d(3, 1, 1), "conv": nn.Conv2d(8, 8, 3, padding=1)})
            for _ in range(3)
        )

    def forward(self, images: Tensor) -> Tensor:
        first = self.stem(images)
        second = self.edges[0](first)
        return (self.edges[1](first) + self.edges[2](second)).mean((2, 3))


@torch.no_grad()
def test_the_edges_of_a_cell() -> None:
    supernet = elasticize(Cell().eval(), torch.zeros(1, 3, 16, 16), resolution=[16]).eval()
    choices = [dim for dim in supernet.space.dims if ".choice" in dim.name]
    assert len(choices) == 3 and supernet.space.num_archs == 27
    cost, costs = macs(supernet), set()
    for arch in supernet.space.to_archs(supernet.space.every()):
        subnet = supernet.extract(arch)
        images = torch.randn(1, 3, 16, 16)
        assert torch.equal(subnet(images), supernet(images, arch))
        convolutions = [child for child in subnet.modules() if isinstance(child, nn.Conv2d)]
        expected = sum(child.weight.numel() for child in convolutions) * 16 * 16
        assert cost.predict(arch)[0] == expected
        costs.add(expected)
    assert len(costs) == 4


class Branches(nn.Module):
    """Two choices in one block."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = LayerChoice({"small": nn.Conv2d(8, 8, 1), "large": nn.Conv2d(8, 8, 5, padding=2)})
        self.act = LayerChoice({"relu": nn.ReLU(), "hard": nn.Hardswish()})

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.spatial(x))


def test_several_in_one_block() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(Branches(), Branches()), nn.Flatten(), nn.Linear(512, 4))
    supernet = elasticize(net.eval(), torch.zeros(1, 3, 8, 8), resolution=[8]).eval()
    names = [dim.name for dim in supernet.space.dims if "choice" in dim.name]
    assert names == [f"stage0.block{block}.{name}" for block in (0, 1) for name in ("choice", "choice1")]
    arch = {**supernet.space.largest(), "stage0.block1.choice": "small", "stage0.block1.choice1": "relu"}
    branches = supernet.extract(arch).get_submodule("1.1")
    assert [*branches.spatial._modules, *branches.act._modules] == ["small", "relu"]  # type: ignore[union-attr]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="two candidates or more, not 1"):
        LayerChoice({"one": nn.Identity()})
    with pytest.raises(UsageError, match="candidate 'b' holds a LayerChoice of its own"):
        LayerChoice({"a": nn.Identity(), "b": nn.Sequential(either(8, 8, 1))})
    with pytest.raises(SpaceError, match="leave 'choice' out"):
        elasticize(Net(), torch.zeros(1, 3, 32, 32), choice=["plain"])
