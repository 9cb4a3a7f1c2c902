"""AutoFormer's weights and notation, against logits of its own code."""

from __future__ import annotations

import json
import zlib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ofa
from ofa import workflow
from ofa.space import SpaceError
from ofa.supernet import Supernet, create_supernet
from ofa.supernet.autoformer_nets import SIZES
from ofa.supernet.published.autoformer import PRESETS, arch_of, converted, preset_of
from ofa.supernet.weights import WeightsError, read_weights

from ..helpers import create_without_weights


def by_rule(name: str, shape: list[int]) -> Tensor:
    """The weights that the reference outputs were made with."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif "norm" in name and name.endswith("weight"):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = 0.2 * rng.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def released(name: str) -> dict[str, Tensor]:
    """A file's tensors, all zero and without memory of their own."""
    width, depth, heads = {"tiny": (256, 14, 4), "small": (448, 14, 7), "base": (640, 16, 10)}[name]
    qkv, hidden = 3 * 64 * heads, 4 * width
    block = {
        "attn.qkv": (qkv, width),
        "attn.proj": (width, 64 * heads),
        "fc1": (hidden, width),
        "fc2": (width, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, 197, width), "cls_token": (1, 1, width)}
    shapes |= {"patch_embed_super.proj.weight": (width, 3, 16, 16), "patch_embed_super.proj.bias": (width,)}
    for i in range(depth):
        for layer, shape in block.items():
            shapes |= {f"blocks.{i}.{layer}.weight": shape, f"blocks.{i}.{layer}.bias": shape[:1]}
        for norm in ("attn_layer_norm", "ffn_layer_norm"):
            shapes |= {f"blocks.{i}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        for table in ("k.embeddings_table_v", "k.embeddings_table_h", "v.embeddings_table_v", "v.embeddings_table_h"):
            shapes[f"blocks.{i}.attn.rel_pos_embed_{table}"] = (30, 64)
    shapes |= {"norm.weight": (width,), "norm.bias": (width,), "head.weight": (1000, width), "head.bias": (1000,)}
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def tiny() -> Supernet:
    return create_without_weights("autoformer_tiny")


@pytest.mark.parametrize("name", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_logits_are_those_of_the_published_code(name: str, real_data: Path) -> None:
    facts = json.loads((real_data / "published" / f"autoformer_{name}.json").read_text())
    logits = torch.from_numpy(np.load(real_data / "published" / f"autoformer_{name}.npz")["logits"])
    tensors = {key: by_rule(key, shape) for key, shape in facts["tensors"]}
    assert {key: each.shape for key, each in tensors.items()} == {k: t.shape for k, t in released(name).items()}
    supernet = create_supernet(preset_of(tensors)).eval()
    supernet.model.load_state_dict(converted(f"autoformer_{name}", tensors))
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32))
    for config, num_parameters, expected in zip(
        facts["archs"], facts["num_parameters_as_they_count"], logits, strict=True
    ):
        arch = supernet.space.arch(arch_of(f"autoformer_{name}", config))
        subnet = supernet.extract(arch)
        limit = 1e-5 * float(expected.abs().max())
        with torch.no_grad():
            for found in (supernet(images, arch), subnet(images)):
                torch.testing.assert_close(found[0], expected, atol=limit, rtol=0)
        assert sum(parameter.numel() for parameter in subnet.parameters()) == num_parameters


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_known_by_its_file(preset: str) -> None:
    tensors = released(preset.removeprefix("autoformer_"))
    assert preset_of(tensors) == preset
    with torch.device("meta"):
        own = SIZES[preset].model().state_dict()
    found = converted(preset, tensors)
    assert {name: each.shape for name, each in found.items()} == {name: each.shape for name, each in own.items()}
    assert all(tensor.is_contiguous() for tensor in found.values())


def test_a_file_is_read(tmp_path: Path) -> None:
    """With the options that its training had beside the weights."""
    tensors = released("tiny")
    torch.save({"model": tensors, "epoch": 499, "args": Namespace(gp=True)}, tmp_path / "supernet-tiny.pth")
    assert preset_of(read_weights(tmp_path / "supernet-tiny.pth")) == "autoformer_tiny"


def test_another_file_is_refused() -> None:
    with pytest.raises(
        WeightsError, match=r"no released AutoFormer: 'pos_embed' is missing, .* 256 \(autoformer_tiny\)"
    ):
        preset_of({"conv_stem.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"'pos_embed' is \(1, 197, 768\)"):
        preset_of({"pos_embed": torch.zeros(1, 197, 768)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("blocks.3.fc1.bias"), r"'blocks.3.fc1.bias' is \(1024,\) in the released file and missing"),
        (
            lambda x: x.update({"norm.bias": torch.zeros(240)}),
            r"'autoformer_tiny': 'norm.bias' is \(256,\) .* and \(240,\)",
        ),
        (lambda x: x.update({"blocks.14.fc1.bias": torch.zeros(2)}), r"'blocks.14.fc1.bias' is nothing .* and \(2,\)"),
        (lambda x: x.update({"norm.bias": torch.full((256,), torch.nan)}), "'norm.bias' that are not finite"),
    ],
    ids=["missing", "of another shape", "unknown", "not finite"],
)
def test_the_first_misfit_is_named(change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    tensors = released("tiny")
    change(tensors)
    with pytest.raises(WeightsError, match=message):
        converted("autoformer_tiny", tensors)


# -- architectures -----------------------------------------------------------------------------------------------------


def config(depth: int = 12, width: int = 192, heads: int = 3, ratio: float = 3.5) -> dict[str, Any]:
    return {
        "layer_num": depth,
        "embed_dim": [width] * depth,
        "num_heads": [heads] * depth,
        "mlp_ratio": [ratio] * depth,
    }


def test_architectures_are_those_of_the_space(tiny: Supernet) -> None:
    assert tiny.space.arch(arch_of("autoformer_tiny", config())) == tiny.space.smallest()
    largest = arch_of("autoformer_tiny", config(14, 240, 4, 4.0))
    assert tiny.space.arch(largest) == tiny.space.largest()
    assert type(largest["stage0.block0.mlp_ratio"]) is int  # as the space has it


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layer_num": 11}, r"'layer_num' cannot be 11; choices: \[12, 13, 14\]"),
        ({"layer_num": True}, r"'layer_num' cannot be True"),
        ({"num_heads": [3] * 11}, r"'num_heads' must be a list of 12 values, one for each of 'layer_num'"),
        ({"num_heads": 3}, r"'num_heads' must be a list of 12 values, .* not 3"),
        ({"num_heads": [3] * 11 + [5]}, r"'num_heads\[11\]' cannot be 5; choices: \[3, 4\]"),
        ({"mlp_ratio": ["4"] * 12}, r"'mlp_ratio\[0\]' cannot be '4'; choices: \[3.5, 4\]"),
        ({"embed_dim": [192] * 11 + [216]}, r"'embed_dim' must be the same in all layers"),
        ({"d": [2]}, r"says layer_num, embed_dim, num_heads, mlp_ratio, and not"),
    ],
)
def test_what_is_wrong_with_an_architecture_is_said(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        arch_of("autoformer_tiny", {**config(), **wrong})


def test_something_else_is_no_architecture() -> None:
    with pytest.raises(SpaceError, match=r"says layer_num, .* and not 'largest'"):
        arch_of("autoformer_tiny", "largest")  # type: ignore[arg-type]


def test_it_is_one_of_the_projects(tmp_path: Path) -> None:
    torch.save({"model": {name: each.clone() for name, each in released("tiny").items()}}, tmp_path / "tiny.pth")
    supernet = create_supernet("autoformer_tiny", weights=f"autoformer:{tmp_path / 'tiny.pth'}")
    assert not supernet.model.get_parameter("pos_embed").any()
    arch = ofa.published_arch("autoformer_tiny", config())
    assert arch == supernet.space.smallest()
    assert workflow.named_arch(supernet.space, json.dumps(config())) == arch
    with torch.device("meta"):
        other = create_supernet("ofa_mobilenetv3_tiny").space
    with pytest.raises(SpaceError, match=r"this space is another"):
        workflow.named_arch(other, json.dumps(config()))
