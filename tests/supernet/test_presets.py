from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import Tensor, nn

from ofa.space import SpaceError
from ofa.supernet import create_supernet
from ofa.supernet.presets import UnknownModelError, create_model
from ofa.supernet.weights import WeightsError

from .helpers import CLASSIFIERS


@pytest.mark.parametrize("name", ["ofa_mobilenetv3_w1.0", "ofa_mobilenetv3_w1.2"])
def test_published_mobilenetv3_spaces(name: str) -> None:
    space = create_supernet(name).space
    assert space.num_archs == (9**2 + 9**3 + 9**4) ** 5 * 25
    assert space["resolution"].values == tuple(range(128, 225, 4))
    assert len(space) == 1 + 5 + 5 * 4 * 2
    assert {dim.values for dim in space.dims if dim.name.endswith(".depth")} == {(2, 3, 4)}
    assert {dim.values for dim in space.dims if dim.name.endswith(".kernel")} == {(3, 5, 7)}
    assert {dim.values for dim in space.dims if dim.name.endswith(".expand")} == {(3, 4, 6)}


def test_parameters_of_the_published_supernet() -> None:
    """Once-for-All's repository: 7.7 M for ``ofa_supernet_mbv3_w10``, its kernel transforms included."""
    supernet = create_supernet("ofa_mobilenetv3_w1.0", kernel_transforms=True)
    assert sum(parameter.numel() for parameter in supernet.parameters()) == pytest.approx(7.68e6, abs=5e3)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # Output channels of the stages and of the last convolution, from the published code.
        ("ofa_mobilenetv3_w1.0", [16, 16, 24, 40, 80, 112, 160, 960, 1280]),
        ("ofa_mobilenetv3_w1.2", [24, 24, 32, 48, 96, 136, 192, 1152, 1536]),
        ("ofa_proxyless_w1.3", [40, 24, 32, 56, 104, 128, 248, 416, 1664]),
    ],
)
def test_published_widths(name: str, published: list[int]) -> None:
    model = create_supernet(name).model
    blocks = model.get_submodule("blocks")
    last_of_stage = [[m for m in stage.modules() if isinstance(m, nn.Conv2d)][-1] for stage in blocks.children()]
    stem, head = model.get_submodule("conv_stem"), model.get_submodule("conv_head")
    assert isinstance(stem, nn.Conv2d) and isinstance(head, nn.Conv2d)
    assert [conv.out_channels for conv in (stem, *last_of_stage, head)] == published


@pytest.mark.parametrize("name", [*CLASSIFIERS, "autoformer_tiny"])
def test_preset_takes_classes_channels_and_choices(name: str) -> None:
    size = 224 if name.startswith(("vit", "autoformer")) else 32  # transformers keep their number of patches
    with torch.random.fork_rng():
        supernet = create_supernet(name, num_classes=7, in_chans=1, resolution=[size], depth=["100%"]).eval()
    assert not [dim for dim in supernet.space.names if dim.endswith("depth")]
    assert supernet.input_shape(supernet.space.smallest()) == (1, size, size)
    with torch.no_grad():
        assert supernet(torch.zeros(2, 1, size, size), supernet.space.smallest()).shape == (2, 7)
    assert supernet.space["resolution"].values == (size,)


def test_a_resolution_that_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"VisionTransformer does not take images of 192 pixels .*own size is 224"):
        create_supernet("vit_tiny", resolution=[192, 224])


def test_resnet50d_has_the_published_choices() -> None:
    """Once-for-All's repository, ``OFAResNets``: depth 0 to 2 more than [2, 2, 4, 2], expand and width multipliers."""
    with torch.device("meta"):
        supernet = create_supernet("ofa_resnet50d")
    space = supernet.space
    depths = [(2, 3), (2, 3, 4), (2, 3, 4), (4, 5, 6), (2, 3, 4)]  # of the stem first
    assert [space[f"stage{i}.depth"].values for i in range(5)] == depths
    assert {dim.values for dim in space.dims if dim.name.endswith("expand")} == {(0.2, 0.25, 0.35)}
    # make_divisible(width * multiplier, 8) for 0.65, 0.8 and 1.
    widths = [space[f"stage{i}.width"].values for i in range(1, 5)]
    assert widths == [(168, 208, 256), (336, 408, 512), (664, 816, 1024), (1328, 1640, 2048)]
    assert (space["stage0.width"].values, space["stage0.width1"].values) == ((24, 32), (40, 48, 64))
    hidden = [conv.out_channels for path, conv in supernet.model.named_modules() if path.endswith("0.conv1")]
    assert hidden == [88, 176, 360, 720]  # make_divisible(0.35 * out, 8)
    # The ratio refers to the active width of the stage.
    arch = {**space.largest(), "stage1.width": 168, "stage1.block1.expand": 0.25}
    assert supernet.subnet(arch).get_submodule("layer1.1.conv1").out_channels == 40  # 168 / 4 = 42


def test_autoformer_spaces() -> None:
    """AutoFormer (arXiv:2107.00651), table 2: tiny and small, heads of 64 channels whatever the embedding."""
    with torch.device("meta"):
        space, small = (create_supernet(name).space for name in ("vit_tiny", "vit_small"))
    assert space["stem.width"].values == (192, 216, 240)
    assert space["stage0.depth"].values == (12, 13, 14)
    assert space["stage0.block3.mlp_ratio"].values == (3.5, 4)
    assert space["stage0.block3.heads"].values == (3, 4)
    assert space.num_archs == 3 * (4**12 + 4**13 + 4**14)
    assert small["stem.width"].values == (320, 384, 448)
    assert small["stage0.block13.heads"].values == (5, 6, 7)
    assert small["stage0.block13.mlp_ratio"].values == (3, 3.5, 4)


def test_small_preset_suits_small_images() -> None:
    space = create_supernet("ofa_mobilenetv3_tiny").space
    assert space.num_archs == (4 * (6 + 6**2 + 6**3) ** 4)
    assert space["resolution"].values == (20, 24, 28, 32)


def test_any_timm_model_by_name() -> None:
    supernet = create_supernet("mobilenetv2_035", num_classes=3)
    assert type(supernet.model).__name__ == "EfficientNet"
    assert supernet(torch.zeros(2, 3, 64, 64), supernet.space.smallest()).shape == (2, 3)


def test_unknown_names() -> None:
    with pytest.raises(
        UnknownModelError, match=r"unknown .*'ofa_mobilenetv3_w1.1'; did you mean 'ofa_mobilenetv3_w1.[02]'"
    ):
        create_supernet("ofa_mobilenetv3_w1.1")
    with pytest.raises(UnknownModelError, match=r"the nearest of \d+: .*mobilenetv3_large_100"):
        create_supernet("mobilenetv3_large")
    with pytest.raises(UnknownModelError, match=r"unknown preset or timm model 'zzz'; the nearest of"):
        create_supernet("zzz")


def test_weights_from_a_file(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        model = timm.create_model("mobilenetv3_small_050", num_classes=5)
    path = tmp_path / "mine.safetensors"
    save_file(model.state_dict(), path)
    same = create_supernet("mobilenetv3_small_050", num_classes=5, weights=path)
    assert all(map(torch.equal, same.model.state_dict().values(), model.state_dict().values()))
    # Another classifier: all but it is loaded.
    other = create_supernet("mobilenetv3_small_050", num_classes=7, weights=path).model.state_dict()
    misfits = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, other[name])]
    assert misfits == ["classifier.weight", "classifier.bias"]

    with pytest.raises(
        WeightsError, match=r"do not fit MobileNetV3: 'blocks.0.0.bn2.bias' is \(16,\) in the model and \(8,\)"
    ):
        create_supernet("mobilenetv3_small_100", num_classes=5, weights=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"mine.safetensors cannot be read .*give a .safetensors file"):
        create_supernet("mobilenetv3_small_050", weights=path)
    with pytest.raises(WeightsError, match="cannot be read"):
        create_supernet("mobilenetv3_small_050", weights=tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model": {f"module.{name}": tensor for name, tensor in tensors.items()}},
        lambda tensors: {"state_dict": {f"model._orig_mod.{name}": tensor for name, tensor in tensors.items()}},
        lambda tensors: {"model": {"of": torch.zeros(1)}, "model_ema": tensors},
        lambda tensors: {name: each for name, each in tensors.items() if not name.endswith(".num_batches_tracked")},
    ],
    ids=["plain", "state_dict", "DataParallel", "Lightning, compiled", "averaged", "older torch"],
)
def test_checkpoints_as_they_come(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], object]) -> None:
    with torch.random.fork_rng():
        model = timm.create_model("mobilenetv3_small_050", num_classes=5)
    path = tmp_path / "mine.pth"
    torch.save(wrap(model.state_dict()), path)
    same = create_supernet("mobilenetv3_small_050", num_classes=5, weights=path)
    assert all(map(torch.equal, same.model.state_dict().values(), model.state_dict().values()))


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def test_a_checkpoint_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "mine.pth")
    with pytest.raises(WeightsError, match=r"mine.pth cannot be read .*a checkpoint of torch.save that holds tensors"):
        create_supernet("mobilenetv3_small_050", weights="mine.pth")
    assert not Path("executed").exists()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        tensors = timm.create_model("mobilenetv3_small_050", num_classes=5).state_dict()
    tensors["conv_stem.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match=r"hold values in 'conv_stem.weight' that are not finite"):
        create_supernet("mobilenetv3_small_050", num_classes=5, weights=tmp_path / "mine.safetensors")


def test_presets_have_no_pretrained_weights() -> None:
    with pytest.raises(UnknownModelError, match="has no pretrained weights"):
        create_supernet("ofa_mobilenetv3_tiny", pretrained=True)


@pytest.mark.parametrize("name", [*CLASSIFIERS, "autoformer_tiny", "mobilenetv3_small_050"])
def test_drop_rates_reach_the_model(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=5, drop_rate=0.3, drop_path_rate=0.2)
        plain = create_model(name, num_classes=5)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath) and module.drop_prob]
    assert rates == sorted(rates)
    assert 0.15 < rates[-1] < 0.201
    dropout = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert 0.3 in dropout | {getattr(model, "drop_rate", None)}
    assert not [module for module in plain.modules() if isinstance(module, DropPath) and module.drop_prob]
    assert getattr(plain, "drop_rate", 0.0) == 0.0
    assert list(model.state_dict()) == list(plain.state_dict())


def test_drop_rates_reach_the_supernet() -> None:
    with torch.device("meta"):
        model = create_supernet("ofa_mobilenetv3_tiny", drop_rate=0.3, drop_path_rate=0.2).model
    assert model.drop_rate == 0.3
    assert any(isinstance(module, DropPath) and module.drop_prob for module in model.modules())


def test_a_model_without_stochastic_depth_says_so() -> None:
    with pytest.raises(UnknownModelError, match=r"timm cannot build 'vgg11' with num_classes=5, .*drop_path_rate=0\.1"):
        create_model("vgg11", num_classes=5, drop_path_rate=0.1)


def test_a_classifier_for_the_same_classes_may_be_required(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(create_model("ofa_mobilenetv3_tiny", num_classes=5).state_dict(), file)
    loaded = create_model("ofa_mobilenetv3_tiny", num_classes=7, weights=file)
    assert loaded.state_dict()["classifier.bias"].shape == (7,)
    with pytest.raises(WeightsError, match=r"'classifier.bias' is \(7,\) in the model and \(5,\) in the file"):
        create_model("ofa_mobilenetv3_tiny", num_classes=7, weights=file, needs_classifier=True)
