"""Which dims a model gets, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from ofa.space import SpaceError
from ofa.supernet import create_supernet, elasticize
from ofa.supernet.elasticize import NothingElasticError, NotTraceableError


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
        ({"depth": [float("inf")]}, "choices of 'depth' must be a list of positive numbers"),
        ({"depth": {1: [1]}}, "unknown stage in choices of 'depth': 1; known:"),
        ({"depth": [1.5]}, r"choices of 'depth' must be whole numbers, not \[1.5\]"),
        ({"expand": "34"}, "choices of 'expand' must be a list of positive numbers in ascending order, not '34'"),
        ({"expand": ["3"]}, "choices of 'expand' must be a list of positive numbers"),
        ({"resolution": 224}, "choices of 'resolution' must be a list of positive numbers in ascending order, not 224"),
    ],
)
def test_bad_choices(choices: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        elasticize(timm.create_model("mobilenetv3_small_050"), **choices)  # type: ignore[arg-type]


def test_misspelt_arguments_name_the_nearest() -> None:
    model = timm.create_model("mobilenetv3_small_050")
    with pytest.raises(SpaceError, match="unknown elastic choice 'divizor'; did you mean 'divisor'"):
        elasticize(model, divizor=4)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="unknown elastic choice 'num_clases'; did you mean 'num_classes'"):
        create_supernet("mobilenetv3_small_050", num_clases=4)


class Lonely(nn.Module):
    """Nothing here repeats, and nothing stays inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 10, 3), nn.Flatten(1), nn.LazyLinear(10))
        self.inner(torch.zeros(1, 3, 224, 224))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + 0 * x.mean()


def test_nothing_elastic_names_what_was_found() -> None:
    with pytest.raises(NothingElasticError, match=r"nothing in Lonely can be made elastic: found .*Sequential"):
        elasticize(Lonely(), resolution=[224], width=["100%"])


def test_a_model_that_does_not_run_on_images_says_so() -> None:
    with pytest.raises(NotTraceableError, match=r"Linear does not run on one batch of 224 pixel images: .*"):
        elasticize(nn.Linear(5, 2))


class Wrapped(nn.Module):
    """Outputs in an object, as Hugging Face's models give them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(x))


def test_what_fails_first_is_blamed_with_the_size_that_was_asked_for() -> None:
    with pytest.raises(NotTraceableError, match=r"Wrapped does not run on one batch of 32 pixel images: .*"):
        elasticize(Wrapped(), resolution=[32])


def test_a_compiled_model_is_to_be_unwrapped() -> None:
    with pytest.raises(NotTraceableError, match=r"give the module inside it, model._orig_mod"):
        elasticize(torch.compile(Wrapped().inner))


def test_choices_per_stage_and_in_shares() -> None:
    model = timm.create_model("mobilenetv3_large_100")
    space = elasticize(
        model,
        depth={"stage1": [1, 2], "*": ["100%"]},
        expand={"stage3.block0": ["50%"], "stage3": ["80%"]},
        kernel=["100%"],
    ).space
    assert [name for name in space.names if name.endswith("depth")] == ["stage1.depth"]
    assert space["stage3.block0.expand"].values == (3, 6)
    assert space["stage3.block1.expand"].values == (2, 2.5)
    assert space["stage4.block0.expand"].values == (3, 4, 6)  # what is not named has its default
    assert not [name for name in space.names if name.endswith("kernel")]
    with pytest.raises(SpaceError, match=r"unknown stage in choices of 'depth': 'stage9'; did you mean 'stage\d'"):
        elasticize(timm.create_model("mobilenetv3_small_050"), depth={"stage9": [1]})


@pytest.mark.parametrize(
    ("name", "num_blocks"), [("levit_conv_128s", [2, 1, 1, 3, 1, 1, 4]), ("shvit_s1", [2, 5, 4, 5, 5])]
)
def test_stages_whose_downsampling_has_channels_of_its_own_are_no_blocks(name: str, num_blocks: list[int]) -> None:
    with torch.device("meta"):
        supernet = elasticize(timm.create_model(name))
    assert [len(stage.blocks) for stage in supernet.stages] == num_blocks
    assert any(dim.name.endswith("expand") for dim in supernet.space.dims)


def test_stage_width_is_tied_through_a_stage() -> None:
    supernet = elasticize(timm.create_model("resnet26d"), width=["65%", "80%"])
    space = supernet.space
    assert space["stage0.width"].values == (168, 208, 256)
    assert space["stage3.width"].values == (1328, 1640, 2048)
    narrow = supernet.extract(space.arch({**space.largest(), "stage1.width": 336}))
    convolutions = {
        path: m for path, m in narrow.named_modules() if isinstance(m, nn.Conv2d) and path.startswith("layer")
    }
    for path, conv in convolutions.items():
        if path.startswith("layer2") and conv.kernel_size == (1, 1):
            assert 336 in (conv.in_channels, conv.out_channels) or path == "layer2.0.conv1"
    assert convolutions["layer3.0.conv1"].in_channels == 336
    assert convolutions["layer1.1.conv3"].out_channels == 256


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


def test_a_ratio_that_refers_to_a_width_that_does_not_run_refers_to_the_whole_width() -> None:
    with torch.device("meta"):
        supernet = elasticize(timm.create_model("coat_lite_mini"))
        space = supernet.space
        assert [name for name in space.names if name.endswith("mlp_ratio")]
        supernet.subnet(space.smallest())


def test_attention_with_fixed_sizes_runs_as_a_graph() -> None:
    with torch.device("meta"):
        supernet = elasticize(timm.create_model("beit_base_patch16_224"))
    assert {dim.kind for dim in supernet.dims} == {"depth", "mlp_ratio", "heads"}
    assert [path.rpartition(".")[2] for path in supernet.analysis.forms] == ["attn"] * 12


class Flattening(nn.Module):
    """Its code computes with fixed sizes around a kernel that may shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(8, 48, 3, padding=1), nn.Conv2d(48, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x).relu()
        return x + self.last(hidden.flatten(2).view(len(x), 48, *x.shape[2:]))


def test_code_with_fixed_sizes_stays_whole_and_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *(Flattening() for _ in range(3)))
    supernet = elasticize(model, torch.zeros(1, 3, 16, 16))
    assert {dim.kind for dim in supernet.dims} == {"depth"}
    reasons = {name: reason for name, reason in supernet.analysis.notes.items() if name.endswith("expand")}
    assert len(reasons) == 3
    assert all(
        reason.startswith("its code computes with fixed sizes: shape '[1, 48, 14, 14]'") for reason in reasons.values()
    )


def test_coupled_to_the_depth_as_in_compofa() -> None:
    """Five stages of three depths, and nothing else: 243 networks (arXiv:2104.12642, sec. 3.2)."""
    supernet = create_supernet(
        "ofa_mobilenetv3_w1.0", num_classes=10, kernel=["100%"], resolution=[64], coupled=["expand"]
    )
    space = supernet.space
    assert space.num_archs == 3**5
    arch = space.sample(np.random.default_rng(0))
    for stage in range(1, 6):
        assert arch[f"stage{stage}.block0.expand"] == {2: 3, 3: 4, 4: 6}[int(arch[f"stage{stage}.depth"])]
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(supernet.eval()(images, arch), supernet.extract(arch)(images))


def test_what_cannot_be_coupled_is_named() -> None:
    with pytest.raises(SpaceError, match="unknown kind of dim to couple to the depth 'expnad'; did you mean 'expand'"):
        elasticize(timm.create_model("mobilenetv3_small_050"), coupled=["expnad"])


@pytest.mark.parametrize("kind", ["depth", "width", "resolution"])
def test_what_is_not_inside_a_block_cannot_be_coupled(kind: str) -> None:
    with pytest.raises(
        SpaceError, match=f"unknown kind of dim to couple to the depth '{kind}'.* known: kernel, expand"
    ):
        elasticize(timm.create_model("mobilenetv3_small_050"), coupled=[kind])


def test_everything_inside_blocks_coupled_leaves_the_depths() -> None:
    with torch.device("meta"):
        space = create_supernet("ofa_mobilenetv3_tiny", resolution=[32], coupled=["kernel", "expand"]).space
        free = create_supernet("ofa_mobilenetv3_tiny", resolution=[32]).space
    assert space.num_archs == 3**4  # four stages of one to three blocks
    assert space.names == free.names
    for depth, kernel, expand in [(1, 3, 2), (2, 3, 3), (3, 5, 4)]:
        row = space.to_population(space.largest())
        row[0, space.column("stage2.depth")] = depth - 1
        (arch,) = space.to_archs(row)
        inside = {name: value for name, value in arch.items() if name.startswith("stage2.block")}
        expected = {f"stage2.block{block}.kernel": kernel for block in range(depth)}
        assert inside == expected | {f"stage2.block{block}.expand": expand for block in range(depth)}
        assert free.arch(dict(arch)) == arch  # what a coupled space holds, the free one holds as well


def test_stages_of_one_depth_have_nothing_to_couple_to() -> None:
    with torch.device("meta"):
        space = create_supernet(
            "ofa_mobilenetv3_tiny", depth={"stage1": ["100%"], "*": [1, 3]}, kernel=["100%"], coupled=["expand"]
        ).space
    assert "stage1.depth" not in space
    assert {space[f"stage1.block{block}.expand"].follows for block in range(3)} == {None}
    assert {space[f"stage2.block{block}.expand"].follows for block in range(3)} == {"stage2.depth"}
    assert space.num_archs == 4 * 3**3 * 2**3


def test_transformers_can_be_coupled() -> None:
    with torch.device("meta"):
        supernet = create_supernet("vit_tiny", coupled=["mlp_ratio", "heads"])
        assert supernet.space.num_archs == 3 * 3  # depths × widths
        subnet = supernet.subnet(supernet.space.smallest())
    assert len(list(subnet.get_submodule("blocks").children())) == 12
