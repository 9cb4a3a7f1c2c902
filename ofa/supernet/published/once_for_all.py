"""Once-for-All's supernets (Cai et al., arXiv:1908.09791): names of their tensors, notation of their architectures.

Facts of https://github.com/mit-han-lab/once-for-all: what its own code computes with any weights, our presets do.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from timm.layers import make_divisible
from torch import Tensor

from ofa.errors import shown
from ofa.nn.conv import TRANSFORM
from ofa.space import SearchSpace, SpaceError, Value
from ofa.supernet.published.accuracy import accuracy_predictor
from ofa.supernet.published.project import Published
from ofa.supernet.weights import WeightsError

PRESETS = {
    "ofa_mobilenetv3_w1.0": "ofa_mbv3_d234_e346_k357_w1.0",
    "ofa_mobilenetv3_w1.2": "ofa_mbv3_d234_e346_k357_w1.2",
    "ofa_proxyless_w1.3": "ofa_proxyless_d234_e346_k357_w1.3",
    "ofa_resnet50d": "ofa_supernet_resnet50",
}

_STEMS = {16: "ofa_mobilenetv3_w1.0", 24: "ofa_mobilenetv3_w1.2", 40: "ofa_proxyless_w1.3"}
"""By the channels of the first convolution."""
_RESNET_DEPTHS = (4, 4, 6, 4)
_RESNET_WIDTHS = (0.65, 0.8, 1.0)

_OUTSIDE = {
    "first_conv.conv": "conv_stem",
    "first_conv.bn": "bn1",
    "final_expand_layer.conv": "blocks.6.0.conv",
    "final_expand_layer.bn": "blocks.6.0.bn1",
    "feature_mix_layer.conv": "conv_head",
    "feature_mix_layer.bn": "bn2",
    "classifier.linear": "classifier",
}
_FIRST_BLOCK = {
    "depth_conv.conv": "conv_dw",
    "depth_conv.bn": "bn1",
    "point_linear.conv": "conv_pw",
    "point_linear.bn": "bn2",
}
_BLOCK = {
    "inverted_bottleneck.conv": "conv_pw",
    "inverted_bottleneck.bn": "bn1",
    "depth_conv.conv": "conv_dw",
    "depth_conv.bn": "bn2",
    "depth_conv.se.fc.reduce": "se.conv_reduce",
    "depth_conv.se.fc.expand": "se.conv_expand",
    "point_linear.conv": "conv_pwl",
    "point_linear.bn": "bn3",
}
_RESNET_OUTSIDE = {
    **{f"input_stem.{i}.conv": f"conv1.{i}.conv" for i in range(3)},
    **{f"input_stem.{i}.bn": f"conv1.{i}.bn1" for i in (0, 2)},
    "input_stem.1.conv.bn": "conv1.1.bn1",
    "classifier.linear": "fc",
}
_BOTTLENECK = {
    **{f"conv{i}.conv": f"conv{i}" for i in (1, 2, 3)},
    **{f"conv{i}.bn": f"bn{i}" for i in (1, 2, 3)},
    "downsample.conv": "downsample.1",
    "downsample.bn": "downsample.2",
}


def preset_of(tensors: Mapping[str, Tensor]) -> str:
    """Which of :data:`PRESETS` tensors are of; :class:`WeightsError` if none."""
    plain = {_plain(name): tensor for name, tensor in tensors.items()}
    if "input_stem.0.conv.weight" in plain:
        return "ofa_resnet50d"
    stem = plain.get("first_conv.conv.weight")
    if stem is None or len(stem) not in _STEMS:
        raise WeightsError(
            f"these are no weights of Once-for-All's supernets, which are {', '.join(PRESETS.values())}: "
            f"the first tensor is {shown(next(iter(tensors), None))}"
        )
    return _STEMS[len(stem)]


def converted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of our presets, those of old files too; :class:`WeightsError` names one that is unknown."""
    plain = {_plain(name): tensor for name, tensor in tensors.items()}
    named = _named_in_resnet if any(name.startswith("input_stem.") for name in plain) else _named_in_mobile
    found = {}
    for name, tensor in plain.items():
        own = named(name)
        if own is None:
            known = ", ".join(PRESETS.values())
            raise WeightsError(f"tensor {shown(name)} is of none of Once-for-All's supernets, which are {known}")
        found[own] = tensor
    return found


def _plain(name: str) -> str:
    """A name without the wrappers of elastic layers, which files have at some times and not at others."""
    segments = name.replace(".mobile_inverted_conv.", ".conv.").split(".")
    return ".".join(segment for segment, _ in itertools.groupby(segments))


def _renamed(name: str, layers: Mapping[str, str], prefix: str = "") -> str | None:
    layer, _, leaf = name.rpartition(".")
    if matrix := re.fullmatch(r"(\dto\d)_matrix", leaf):
        leaf = TRANSFORM + matrix[1]
    return f"{prefix}{layers[layer]}.{leaf}" if layer in layers else None


def _named_in_mobile(name: str) -> str | None:
    block = re.fullmatch(r"blocks\.(\d+)\.conv\.(.+)", name)
    if block is None:
        return _renamed(name, _OUTSIDE)
    number = int(block[1])
    if number == 0:
        return _renamed(block[2], _FIRST_BLOCK, "blocks.0.0.")
    stage, position = divmod(number - 1, 4)
    return _renamed(block[2], _BLOCK, f"blocks.{stage + 1}.{position}.")


def _named_in_resnet(name: str) -> str | None:
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if block is None:
        return _renamed(name, _RESNET_OUTSIDE)
    places = [(stage, j) for stage, depth in enumerate(_RESNET_DEPTHS, start=1) for j in range(depth)]
    if int(block[1]) >= len(places):
        return None
    stage, position = places[int(block[1])]
    return _renamed(block[2], _BOTTLENECK, f"layer{stage}.{position}.")


# -- architectures -----------------------------------------------------------------------------------------------------


def arch_of(space: SearchSpace, config: Mapping[str, Any]) -> dict[str, Value]:
    """An architecture of one of the presets' spaces.

    Args:
        config: ``{"ks": kernels, "e": expand ratios, "d": depths, "r": [resolution]}``; of ResNets ``e``, ``r``, ``d``
            (of the stem, 2 if its second convolution is there, then blocks beyond two, two, four and two) and ``w``
            (numbers of the widths 0.65, 0.8 and 1: of the stem, of what leaves it, of each stage). ``ks`` and ``e``
            have an entry for each block of the largest subnet, and may be single numbers, which hold for all.
            ``wid``, which its older files have, says nothing.

    Raises:
        SpaceError: If a list has another length, a value is no choice, or the resolution is missing.
    """
    values: dict[str, Value] = {}
    if "resolution" in space.names:
        (values["resolution"],) = _listed(config, "r", 1)
    of_blocks = [dim.name for dim in space.dims if re.fullmatch(r"stage\d+\.block\d+\.expand", dim.name)]
    blocks = [name.rpartition(".")[0] for name in of_blocks]
    stages = list(dict.fromkeys(block.partition(".")[0] for block in blocks))
    if "w" in config:
        values |= _resnet_stages(space, config, stages)
    else:
        depths = _listed(config, "d", len(stages), least=sum(f"{stage}.depth" in space.names for stage in stages))
        values |= {f"{stage}.depth": depth for stage, depth in zip(stages, depths, strict=False)}
    for key, kind in (("ks", "kernel"), ("e", "expand")):
        if key in config or f"{blocks[0]}.{kind}" in space.names:
            values |= dict(zip((f"{block}.{kind}" for block in blocks), _listed(config, key, len(blocks)), strict=True))
    values = {name: value for name, value in values.items() if name in space.names or not name.endswith(".depth")}
    return {name: value for name, value in values.items() if _is_active(space, name, values)}


def _resnet_stages(space: SearchSpace, config: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Value]:
    stem, *more = _listed(config, "d", len(stages) + 1)
    widths = _listed(config, "w", len(stages) + 2)
    values: dict[str, Value] = {"stage0.depth": space["stage0.depth"].values[-1 if stem == 2 else 0]}
    for stage, depth in zip(stages, more, strict=True):
        values[f"{stage}.depth"] = int(space[f"{stage}.depth"].values[0]) + depth
    names = ["stage0.width", "stage0.width1", *(f"{stage}.width" for stage in stages)]
    for name, number in zip(names, widths, strict=True):
        if number not in range(len(_RESNET_WIDTHS)):
            raise SpaceError(f"'w' holds {shown(number)}; its entries are 0, 1 and 2, for {_RESNET_WIDTHS}")
        values[name] = make_divisible(int(space[name].values[-1]) * _RESNET_WIDTHS[int(number)], 8)
    return values


def _listed(config: Mapping[str, Any], key: str, num: int, *, least: int | None = None) -> list[Any]:
    """The entries of a key, one for each of ``num`` places; of so many at ``least``."""
    if key not in config:
        raise SpaceError(f"the architecture says no {key!r}; it has {', '.join(map(repr, config))}")
    entries = config[key]
    if not isinstance(entries, list):
        entries = [entries] * num
    if not (least or num) <= len(entries) <= num or not all(type(each) in (int, float) for each in entries):
        raise SpaceError(f"{key!r} is {shown(entries)}; it should be a list of {num} numbers, or one for all")
    return list(entries)


def _is_active(space: SearchSpace, name: str, values: Mapping[str, Value]) -> bool:
    requires = space[name].requires if name in space.names else None
    return requires is None or values.get(requires[0]) in requires[1]


PUBLISHED = Published(
    networks=PRESETS,
    preset_of=preset_of,
    converted=converted,
    arch_of=arch_of,
    notation=frozenset({"ks", "e", "d", "w", "r", "wid"}),
    accuracy_predictor=accuracy_predictor,
    project="https://github.com/mit-han-lab/once-for-all",
    licence="MIT",
    where="https://huggingface.co/han-cai/ofa, or what ofa_net(NAME, pretrained=True) of its own code leaves in .torch",
    accuracies={
        "ofa_mobilenetv3_w1.2": "80.0, 79.6 and 79.1 % at 595, 482 and 389 million MACs, each fine-tuned for 75 epochs",
        "ofa_resnet50d": "79.8 and 78.3 % at 4.1 and 1.8 thousand million MACs, fine-tuned",
    },
    pictures={
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
    },
)
