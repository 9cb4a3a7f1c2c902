"""A larger supernet that begins from a smaller trained one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ofa import workflow
from ofa.config import ConfigError
from ofa.errors import OfaError
from ofa.files import FileFormatError
from ofa.space import Arch, SpaceError
from ofa.supernet import Supernet, create_supernet, elasticize, grow, grown_arch
from ofa.supernet.growth import GrowthError, _line
from ofa.supernet.presets import OFA_MOBILENETV3_TINY, _mobilenetv3
from ofa.tasks import Classification
from ofa.training import Run, RunError, load_recipe, train

from .helpers import randomise

SMALL_STAGES = [text.replace("r3", "r2").replace("e4", "e2").replace("k5", "k3") for text in OFA_MOBILENETV3_TINY]


def on_images(model: nn.Module, size: int, **choices: Any) -> Supernet:
    return elasticize(model, torch.empty(1, 3, size, size, device="meta"), **{"resolution": [size], **choices})


def small_mobilenet(**options: Any) -> Supernet:
    model = _mobilenetv3(SMALL_STAGES, features=256, num_classes=10)
    return on_images(model, 32, depth=[1, 2], expand=[1, 2], resolution=[20, 32], **options)


def large_mobilenet(**options: Any) -> Supernet:
    choices = {"depth": [1, 2, 3], "kernel": [3, 5], "expand": [1, 2, 3, 4]} | options
    return create_supernet("ofa_mobilenetv3_tiny", **{"num_classes": 10, **choices})


def resnet(channels: tuple[int, ...], layers: tuple[int, ...], **choices: Any) -> Supernet:
    return on_images(ResNet(BasicBlock, layers, num_classes=10, channels=channels), 64, **choices)


def small_resnet() -> Supernet:
    return resnet((16, 32, 64, 64), (1, 2, 2, 2), width=["50%", "100%"], expand=["50%", "100%"])


def large_resnet(**options: Any) -> Supernet:
    choices = {"width": ["25%", "50%", "100%"], "depth": [1, 2, 3], "expand": ["25%", "50%", "100%"]} | options
    return resnet((32, 64, 64, 128), (2, 3, 2, 2), **choices)


def vit(dim: int, num_heads: int, num_blocks: int, ratio: float, **choices: Any) -> Supernet:
    model = VisionTransformer(32, 8, 3, 10, embed_dim=dim, num_heads=num_heads, depth=num_blocks, mlp_ratio=ratio)
    return on_images(model, 32, **choices)


def small_vit() -> Supernet:
    return vit(32, 2, 3, 2, depth=[2, 3], width=[16, 32])


def large_vit(**options: Any) -> Supernet:
    choices: dict[str, Any] = {"depth": [2, 3, 4], "heads": [1, 2, 4], "mlp_ratio": [1, 1.5, 2, 4]} | options
    return vit(64, 4, 4, 4, width=[16, 32, 64], **choices)


def deeper_vit() -> Supernet:
    return vit(32, 2, 5, 4, depth=[2, 3, 4, 5], mlp_ratio=[1, 1.5, 2, 4], width=[16, 32])


FAMILIES: dict[str, tuple[Callable[[], Supernet], Callable[[], Supernet], bool]] = {
    "mobilenet": (small_mobilenet, large_mobilenet, True),
    "mobilenet with kernel transforms": (
        lambda: large_mobilenet(kernel_transforms=True, resolution=[20, 32]),
        lambda: large_mobilenet(kernel_transforms=True),
        True,
    ),
    "resnet": (small_resnet, large_resnet, True),
    "vit": (small_vit, large_vit, False),  # layer normalisation is over the wider stream
    "deeper vit": (small_vit, deeper_vit, True),
    "resnet 18 and 34": (
        lambda: on_images(timm.create_model("resnet18", num_classes=10), 64),
        lambda: on_images(timm.create_model("resnet34", num_classes=10), 64, depth=[1, 2, 3, 4, 5, 6]),
        True,
    ),
    "edsr": (
        lambda: create_supernet("edsr_tiny", num_classes=3, width=[16, 32]),
        lambda: create_supernet("edsr", num_classes=3, width=[16, 32, 64], depth=[2, 4, 6, 8, 16]),
        True,
    ),
}
"""Smaller and larger supernet, and whether the largest of both compute the same once the larger one has grown."""


def trained(make: Callable[[], Supernet], size: int = 32) -> Supernet:
    """As if it had been trained: with weights and statistics that are not those of a fresh one, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        supernet = make()
        randomise(supernet.model, size=size)
        for name, parameter in supernet.model.named_parameters():
            if parameter.ndim == 1 and "bias" in name:
                nn.init.normal_(parameter, std=0.1)
    return supernet.double().eval()


def fresh(make: Callable[[], Supernet]) -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return make().double().eval()


@torch.no_grad()
def outputs(supernet: Supernet, arch: Arch | dict[str, Any]) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = supernet.input_shape(arch)
    return supernet(torch.randn(2, *shape, generator=generator, dtype=torch.float64), arch)


def largest_for(old: Supernet, new: Supernet) -> dict[str, Any]:
    """The largest of the larger, at the resolution of the largest of the smaller."""
    return {**new.space.largest(), "resolution": old.space.largest()["resolution"]}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_old_architecture_computes_what_it_did(name: str) -> None:
    make_old, make_new, is_preserved = FAMILIES[name]
    old, new = trained(make_old), fresh(make_new)
    before = {key: tensor.clone() for key, tensor in old.state_dict().items()}
    grow(old, new)
    assert new.space.num_archs > old.space.num_archs
    drawn = old.space.to_archs(old.space.sample_population(20, np.random.default_rng(0)))
    for arch in [old.space.largest(), old.space.smallest(), *drawn]:
        grown = grown_arch(old, new, arch)
        assert grown["resolution"] == arch["resolution"]
        torch.testing.assert_close(outputs(new, grown), outputs(old, arch), atol=1e-10, rtol=1e-10)
    largest = outputs(new, largest_for(old, new))
    if is_preserved:
        torch.testing.assert_close(largest, outputs(old, old.space.largest()), atol=1e-10, rtol=1e-10)
    else:
        assert not torch.allclose(largest, outputs(old, old.space.largest()), atol=1e-3)
    assert all(torch.equal(tensor, before[key]) for key, tensor in old.state_dict().items())


def test_what_is_extracted_is_the_same_network() -> None:
    old, new = trained(small_mobilenet), fresh(large_mobilenet)
    grow(old, new)
    arch = old.space.sample(np.random.default_rng(1))
    before, after = (old.extract(arch), new.extract(grown_arch(old, new, arch)))
    expected = dict(before.state_dict())
    assert {name: tensor.shape for name, tensor in after.state_dict().items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    assert all(torch.equal(tensor, expected[name]) for name, tensor in after.state_dict().items())


@pytest.mark.parametrize("name", ["mobilenet", "resnet", "deeper vit"])
def test_what_is_new_learns(name: str) -> None:
    """Nothing is 0 on both sides: two steps reach every weight of the larger model that a fresh one's reach."""
    make_old, make_new, _ = FAMILIES[name]
    old, new = trained(make_old), fresh(make_new)
    grow(old, new)
    new.train()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimizer = torch.optim.SGD(new.model.parameters(), lr=0.01)
    reached = {name: torch.zeros_like(parameter) for name, parameter in new.model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        new.model(images).square().sum().backward()
        for name, parameter in new.model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            reached[name] += parameter.grad.abs()
        optimizer.step()
    for name, total in reached.items():
        rows = total.flatten(1).sum(1) if total.ndim > 1 else total
        # A bias that normalisation takes away again, and channels that ReLU keeps silent, get none.
        assert (rows > 0).double().mean() > 0.25 or (name.endswith("bias") and "conv" in name), name


def test_ratios_keep_their_value_and_widths_are_new_ones() -> None:
    old, new = trained(small_resnet), fresh(large_resnet)
    arch = old.space.arch({**old.space.largest(), "stage1.block1.expand": 0.5, "stage1.width": 16})
    grown = grown_arch(old, new, arch)
    assert (grown["stage1.block1.expand"], grown["stage1.width"], grown["stage1.depth"]) == (0.5, 16, 2)
    assert (grown["stem.width"], grown["stage3.width"]) == (64, 64)
    assert "stage1.block2.expand" not in grown


def test_growing_twice_is_growing_once() -> None:
    old, middle, new = trained(small_vit), fresh(deeper_vit), fresh(large_vit_of_five)
    grow(old, middle)
    grow(middle, new)
    for arch in (old.space.largest(), old.space.smallest()):
        twice = grown_arch(middle, new, grown_arch(old, middle, arch))
        assert twice == grown_arch(old, new, arch)
        torch.testing.assert_close(outputs(new, twice), outputs(old, arch), atol=1e-10, rtol=1e-10)


def large_vit_of_five() -> Supernet:
    return vit(64, 4, 5, 4, depth=[2, 3, 4, 5], heads=[1, 2, 4], mlp_ratio=[0.75, 1, 1.5, 2, 4], width=[16, 32, 64])


def test_a_run_of_one_subnet_is_its_weights_alone() -> None:
    """As `ofa finetune` leaves: the space is one architecture, and what else tensors hold is no part."""
    old, new = trained(large_mobilenet), fresh(large_mobilenet)
    arch = old.space.smallest()
    expected = outputs(old, arch)
    old.restrict_to(arch)
    grow(old, new)
    torch.testing.assert_close(outputs(new, grown_arch(old, new, arch)), expected, atol=1e-10, rtol=1e-10)
    largest = {**new.space.largest(), "resolution": arch["resolution"]}
    torch.testing.assert_close(outputs(new, largest), expected, atol=1e-10, rtol=1e-10)


# -- a line through the blocks ---------------------------------------------------------------------------------------


def test_blocks_on_a_line() -> None:
    """By hand: blocks 1, 2, 3 of three at 1/3, 2/3, 1; six blocks at 1/6 ... 1."""
    values = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 3.0]])
    (first, second) = _line(values, 6).T
    torch.testing.assert_close(first, torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0]))
    slope, offset = np.polyfit([1 / 3, 2 / 3, 1], [0, 0, 3], 1)
    expected = torch.tensor([offset + slope * position / 6 for position in range(1, 7)], dtype=torch.float32)
    torch.testing.assert_close(second, expected)
    assert _line(torch.tensor([3, 3]), 4).tolist() == [3, 3, 3, 3]


def test_linear_growth_sets_every_block_of_a_deeper_stage_and_no_more() -> None:
    old, new = trained(small_vit), fresh(deeper_vit)
    grow(old, new, init="linear")
    name = "blocks.{}.mlp.fc1.weight"
    blocks = torch.stack([old.model.get_parameter(name.format(number)) for number in range(3)]).detach()
    expected = _line(blocks, 5)
    for number in range(5):
        weight = new.model.get_parameter(name.format(number))
        torch.testing.assert_close(weight[:64].detach(), expected[number])  # of hidden units that were there
        assert not new.model.get_parameter(f"blocks.{number}.mlp.fc2.weight")[:, 64:].any()
    torch.testing.assert_close(new.model.get_parameter("head.weight"), old.model.get_parameter("head.weight"))
    before = outputs(old, old.space.largest())
    assert not torch.allclose(outputs(new, grown_arch(old, new, old.space.largest())), before, atol=1e-3)


def test_a_line_needs_blocks_of_its_kind() -> None:
    with pytest.raises(GrowthError, match=r"stage\d has batch normalisation, whose statistics .*`preserving`"):
        grow(trained(small_mobilenet), fresh(large_mobilenet), init="linear")
    short = vit(32, 2, 1, 2, mlp_ratio=[1, 2])
    with pytest.raises(GrowthError, match="stage0 has 1 block to fit a line to, which takes two"):
        grow(short, vit(32, 2, 3, 2, depth=[1, 2, 3], mlp_ratio=[1, 2]), init="linear")
    with pytest.raises(GrowthError, match="no stage is deeper than before"):
        grow(small_vit(), vit(32, 2, 3, 4, depth=[2, 3], mlp_ratio=[1, 1.5, 2, 4], width=[16, 32]), init="linear")


# -- what cannot grow ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"expand": [2, 3, 4]}, r"block0\.expand is 1 there, and one of \[2, 3, 4\] here; pass expand=\[1, 2, 3, 4\]"),
        ({"kernel": ["100%"]}, r"stage1\.block0\.kernel is 3 there, and one of \[5\] here; pass kernel=\[3, 5\]"),
        ({"depth": [2, 3]}, r"stage1\.depth is 1 there, and one of \[2, 3\] here; pass depth=\[1, 2, 3\]"),
        ({"depth": [1, 3]}, r"stage1\.depth is 2 there, and one of \[1, 3\] here; pass depth=\[1, 2, 3\]"),
        (
            {"resolution": [24, 32]},
            r"resolution is 20 there, and one of \[24, 32\] here; pass resolution=\[20, 24, 32\]",
        ),
    ],
)
def test_a_space_that_lacks_something_says_what_to_pass(choices: dict[str, Any], message: str) -> None:
    new = large_mobilenet(**choices)
    before = copy.deepcopy(new.state_dict())
    with pytest.raises(SpaceError, match="the space does not hold the smaller one: .*" + message):
        grow(small_mobilenet(), new)
    assert all(torch.equal(tensor, before[name]) for name, tensor in new.state_dict().items())


def test_widths_are_asked_for_by_stage() -> None:
    wanted = (
        r"stage0\.width is 16 there, and one of \[32\] here; pass width=\{stem: \[32, 64\], stage0: \[8, 16, 32\], "
    )
    with pytest.raises(SpaceError, match=wanted):
        grow(small_resnet(), large_resnet(width=None))


def test_a_ratio_of_a_width_that_varies_is_another_size() -> None:
    old = resnet((16, 32, 64, 64), (1, 2, 2, 2), width=["50%", "100%"], expand=["100%"])
    with pytest.raises(SpaceError, match=r"expand=1 is another size there than here in \{.*let expand, and what it"):
        grow(old, large_resnet())


def test_channels_that_do_not_vary_are_named() -> None:
    small, large = (
        on_images(ResNet(BasicBlock, layers, num_classes=10, channels=channels), 32, **choices)
        for layers, channels, choices in (
            ((1, 1, 1, 1), (16, 32, 64, 64), {"expand": ["50%", "100%"]}),
            ((1, 1, 1, 1), (16, 32, 64, 128), {"width": {"stage3": [64, 128]}, "expand": ["50%", "100%"]}),
        )
    )
    with pytest.raises(
        SpaceError, match=r"'layer4\.0\.conv1\.weight' has 64 units there and 128 here, where they do not"
    ):
        grow(small, large)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (large_resnet, "this ResNet is not a larger one of the family of that MobileNetV3: 'the model' is MobileNetV3"),
        (lambda: large_mobilenet(num_classes=12), r"'classifier.weight' is \(10, 256\) there, and \(12, 256\) in the"),
        (
            lambda: on_images(_mobilenetv3(SMALL_STAGES[:-1], num_classes=10), 32),
            r"'blocks\.5' is Sequential there and no",
        ),
    ],
)
def test_others_are_refused(other: Callable[[], Supernet], message: str) -> None:
    with pytest.raises((GrowthError, SpaceError), match=message):
        grow(small_mobilenet(), other())


def test_one_head_has_no_counterpart_among_several() -> None:
    with pytest.raises(GrowthError, match=r"there is no stage0\.block0\.heads there"):
        grow(vit(16, 1, 2, 2, depth=[1, 2]), vit(32, 2, 2, 2, depth=[1, 2], heads=[1, 2], width=[16, 32]))


def test_kernel_transforms_need_a_place() -> None:
    with pytest.raises(GrowthError, match="kernel_transform_5to3' is missing here; pass kernel_transforms=True"):
        grow(large_mobilenet(kernel_transforms=True), large_mobilenet())


def test_other_settings_of_layers_are_found_out() -> None:
    old, new = trained(small_vit), fresh(deeper_vit)
    for module in new.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1.0
    with pytest.raises(GrowthError, match="the same weights compute something else"):
        grow(old, new)


# -- a run that begins from a smaller one ----------------------------------------------------------------------------

NETS = """
from timm.models.resnet import BasicBlock, ResNet


def small(num_classes, in_chans=3):
    return ResNet(BasicBlock, (1, 2, 1, 1), num_classes, in_chans, output_stride=8, channels=(8, 16, 16, 16))


def large(num_classes, in_chans=3):
    return ResNet(BasicBlock, (2, 3, 1, 1), num_classes, in_chans, output_stride=8, channels=(8, 16, 16, 16))
"""
SHORT = [
    *(
        "train.epochs=1",
        "train.batch_size=32",
        "train.warmup_epochs=0",
        "train.device=cpu",
        "train.eval_every_epochs=0",
    ),
    *("strategy.sampler.num_random=1", "data.limit=96", "data.search_share=32", "data.calibration_share=64"),
    *("model.resolution=[16, 20]", 'model.expand=["50%", "100%"]'),
]
LARGE = ["model.name=nets.py:large", "model.depth=[1, 2, 3]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run, and the networks that it is of."""
    folder = tmp_path_factory.mktemp("growth")
    (folder / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(load_recipe("demo", [*SHORT, "model.name=nets.py:small", "data.mean=[0.4]", "data.std=[0.3]"]), "small")
    return folder


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **kwargs: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(Classification, "load", load)


def test_a_run_grows_from_a_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    # At this learning rate nothing is learnt: what is left is what it began from.
    words = [*SHORT, *LARGE, "model.grow_from=small", "train.learning_rate=1e-12", "train.weight_decay=0"]
    run = workflow.train("demo", words, out="large")
    old, new = Run.open("small").supernet(), Run.open("large").supernet()
    assert new.space.num_archs > old.space.num_archs
    place, place_new = (supernet.model.get_parameter("layer2.1.conv1.weight") for supernet in (old, new))
    torch.testing.assert_close(place_new, place, atol=1e-6, rtol=0)
    assert not new.model.get_parameter("layer2.2.bn2.weight").abs().max() > 1e-6
    assert (run.info["data"]["mean"], run.info["data"]["std"]) == ([0.4] * 3, [0.3] * 3)
    assert run.info["model"]["grow_from"] == "small"
    again = workflow.train("demo", words, out="large", resume=True)
    assert again.weights_sha256 == run.weights_sha256


def test_a_finished_run_needs_what_it_grew_from_no_more(finished: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        run = workflow.train("demo", [*SHORT, *LARGE, "model.grow_from=small"], out=tmp_path / "run")
        assert run.recipe.model.untrained().grow_from is None
        (finished / "small").rename(finished / "elsewhere")
        try:
            assert Run.open(run.path).supernet().space == run.space
        finally:
            (finished / "elsewhere").rename(finished / "small")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["model.grow_from=nowhere"], FileFormatError, "no run folder at nowhere"),
        (["model.grow_from=damaged"], RunError, "is truncated or not the file that supernet.json describes"),
        (
            ["model.grow_from=small", "model.depth=[2, 3]"],
            SpaceError,
            r"model\.grow_from small: .*pass depth=\[1, 2, 3\]",
        ),
        (["model.grow_from=small", "model.name=ofa_mobilenetv3_tiny"], GrowthError, "not a larger one of the family"),
        (["model.grow_from=small", "model.growth=linear"], GrowthError, "has batch normalisation"),
        (
            ["model.grow_from=small", "model.growth=lineal"],
            ConfigError,
            "growth cannot be 'lineal'; choices: preserving",
        ),
        (["model.growth=linear"], ConfigError, "model.growth=linear needs a run to grow from; give model.grow_from"),
        (["model.grow_from=small", "model.zero_init=true"], ConfigError, "which model.zero_init would change"),
        (["model.grow_from=small", "model.sort_channels=l1"], ConfigError, "which model.sort_channels would change"),
        (["model.grow_from=small", "model.weights=x.safetensors"], ConfigError, "which model.weights would change"),
    ],
)
def test_what_is_wrong_is_said_before_data_is_read(
    words: list[str],
    error: type[OfaError],
    message: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_data: None,
) -> None:
    monkeypatch.chdir(finished)
    damaged = finished / "damaged"
    if not damaged.exists():
        damaged.mkdir()
        (damaged / "supernet.json").write_bytes((finished / "small" / "supernet.json").read_bytes())
        (damaged / "supernet.safetensors").write_bytes(b"not these")
    with pytest.raises(error, match=message):
        workflow.train("demo", [*SHORT, *LARGE, *words], out=tmp_path / "run")
    assert not (tmp_path / "run" / "supernet.json").exists()


def test_other_classes_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setattr(Classification, "num_classes", lambda self, data: 7)
    with pytest.raises(ConfigError, match=r"model\.grow_from small was trained for 10 classes, not 7; name another"):
        workflow.train("demo", [*SHORT, *LARGE, "model.grow_from=small"], out=tmp_path / "run")
