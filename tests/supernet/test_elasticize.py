"""Which dims a model gets, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from ofa.space import SpaceError
from ofa.supernet import elasticize
from ofa.supernet.elasticize import NothingElasticError


def test_default_dims_of_mobilenetv3() -> None:
    space = elasticize(timm.create_model("mobilenetv3_large_100")).space
    assert space["resolution"].values == (128, 160, 192, 224)
    # timm's blocks.1 is ir_r1_k3_s2_e4_c24 and ir_r1_k3_s1_e3_c24: 3x3 kernels, so expand alone varies inside a block.
    assert [name for name in space.names if name.startswith("stage1.")] == [
        "stage1.depth",
        "stage1.block0.expand",
        "stage1.block1.expand",
    ]
    assert space["stage1.depth"].values == (1, 2)
    assert space["stage1.block0.expand"].values == (2, 2.667, 4)
    assert space["stage1.block1.expand"].requires == ("stage1.depth", (2,))
    assert space["stage2.block0.kernel"].values == (3, 5)


def test_choices_above_what_a_block_has_are_left_out() -> None:
    model = timm.create_model("mobilenetv3_large_100")
    space = elasticize(model, depth=[1, 2, 9], kernel=[3, 9], expand=[2, 12], resolution=[96]).space
    assert space["stage1.depth"].values == (1, 2)
    assert space["stage2.block0.kernel"].values == (3, 5)
    assert space["stage1.block0.expand"].values == (2, 4)
    assert space["resolution"].values == (96,)


def test_expand_ratios_that_round_to_one_width_are_one_choice() -> None:
    space = elasticize(timm.create_model("mobilenetv3_large_100"), expand=[1.9, 2, 2.1]).space
    assert space["stage1.block0.expand"].values == (1.9, 4)  # 16 channels: 30.4, 32 and 33.6 are all 32


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"kernel": [5, 3]},
            r"choices of 'kernel' must be a list of positive numbers in ascending order, not \[5, 3\]",
        ),
        ({"kernel": [3, 3]}, "choices of 'kernel' must be a list of positive numbers in ascending order"),
        ({"kernel": [4]}, r"choices of 'kernel' must be odd, not \[4\]"),
        ({"depth": []}, r"choices of 'depth' must be a list of positive numbers in ascending order, not \[\]"),
        ({"depth": [0]}, "choices of 'depth' must be a list of positive numbers"),
        ({"depth": [1.5]}, r"choices of 'depth' must be whole numbers, not \[1.5\]"),
        ({"expand": "34"}, "choices of 'expand' must be a list of positive numbers in ascending order, not '34'"),
        ({"expand": ["3"]}, "choices of 'expand' must be a list of positive numbers"),
        ({"resolution": 224}, "choices of 'resolution' must be a list of positive numbers in ascending order, not 224"),
    ],
)
def test_bad_choices(choices: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        elasticize(timm.create_model("mobilenetv3_small_050"), **choices)  # type: ignore[arg-type]


def test_nothing_elastic_names_what_was_found_and_what_is_known() -> None:
    with pytest.raises(NothingElasticError, match=r"ResNet.*BasicBlock.*known blocks: .*InvertedResidual"):
        elasticize(timm.create_model("resnet18"))
    with pytest.raises(NothingElasticError):
        elasticize(timm.create_model("test_efficientnet_ln"))  # layer norms, and no stage with two blocks


@pytest.mark.parametrize(
    "name",
    [
        "mixnet_s",  # mixed kernels in one convolution
        "gc_efficientnetv2_rw_t",  # attention that is no squeeze-excite
        "efficientnet_b0_g8_gn",  # group norm
    ],
)
def test_layers_that_nothing_narrows_stay_whole(name: str) -> None:
    supernet = elasticize(timm.create_model(name, num_classes=5), resolution=[48, 64]).eval()
    for arch in (supernet.space.largest(), supernet.space.smallest(), supernet.space.sample(np.random.default_rng(0))):
        images = torch.randn(1, *supernet.input_shape(arch), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(supernet.extract(arch)(images), supernet(images, arch))
    assert supernet.slots
