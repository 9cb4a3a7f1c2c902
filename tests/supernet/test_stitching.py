"""Anchors that are stitched: their routes, what these compute and cost, and where their layers begin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18
from typer.testing import CliRunner

import ofa.cli
from ofa.config import ConfigError
from ofa.data import DataConfig
from ofa.deploy.elastic_weights import WeightMap
from ofa.formats.onnx import export_for_timing
from ofa.precision import split_precision, with_precision
from ofa.precision.mixed_space import standing_slots
from ofa.space import Arch, SpaceError
from ofa.supernet import Supernet, create_supernet, elasticize
from ofa.supernet.model_sources import UnknownModelError, code_of, name_in_files, public_name
from ofa.supernet.presets import create_model
from ofa.supernet.stitching import Stitched, StitchError, fit_stitches, stitches
from ofa.supernet.weights import WeightsError
from ofa.training import Recipe, Run, load_recipe, train
from ofa.training.preflight import check_recipe
from ofa.training.pretrained import as_pretrained
from ofa.training.run import portable
from ofa.training.teacher import frozen_copy, load_teacher

from .helpers import create_without_weights, make_images
from .vits import vit

VITS = Path(__file__).parent / "vits.py"
NAME = f"stitch:{VITS}:narrow,{VITS}:wide"
ANCHORS = f"model.anchors=[{VITS}:narrow,{VITS}:wide]"
ROUTES = ("anchor0", "0.2-1.3", "0.3-1.3", "0.1-1.2", "0.2-1.2", "0.0-1.1", "0.1-1.1", "anchor1")
QUICK = ("model.pretrained=false", "data.limit=64", "train.epochs=1", "train.batch_size=16", "train.device=cpu")


def mixer(width: int, depth: int) -> MlpMixer:
    return MlpMixer(img_size=32, patch_size=8, embed_dim=width, num_blocks=depth, num_classes=10)


def of_patches(width: int, depth: int) -> VisionTransformer:
    """As later ViTs are: register tokens, no position for these, normalised before the blocks, pooled."""
    settings = {"class_token": False, "reg_tokens": 2, "no_embed_class": True, "global_pool": "avg", "fc_norm": True}
    return vit(width, depth, pre_norm=True, **settings)


FAMILIES: dict[str, Callable[[int, int], nn.Module]] = {"vit": vit, "patches": of_patches, "mixer": mixer}


def anchors_of(make: Callable[[int, int], nn.Module] = vit, depths: tuple[int, ...] = (4, 4)) -> list[nn.Module]:
    """Narrow ones first, of weights that are all drawn: untrained classifiers may be zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [make(24 * 2**number, depth).eval() for number, depth in enumerate(depths)]
        for parameter in (each for anchor in found for each in anchor.parameters()):
            nn.init.normal_(parameter, std=0.2)
    return found


@pytest.fixture
def anchors() -> list[nn.Module]:
    return anchors_of()


@pytest.fixture
def supernet(anchors: list[nn.Module]) -> Supernet:
    return elasticize(Stitched(anchors)).eval()


def arch_of(supernet: Supernet, route: object) -> Arch:
    return supernet.space.arch({**supernet.space.largest(), "anchors.route": route})


def archs_of(supernet: Supernet) -> list[Arch]:
    return [arch_of(supernet, route) for route in supernet.space["anchors.route"].values]


def cost_of(supernet: Supernet, cost: str, arch: Arch) -> list[float]:
    """Of each place."""
    space, row = supernet.space, supernet.space.to_population(arch)[0]
    return [float(table[tuple(row[[space.column(n) for n in dims]])]) for dims, table in supernet.factors(cost)]


# -- the space ---------------------------------------------------------------------------------------------------------


def test_stitches_lead_to_the_same_depth_or_one_further() -> None:
    assert stitches(3, 3) == [(0, 1), (1, 1), (1, 2), (2, 2)]
    assert stitches(2, 4) == [(0, 1), (0, 2), (1, 3)]
    assert stitches(4, 2) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert len(stitches(12, 12)) == 22


def test_the_space_is_every_route_the_cheapest_first(supernet: Supernet) -> None:
    assert supernet.space.names == ("resolution", "anchors.route")
    assert supernet.space["anchors.route"].values == ROUTES
    assert supernet.space.num_archs == len(ROUTES)
    macs = [sum(cost_of(supernet, "macs", arch)) for arch in archs_of(supernet)]
    assert macs == sorted(macs)
    assert supernet.space.smallest()["anchors.route"] == "anchor0"
    assert supernet.space.largest()["anchors.route"] == "anchor1"


def test_three_anchors_of_different_depths_are_stitched_two_by_two() -> None:
    space = elasticize(Stitched(anchors_of(depths=(3, 4, 6)))).space
    routes = space["anchors.route"].values
    assert routes[0] == "anchor0" and routes[-1] == "anchor2"
    first, second = routes[: routes.index("anchor1")][1:], routes[routes.index("anchor1") + 1 : -1]
    # From the last blocks there is no block further on; what costs more than where it leads is none.
    assert set(first) == {f"0.{i}-1.{j}" for i, j in stitches(3, 4)}
    assert set(second) == {f"1.{i}-2.{j}" for i, j in stitches(4, 6)}


@pytest.mark.slow
def test_deit_tiny_small_and_base() -> None:
    names = [f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")]
    supernet = create_without_weights(f"stitch:{','.join(names)}")
    assert supernet.space.num_archs == 3 + 2 * 22
    for number, name in enumerate(names):
        with torch.device("meta"):
            whole = create_model(name)
        params = sum(parameter.numel() for parameter in whole.parameters())
        assert sum(cost_of(supernet, "params", arch_of(supernet, f"anchor{number}"))) == params


def test_routes_that_cost_more_than_where_they_lead_are_none() -> None:
    anchors = [vit(40, 3), vit(48, 3)]
    supernet = elasticize(Stitched(anchors))
    macs = [sum(cost_of(supernet, "macs", arch)) for arch in archs_of(supernet)]
    assert macs[0] == min(macs) and macs[-1] == max(macs)
    assert "0.1-1.1" not in supernet.space["anchors.route"].values


# -- what routes compute -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_route_is_extracted_as_it_is_and_anchors_are_themselves(family: str) -> None:
    anchors = anchors_of(FAMILIES[family], (3, 4))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = [anchor(images) for anchor in anchors]
    supernet = elasticize(Stitched(anchors)).eval()
    assert supernet.space.num_archs >= 6
    for arch in archs_of(supernet):
        extracted = supernet.extract(arch)
        assert torch.equal(extracted(images), supernet(images, arch))
        assert not [type(each) for each in extracted.modules() if type(each).__module__.split(".")[0] == "ofa"]
    for number, logits in enumerate(expected):
        assert torch.equal(supernet(images, arch_of(supernet, f"anchor{number}")), logits)
    assert torch.equal(supernet.largest_subnet(images), expected[-1])
    assert torch.equal(supernet.model(images), expected[-1])


@torch.no_grad()
def test_a_stitch_is_the_beginning_of_one_and_the_end_of_the_next(
    anchors: list[VisionTransformer], supernet: Supernet
) -> None:
    images = make_images(supernet, supernet.space.largest())
    (first, second), layer = anchors, supernet.model.get_submodule("stitch0.1-2")
    x = first.norm_pre(first._pos_embed(first.patch_embed(images)))
    x = layer(first.blocks[:2](x))
    expected = second.forward_head(second.norm(second.blocks[2:](x)))
    torch.testing.assert_close(supernet(images, arch_of(supernet, "0.1-1.2")), expected)


def test_a_step_moves_what_its_route_passes_and_nothing_else(supernet: Supernet) -> None:
    supernet.train()
    for arch in archs_of(supernet):
        supernet.zero_grad()
        supernet(make_images(supernet, arch), arch).square().sum().backward()
        moved = {name for name, each in supernet.model.named_parameters() if each.grad is not None}
        assert moved == {name for name, _ in supernet.extract(arch).named_parameters()}


def test_a_route_is_exported(supernet: Supernet) -> None:
    arch = arch_of(supernet, "0.1-1.2")
    extracted, images = supernet.extract(arch), make_images(supernet, arch, num=1)
    graph = export_for_timing(extracted, (3, 32, 32))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), extracted(images), rtol=1e-4, atol=1e-4)


def test_elastic_artefacts_find_the_weights_of_a_route(supernet: Supernet) -> None:
    own = supernet.model.state_dict()
    weight_map = WeightMap(supernet)
    for arch in archs_of(supernet):
        parts = weight_map.parts(weight_map.structure(arch))
        tensors = supernet.extract(arch).state_dict()
        assert parts.keys() == tensors.keys()
        assert all(torch.equal(part.take(own[name]), tensors[name]) for name, part in parts.items())


# -- what they cost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_are_those_of_the_extracted(family: str) -> None:
    supernet = elasticize(Stitched(anchors_of(FAMILIES[family], (4, 3)))).eval()
    for arch in archs_of(supernet):
        extracted, images = supernet.extract(arch), make_images(supernet, arch, num=1)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            extracted(images)
        assert sum(cost_of(supernet, "macs", arch)) == counter.get_total_flops() / 2
        assert sum(cost_of(supernet, "params", arch)) == sum(each.numel() for each in extracted.parameters())


def test_an_anchor_takes_the_memory_that_it_takes_alone(anchors: list[nn.Module], supernet: Supernet) -> None:
    alone = [elasticize(anchor, torch.zeros(1, 3, 32, 32)) for anchor in anchors_of()]
    for number, other in enumerate(alone):
        peak = max(cost_of(supernet, "peak_activation_bytes", arch_of(supernet, f"anchor{number}")))
        assert peak == max(cost_of(other, "peak_activation_bytes", other.space.largest()))


def test_parts_make_up_every_route(supernet: Supernet) -> None:
    assert supernet.measurable_share >= 0.95
    for arch in archs_of(supernet):
        row, space, total = supernet.space.to_population(arch)[0], supernet.space, 0.0
        for slot in supernet.slots:
            if key := slot.keys[tuple(row[[space.column(name) for name in slot.dims]])]:
                part = supernet.part(key)
                with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                    part.module(torch.randn(1, *part.input_shape))
                total += counter.get_total_flops() / 2
        assert total == sum(cost_of(supernet, "macs", arch))


def test_precision_per_block_knows_which_blocks_are_there(supernet: Supernet) -> None:
    space = with_precision(supernet.space, supernet.slots, per="block")
    rng = np.random.default_rng(0)
    for arch in space.to_archs(space.sample_population(20, rng)):
        plain, precisions = split_precision(space, supernet.slots, arch)
        assert set(precisions) == set(standing_slots(supernet.space, supernet.slots, plain))


# -- where stitches begin ----------------------------------------------------------------------------------------------


def tokens_of(anchor: VisionTransformer, images: Tensor) -> list[Tensor]:
    """What enters the first block and leaves each."""
    found = [anchor.norm_pre(anchor._pos_embed(anchor.patch_embed(images)))]
    for block in anchor.blocks:
        found.append(block(found[-1]))
    return [each.flatten(0, 1) for each in found]


@torch.no_grad()
def test_stitches_begin_as_least_squares(anchors: list[VisionTransformer], supernet: Supernet) -> None:
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before, after = (tokens_of(anchor, images) for anchor in anchors)
    model = supernet.model
    assert isinstance(model, Stitched)

    def errors() -> list[float]:
        found = []
        for i, j in stitches(4, 4):
            layer = model.get_submodule(f"stitch0.{i}-{j}")
            found.append(float((layer(before[i + 1]) - after[j]).square().mean()))
        return found

    random = errors()
    fit_stitches(model, [images[:8], images[8:16], images[16:]])
    fitted = errors()
    assert all(new < 0.9 * old for new, old in zip(fitted, random, strict=True))
    ones = np.ones((len(before[0]), 1))
    for error, (i, j) in zip(fitted, stitches(4, 4), strict=True):
        own = np.hstack([before[i + 1].double().numpy(), ones])
        solution, *_ = np.linalg.lstsq(own, after[j].double().numpy(), rcond=None)
        assert error == pytest.approx(np.square(own @ solution - after[j].double().numpy()).mean(), rel=1e-3)


def test_what_an_anchor_gives_to_itself_is_found_again() -> None:
    """A wider anchor whose first channels are the narrow one's tokens: there the layer is the identity."""
    narrow, wide = anchors_of(depths=(2, 2))
    with torch.no_grad():
        for name, tensor in wide.named_parameters():
            own = dict(narrow.named_parameters())[name]
            if name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
                tensor.zero_()
                tensor[tuple(map(slice, own.shape))] = own
            elif name.startswith("blocks.0"):
                tensor.zero_()
        for name, tensor in narrow.named_parameters():
            if name.startswith("blocks.0"):
                tensor.zero_()
    model = Stitched([narrow, wide])
    fit_stitches(model, [torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))])
    layer = model.get_submodule("stitch0.0-1")
    torch.testing.assert_close(layer.weight[:24], torch.eye(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(layer.weight[24:], torch.zeros(24, 24), atol=1e-4, rtol=0)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_stitched_is_refused() -> None:
    with pytest.raises(StitchError, match="takes two anchors or more, the smallest first, not 1"):
        Stitched([vit(24, 3)])
    with pytest.raises(StitchError, match="anchor 'a' is a ResNet; anchors are of timm's VisionTransformer, MlpMixer"):
        Stitched([resnet18(), vit(24, 3)], ["a", "b"])
    with pytest.raises(StitchError, match="'MlpMixer 0' and 'VisionTransformer 1' are a MlpMixer and a Vision"):
        Stitched([mixer(24, 3), vit(48, 3)])
    with pytest.raises(StitchError, match="'a' and 'b' have 48 and 24 channels; give narrower ones first"):
        Stitched([vit(48, 3), vit(24, 3)], ["a", "b"])
    with pytest.raises(StitchError, match="see 4x4 tokens of 32x32 pixels and 1 more and 2x2 tokens of 32x32 pixels"):
        Stitched([vit(24, 3), vit(48, 3, patch_size=16)])
    with pytest.raises(StitchError, match="stitch networks whose blocks see the same tokens"):
        Stitched([vit(24, 3), vit(48, 3, class_token=False, global_pool="avg")])
    with pytest.raises(StitchError, match=r"anchors take .* MACs; give cheaper ones first"):
        elasticize(Stitched([vit(24, 16), vit(32, 2)]))


def test_nothing_else_varies(anchors: list[nn.Module]) -> None:
    with pytest.raises(SpaceError, match="'heads' does not vary in a Stitched; it has route"):
        elasticize(Stitched(anchors), heads=[1, 2])
    with pytest.raises(SpaceError, match="routes are all that lie between the anchors"):
        elasticize(Stitched(anchors), route=[1, 2])
    with pytest.raises(SpaceError, match="'route' does not vary in a VisionTransformer; it has depth, "):
        elasticize(vit(24, 3), torch.zeros(1, 3, 32, 32), route=[1, 2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.anchors=[a]",), r"model.anchors must be two models or more, the smallest first, not \['a'\]"),
        (("model.anchors=[]",), r"model.anchors must be two models or more, the smallest first, not \[\]"),
        (("model.anchors=[a,b]", "model.name=c"), "model.name=c and model.anchors do not go together"),
        (("model.anchors=[a,b]", "model.anchor_weights=[x]"), "anchor_weights has 1 files for 2 anchors"),
        (("model.anchors=null", "model.anchor_weights=[x]"), "anchor_weights has 1 files for 0 anchors"),
    ],
)
def test_recipes_that_cannot_be(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("stitch", words)


@pytest.mark.parametrize(
    ("anchors", "error", "message"),
    [
        ("[deit_tini_patch16_224,deit_small_patch16_224]", UnknownModelError, "did you mean 'deit_tiny_patch16_224'"),
        ("[deit_small_patch16_224,deit_tiny_patch16_224]", StitchError, "have 384 and 192 channels"),
        ("[vit_tiny_patch16_224,vit_small_patch32_224]", StitchError, "14x14 tokens .* and 7x7 tokens"),
        ("[vit_tiny_patch16_224,vit_small_patch16_384]", StitchError, "see the same tokens"),
        ("[vit_tiny_patch16_224,resnet18]", StitchError, "anchor 'resnet18' is a ResNet"),
        ("[mixer_s16_224,vit_base_patch16_224]", StitchError, "stitch networks of one family"),
    ],
)
def test_anchors_are_checked_before_data_is_read(anchors: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_recipe(load_recipe("stitch", [f"model.anchors={anchors}", "model.pretrained=false"]))


def test_the_command_says_it_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "stitch", "model.anchors=[vit_tiny_patch16_224,resnet18]", "model.pretrained=false"]
    monkeypatch.setattr("sys.argv", ["ofa", *words, "data.name=folder", "data.root=nowhere", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        ofa.cli.main()
    assert stopped.value.code == 2
    assert "anchor 'resnet18' is a ResNet" in " ".join(capsys.readouterr().err.split())


# -- by name -----------------------------------------------------------------------------------------------------------


def test_recipes_hold_anchors() -> None:
    recipe = load_recipe("stitch", [ANCHORS])
    assert recipe.model.name == NAME
    stored = json.loads(json.dumps(recipe.to_json()))
    assert Recipe.from_json(stored, where="test") == recipe
    assert load_recipe("bignas", [f"model.name={NAME}"]).model == load_recipe("bignas", [ANCHORS]).model
    given = portable({"data": {}, "model": {}, "recipe": stored})["recipe"]
    assert Recipe.from_json(given, where="test").model.name == "stitch:vits.py:narrow,vits.py:wide"


def test_names() -> None:
    code = code_of(NAME)
    assert code is not None and code.path == VITS
    assert public_name(NAME) == "stitch:vits.py:narrow,vits.py:wide"
    assert name_in_files(NAME, "123456789") == "narrow-wide-123456"
    assert name_in_files("stitch:deit_tiny_patch16_224,a") == "stitch-deit_tiny_patch16_224-a"
    with pytest.raises(UnknownModelError, match="are in 2 files; put them into one"):
        code_of(f"stitch:{VITS}:narrow,other.py:wide")


def test_anchors_take_weights_of_their_own(tmp_path: Path, anchors: list[nn.Module]) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for anchor, file in zip(anchors, files, strict=True):
        safetensors.torch.save_file(anchor.state_dict(), file)
    supernet = create_supernet(NAME, num_classes=10, pretrained=True, anchor_weights=files).eval()
    images = make_images(supernet, supernet.space.largest())
    with torch.no_grad():
        for number, anchor in enumerate(anchors):
            assert torch.equal(supernet(images, arch_of(supernet, f"anchor{number}")), anchor(images))
    create_supernet(NAME, num_classes=3, anchor_weights=files)  # a classifier for other classes is left out
    with pytest.raises(WeightsError, match=r"1.safetensors do not fit VisionTransformer"):
        create_supernet(NAME, num_classes=10, anchor_weights=files[::-1][:1] * 2)
    with pytest.raises(StitchError, match="there are 1 files of weights for 2 anchors"):
        create_supernet(NAME, num_classes=10, anchor_weights=files[:1])


def test_anchors_take_images_of_another_size() -> None:
    supernet = create_without_weights(NAME, input_size=[48, 48], in_chans=1)
    assert supernet.input_shape(supernet.space.largest()) == (1, 48, 48)
    assert supernet.space.num_archs == len(ROUTES)


def test_pictures_are_as_the_first_anchor_saw_them() -> None:
    model = load_recipe("stitch", ["model.anchors=[vit_tiny_patch16_224,vit_small_patch16_224]"]).model
    assert as_pretrained(DataConfig(), model).mean == (0.5, 0.5, 0.5)
    assert as_pretrained(DataConfig(), model.untrained()).mean is None


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(load_recipe("stitch", [ANCHORS, *QUICK]), tmp_path_factory.mktemp("runs") / "run")


def test_a_run_is_opened_again(run: Run) -> None:
    supernet = run.supernet()
    assert supernet.space["anchors.route"].values == ROUTES
    assert run.space_name.startswith("narrow-wide-")
    assert run.data().image_size == 32


def test_training_begins_with_fitted_stitches(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[Any] = []
    monkeypatch.setattr("ofa.training.trainer.fit_stitches", lambda model, inputs: fitted.append(list(inputs)))
    train(load_recipe("stitch", [ANCHORS, *QUICK]), tmp_path / "new")
    assert [sum(map(len, batches)) for batches in fitted] == [64]  # all that there are
    weights = f"model.weights={run.path / 'supernet.safetensors'}"
    train(load_recipe("stitch", [ANCHORS, *QUICK, weights]), tmp_path / "further")
    assert len(fitted) == 1


class Killed(BaseException):
    """Stands for a signal."""


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    recipe = load_recipe("stitch", [ANCHORS, *QUICK, "train.epochs=2"])

    def kill(done: int, total: int, what: str) -> None:
        if what.startswith("epoch") and done == 6:
            raise Killed

    whole = train(recipe, tmp_path / "whole").supernet().model.state_dict()
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", progress=kill)
    resumed = train(recipe, tmp_path / "run", resume=True).supernet().model.state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_training_moves_the_weights_of_both_anchors_and_of_stitches(run: Run, tmp_path: Path) -> None:
    further = load_recipe("stitch", [ANCHORS, *QUICK, f"model.weights={run.path / 'supernet.safetensors'}"])
    before, after = run.supernet().model.state_dict(), train(further, tmp_path / "run").supernet().model.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {"anchor0.entry.cls_token", "anchor0.head.head.weight", "anchor1.entry.cls_token"} <= moved
    assert {f"anchor{k}.blocks.{block}.mlp.fc1.weight" for k in range(2) for block in range(4)} <= moved
    assert any(name.startswith("stitch0.") for name in moved)


def test_the_last_anchor_teaches(run: Run) -> None:
    supernet = run.supernet()
    images = make_images(supernet, supernet.space.largest())
    expected = supernet.extract(supernet.space.largest())(images)
    with torch.no_grad():
        torch.testing.assert_close(frozen_copy(supernet)(images), expected)
        strategy = load_recipe("stitch", [f"strategy.teacher={run.path}"]).strategy
        teacher = load_teacher(strategy, num_classes=10)
        assert teacher is not None
        torch.testing.assert_close(teacher(images), expected)


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def ofa_command(*words: str) -> dict[str, Any]:
        result = CliRunner().invoke(ofa.cli.app, [*words, "--json"])
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    ofa_command("train", "stitch", ANCHORS, "model.pretrained=false", "train.epochs=2", "--out", "run")
    where = ("--run", "run", "--device", "cpu-1t")
    ofa_command("profile", *where, "--out", "tables", "--rounds", "2", "--max-minutes", "0.2", "--force")
    budgets = ("--budget-ms", "0.2", "2")
    ofa_command("search", *where, *budgets, "--tables", "tables", "--num-evaluations", "8", "--any-machine")
    ofa_command("export", *where, "--budget-ms", "2", "--out", "bundle")
    ofa_command("elastic", *where, *budgets, "--out", "elastic")
    ofa_command("verify", "bundle", "--device", "cpu-1t")
    arch = json.dumps({"resolution": 32, "anchors.route": "0.1-1.2"})
    ofa_command("finetune", "--run", "run", "--arch", arch, "--out", "tuned", "train.epochs=1")
    assert CliRunner().invoke(ofa.cli.app, ["report", "--run", "run"]).exit_code == 0
