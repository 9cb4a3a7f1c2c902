from __future__ import annotations

import pytest
import torch
from torch import nn

from ofa.supernet import PRESETS, create_supernet
from ofa.supernet.presets import UnknownModelError


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


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_takes_classes_channels_and_choices(name: str) -> None:
    supernet = create_supernet(name, num_classes=7, in_chans=1, resolution=[32], kernel=[3], expand=[2]).eval()
    assert supernet.input_shape(supernet.space.smallest()) == (1, 32, 32)
    with torch.no_grad():
        assert supernet(torch.zeros(2, 1, 32, 32), supernet.space.smallest()).shape == (2, 7)
    assert supernet.space["resolution"].values == (32,)


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
    with pytest.raises(UnknownModelError, match=r"timm models like it: .*mobilenetv3_large_100"):
        create_supernet("mobilenetv3_large")
    with pytest.raises(UnknownModelError, match="timm models like it: none"):
        create_supernet("zzz")


def test_presets_have_no_pretrained_weights() -> None:
    with pytest.raises(UnknownModelError, match="has no pretrained weights"):
        create_supernet("ofa_mobilenetv3_tiny", pretrained=True)
