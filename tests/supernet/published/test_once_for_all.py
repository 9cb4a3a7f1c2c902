"""Once-for-All's networks as its own code computes them, with weights that follow a rule (see the README there)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ofa
from ofa.space import SpaceError
from ofa.supernet import create_supernet
from ofa.supernet.published import own_notation
from ofa.supernet.published.once_for_all import arch_of, converted, preset_of
from ofa.supernet.weights import WeightsError

NETWORKS = {
    "ofa_mbv3_w1.0": "ofa_mobilenetv3_w1.0",
    "ofa_mbv3_w1.2": "ofa_mobilenetv3_w1.2",
    "ofa_proxyless_w1.3": "ofa_proxyless_w1.3",
    "ofa_resnet50": "ofa_resnet50d",
}
SIZE = 128


def made_by_rule(name: str, shape: list[int]) -> Tensor:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        values = 0.2 * rng.standard_normal(shape)
    elif name.endswith("_matrix"):
        values = np.eye(shape[0]) + 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1 and ".bn." in name and name.endswith("weight"):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = 0.2 * rng.standard_normal(shape)
    else:
        values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def facts_of(name: str, data: Path) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    folder = data / "published"
    return json.loads((folder / f"{name}.json").read_text()), np.load(folder / f"{name}.npz")["logits"]


def checkpoint(facts: Mapping[str, Any], path: Path) -> Path:
    torch.save({"state_dict": {name: made_by_rule(name, shape) for name, shape in facts["tensors"]}}, path)
    return path


@pytest.mark.parametrize(
    ("name", "preset"),
    [pytest.param(*pair, marks=[pytest.mark.slow] * (pair[1] != "ofa_resnet50d")) for pair in NETWORKS.items()],
)
def test_all_architectures_compute_what_its_own_code_does(
    name: str, preset: str, real_data: Path, tmp_path: Path
) -> None:
    facts, logits = facts_of(name, real_data)
    file = checkpoint(facts, tmp_path / "net")
    supernet = create_supernet(preset, weights=f"once-for-all:{file}").eval()
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32))
    for config, expected, num_parameters in zip(facts["archs"], logits, facts["num_parameters"], strict=True):
        whole = {**supernet.space.largest(), "resolution": SIZE}
        arch = whole if config is None else ofa.published_arch(preset, {**config, "r": [SIZE]})
        subnet, largest = supernet.extract(arch), np.abs(expected).max()
        with torch.no_grad():
            found = subnet(image).numpy()[0]
        assert sum(each.numel() for each in subnet.parameters()) == num_parameters
        difference = np.abs(found - expected).max() / largest
        if difference >= 1e-5:
            # With weights that nobody trained a few networks amplify their own rounding, in which no machines agree.
            with torch.no_grad():
                exactly = subnet.double()(image.double()).numpy()[0]
            assert difference < min(5e-3, 3 * np.abs(found - exactly).max() / largest)
    with torch.no_grad():
        np.testing.assert_allclose(supernet(image, arch).numpy()[0], found, rtol=1e-4, atol=1e-5 * largest)


def test_old_and_new_names_are_the_same() -> None:
    def file(names: list[str]) -> dict[str, Tensor]:
        return {"first_conv.conv.weight": torch.zeros(16, 3, 3, 3), **{name: torch.zeros(1) for name in names}}

    new = converted(file(["blocks.5.conv.depth_conv.conv.conv.weight", "blocks.5.conv.depth_conv.conv.7to5_matrix"]))
    old = converted(
        file(
            [
                "blocks.5.mobile_inverted_conv.depth_conv.conv.weight",
                "blocks.5.mobile_inverted_conv.depth_conv.conv.7to5_matrix",
            ]
        )
    )
    assert (
        [*new]
        == [*old]
        == ["conv_stem.weight", "blocks.2.0.conv_dw.weight", "blocks.2.0.conv_dw.kernel_transform_7to5"]
    )
    of_resnet = {"input_stem.0.conv.conv.weight", "input_stem.1.conv.conv.conv.weight", "input_stem.1.conv.bn.bn.bias"}
    assert [*converted(dict.fromkeys(sorted(of_resnet), torch.zeros(1)))] == [
        "conv1.0.conv.weight",
        "conv1.1.bn1.bias",
        "conv1.1.conv.weight",
    ]


def test_a_preset_is_known_by_its_tensors() -> None:
    assert preset_of({"first_conv.conv.weight": torch.zeros(24, 3, 3, 3)}) == "ofa_mobilenetv3_w1.2"
    assert preset_of({"first_conv.conv.weight": torch.zeros(40, 3, 3, 3)}) == "ofa_proxyless_w1.3"
    assert preset_of({"input_stem.0.conv.weight": torch.zeros(32, 3, 3, 3)}) == "ofa_resnet50d"
    with pytest.raises(WeightsError, match=r"no weights of Once-for-All.*first tensor is 'conv_stem.weight'"):
        preset_of({"conv_stem.weight": torch.zeros(16, 3, 3, 3)})


def test_foreign_tensors_are_named() -> None:
    with pytest.raises(WeightsError, match=r"'layers.0.weight' is of none of Once-for-All's supernets"):
        converted({"layers.0.weight": torch.zeros(1)})


def test_weights_need_their_matrices(tmp_path: Path) -> None:
    tensors = {
        "first_conv.conv.weight": torch.zeros(16, 3, 3, 3),
        "blocks.1.conv.depth_conv.conv.7to5_matrix": torch.zeros(25, 25),
    }
    torch.save({"state_dict": tensors}, tmp_path / "net")
    with torch.device("meta"), pytest.raises(WeightsError, match=r"set model\.kernel_transforms=true"):
        create_supernet("ofa_mobilenetv3_w1.0", weights=f"once-for-all:{tmp_path / 'net'}", kernel_transforms=False)


def test_single_numbers_hold_for_all() -> None:
    with torch.device("meta"):
        mobile, resnet = (create_supernet(name).space for name in ("ofa_mobilenetv3_w1.0", "ofa_resnet50d"))
    assert mobile.arch(arch_of(mobile, {"ks": 7, "e": 6, "d": 4, "r": [224]})) == mobile.largest()
    assert mobile.arch(arch_of(mobile, {"ks": 3, "e": 3, "d": 2, "r": 128})) == mobile.smallest()
    assert resnet.arch(arch_of(resnet, {"d": 2, "e": 0.35, "w": 2, "r": 224})) == resnet.largest()
    older = {"wid": None, "ks": 7, "e": 6, "d": 4, "r": [224]}
    assert mobile.arch(own_notation(mobile, older)) == mobile.largest()
    assert resnet.arch(arch_of(resnet, {"d": 2, "e": 0.35, "w": 2.0, "r": 224})) == resnet.largest()
    assert resnet.arch(arch_of(resnet, {"d": 0, "e": 0.2, "w": 0, "r": 128})) == resnet.smallest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": [3] * 19}, r"'ks' is \[3, .*it should be a list of 20 numbers"),
        ({"e": 5}, r"expand' cannot be 5; choices: \[3, 4, 6\]"),
        ({"r": [225]}, r"'resolution' cannot be 225"),
        ({"d": "deep"}, r"'d' is .*deep"),
        ({"r": None}, r"'r' is \[None\]"),
    ],
)
def test_what_does_not_fit_is_said(change: Mapping[str, Any], message: str) -> None:
    config = {"ks": 7, "e": 6, "d": 4, "r": [224], **change}
    with pytest.raises(SpaceError, match=message):
        ofa.published_arch("ofa_mobilenetv3_w1.0", config)


def test_a_resolution_is_asked_for() -> None:
    with pytest.raises(SpaceError, match="says no 'r'"):
        ofa.published_arch("ofa_mobilenetv3_w1.0", {"ks": 7, "e": 6, "d": 4})
