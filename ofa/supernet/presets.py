"""Named supernets: the published Once-for-All spaces and one for small images, built by timm's own builders."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import timm
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from ofa.space import unknown_name_message
from ofa.supernet.elasticize import elasticize
from ofa.supernet.supernet import Supernet


class UnknownModelError(ValueError):
    """Neither a preset nor a timm model has this name."""


def _mobilenetv3(
    arch_def: list[str], *, num_classes: int, in_chans: int, width: float = 1.0, stem: int = 16, features: int = 1280
) -> nn.Module:
    return MobileNetV3(
        decode_arch_def([[stage] for stage in arch_def]),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_size=stem,
        num_features=round_channels(features, width),
        head_bias=False,
        round_chs_fn=partial(round_channels, multiplier=width),
        act_layer=nn.Hardswish,
        se_layer=partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels),
    )


OFA_MOBILENETV3 = [
    "ds_r1_k3_s1_e1_c16_nre",
    "ir_r4_k7_s2_e6_c24_nre",
    "ir_r4_k7_s2_e6_c40_se0.25_nre",
    "ir_r4_k7_s2_e6_c80",
    "ir_r4_k7_s1_e6_c112_se0.25",
    "ir_r4_k7_s2_e6_c160_se0.25",
    "cn_r1_k1_s1_c960",
]

OFA_PROXYLESS = [
    "ds_r1_k3_s1_e1_c16",
    "ir_r4_k7_s2_e6_c24",
    "ir_r4_k7_s2_e6_c40",
    "ir_r4_k7_s2_e6_c80",
    "ir_r4_k7_s1_e6_c96",
    "ir_r4_k7_s2_e6_c192",
    "ir_r1_k7_s1_e6_c320",
]

# For 28 to 64 pixels: strides 2 (stem), 1, 2, 1, 2 and a fifth of the published widths.
OFA_MOBILENETV3_TINY = [
    "ds_r1_k3_s1_e1_c16_nre",
    "ir_r3_k5_s1_e4_c16_nre",
    "ir_r3_k5_s2_e4_c24_se0.25_nre",
    "ir_r3_k5_s1_e4_c40_se0.25",
    "ir_r3_k5_s2_e4_c64_se0.25",
    "cn_r1_k1_s1_c256",
]

PUBLISHED_CHOICES: dict[str, Sequence[Any]] = {
    "depth": (2, 3, 4),
    "kernel": (3, 5, 7),
    "expand": (3, 4, 6),
    "resolution": tuple(range(128, 225, 4)),
}


def _ofa_mobilenetv3(num_classes: int, in_chans: int, *, width: float) -> nn.Module:
    return _mobilenetv3(OFA_MOBILENETV3, num_classes=num_classes, in_chans=in_chans, width=width)


def _ofa_proxyless(num_classes: int, in_chans: int, *, width: float) -> nn.Module:
    return EfficientNet(
        decode_arch_def([[stage] for stage in OFA_PROXYLESS]),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_size=32,
        num_features=round_channels(1280, width),
        round_chs_fn=partial(round_channels, multiplier=width),
        act_layer=nn.ReLU6,
    )


def _ofa_mobilenetv3_tiny(num_classes: int, in_chans: int) -> nn.Module:
    return _mobilenetv3(OFA_MOBILENETV3_TINY, num_classes=num_classes, in_chans=in_chans, features=256)


Builder = Callable[[int, int], nn.Module]

PRESETS: dict[str, tuple[Builder, dict[str, Sequence[Any]]]] = {
    "ofa_mobilenetv3_w1.0": (partial(_ofa_mobilenetv3, width=1.0), PUBLISHED_CHOICES),
    "ofa_mobilenetv3_w1.2": (partial(_ofa_mobilenetv3, width=1.2), PUBLISHED_CHOICES),
    "ofa_proxyless_w1.3": (partial(_ofa_proxyless, width=1.3), PUBLISHED_CHOICES),
    "ofa_mobilenetv3_tiny": (
        _ofa_mobilenetv3_tiny,
        {"depth": (1, 2, 3), "kernel": (3, 5), "expand": (2, 3, 4), "resolution": (20, 24, 28, 32)},
    ),
}


def create_supernet(
    name: str, *, num_classes: int = 1000, in_chans: int = 3, pretrained: bool = False, **choices: Any
) -> Supernet:
    """A supernet by name.

    Args:
        name: A preset (see :data:`PRESETS`) or any timm model that :func:`ofa.elasticize` can convert.
        num_classes: Outputs of the classifier.
        in_chans: Channels of the input images.
        pretrained: Load timm's weights; presets have none.
        choices: Arguments of ``elasticize`` that replace the preset's own.

    Raises:
        UnknownModelError: If the name is unknown; it names the nearest.
    """
    if name in PRESETS:
        if pretrained:
            raise UnknownModelError(f"preset {name!r} has no pretrained weights; use pretrained=False or a timm model")
        build, preset_choices = PRESETS[name]
        return elasticize(build(num_classes, in_chans), **{**preset_choices, **choices})
    if not timm.is_model(name):
        presets = unknown_name_message("preset or timm model", name, PRESETS)
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise UnknownModelError(
            f"{presets}; timm models like it: {', '.join(near) or 'none'} (timm.list_models() has all)"
        )
    model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans)
    return elasticize(model, **choices)
