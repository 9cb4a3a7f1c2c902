"""Named supernets: the published Once-for-All and AutoFormer spaces and one for small images, from timm's builders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Attention, make_divisible
from timm.models._efficientnet_blocks import ConvBnAct, SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from ofa.errors import unknown_name_message
from ofa.inputs import InputSpec
from ofa.nn.conv import TRANSFORM
from ofa.space import Arch
from ofa.supernet.autoformer_nets import SIZES as AUTOFORMER_SIZES
from ofa.supernet.edsr import EDSR
from ofa.supernet.elasticize import OPTIONS, check_choices, elasticize, own_size
from ofa.supernet.model_sources import (
    UnknownModelError,
    anchors_of,
    inputs_of_source,
    is_source,
    model_of_source,
    settings_text,
)
from ofa.supernet.published import own_notation, published_weights
from ofa.supernet.sound_nets import NUM_BANDS, EcapaTdnn, KeywordNet
from ofa.supernet.stitching import Stitched, StitchError
from ofa.supernet.supernet import Supernet
from ofa.supernet.weights import WeightsError, fit_weights, load_weights, read_weights


def _of_stages(
    model_class: type[nn.Module], stages: list[str], *, width: float = 1.0, features: int = 1280, **settings: Any
) -> nn.Module:
    return model_class(
        decode_arch_def([[stage] for stage in stages]),
        num_features=round_channels(features, width),
        round_chs_fn=partial(round_channels, multiplier=width),
        **settings,
    )


_mobilenetv3 = partial(
    _of_stages,
    MobileNetV3,
    stem_size=16,
    head_bias=False,
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


RESNET50D_EXPAND = 0.35
RESNET50D_STEM = 32  # channels


def _resnet50d_bottleneck(inplanes: int, planes: int, *args: Any, **kwargs: Any) -> nn.Module:
    """timm's bottleneck with the published hidden width: 0.35 of what leaves the block, a multiple of 8."""
    hidden = make_divisible(planes * Bottleneck.expansion * RESNET50D_EXPAND, 8)
    return Bottleneck(inplanes, planes, *args, **{**kwargs, "base_width": 64 * hidden / planes})


_resnet50d_bottleneck.expansion = Bottleneck.expansion  # type: ignore[attr-defined]  # timm asks the block for it


_resnet50d_as_it_was = partial(
    ResNet,
    _resnet50d_bottleneck,  # type: ignore[arg-type]
    layers=(4, 4, 6, 4),
    stem_type="deep",
    stem_width=RESNET50D_STEM,
    avg_down=True,
)


def _resnet50d(**settings: Any) -> nn.Module:
    """timm's ResNet50D with the published stem: a shortcut passes by its second convolution, which so can go."""
    model, width = _resnet50d_as_it_was(**settings), RESNET50D_STEM
    model.conv1 = nn.Sequential(
        ConvBnAct(settings["in_chans"], width, 3, stride=2),
        ConvBnAct(width, width, 3, skip=True),
        ConvBnAct(width, 2 * width, 3),
    )
    model.bn1, model.act1 = nn.Identity(), nn.Identity()  # which are in the blocks
    model.init_weights()
    return model


def _autoformer_block(dim: int, num_heads: int, **kwargs: Any) -> nn.Module:
    """timm's block with heads of 64 channels, whatever the width of the embedding."""
    block = Block(dim, num_heads, **kwargs)
    block.attn = Attention(dim, num_heads, attn_head_dim=64, qkv_bias=kwargs["qkv_bias"])
    return block


_autoformer = partial(VisionTransformer, patch_size=16, depth=14, mlp_ratio=4, block_fn=_autoformer_block)  # type: ignore[arg-type]

_proxyless = partial(_of_stages, EfficientNet, OFA_PROXYLESS, width=1.3, stem_size=32, act_layer=nn.ReLU6)
_RESNET50D_CHOICES = {
    "expand": (0.2, 0.25, 0.35),
    "width": ("65%", "80%", "100%"),
    "resolution": PUBLISHED_CHOICES["resolution"],
}

PRESETS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "ofa_mobilenetv3_w1.0": (partial(_mobilenetv3, OFA_MOBILENETV3, width=1.0), PUBLISHED_CHOICES),
    "ofa_mobilenetv3_w1.2": (partial(_mobilenetv3, OFA_MOBILENETV3, width=1.2), PUBLISHED_CHOICES),
    "ofa_proxyless_w1.3": (
        partial(_proxyless, norm_layer=partial(nn.BatchNorm2d, eps=1e-3)),
        PUBLISHED_CHOICES,
    ),
    # The stem is its first stage; then [2, 2, 4, 2] blocks and up to two more.
    "ofa_resnet50d": (_resnet50d, {"depth": {"stage3": (4, 5, 6), "*": (2, 3, 4)}, **_RESNET50D_CHOICES}),
    "vit_tiny": (
        partial(_autoformer, embed_dim=240, num_heads=4),
        {"depth": (12, 13, 14), "heads": (3, 4), "mlp_ratio": (3.5, 4), "width": (192, 216, 240)},
    ),
    "vit_small": (
        partial(_autoformer, embed_dim=448, num_heads=7),
        {"depth": (12, 13, 14), "heads": (5, 6, 7), "mlp_ratio": (3, 3.5, 4), "width": (320, 384, 448)},
    ),
    **{name: (size.model, size.choices) for name, size in AUTOFORMER_SIZES.items()},
    "edsr": (EDSR, {"depth": (8, 12, 16), "expand": (0.5, 0.75, 1), "width": ("50%", "75%", "100%")}),
    "edsr_tiny": (
        partial(EDSR, num_blocks=6, num_channels=32),
        {"depth": (2, 4, 6), "expand": (0.5, 0.75, 1), "width": ("50%", "75%", "100%")},
    ),
    "keyword_net": (
        KeywordNet,
        {
            "depth": (3, 4, 6),
            "kernel": (5, 7, 9),
            "expand": (2, 3, 4),
            "width": ("67%", "83%", "100%"),
            "inputs": InputSpec.bands(NUM_BANDS, 100),
        },
    ),
    "ecapa_tdnn": (
        EcapaTdnn,
        {"width": ("50%", "75%", "100%"), "inputs": InputSpec.bands(NUM_BANDS, 100)},
    ),
    "ofa_mobilenetv3_tiny": (
        partial(_mobilenetv3, OFA_MOBILENETV3_TINY, features=256),
        {"depth": (1, 2, 3), "kernel": (3, 5), "expand": (2, 3, 4), "resolution": (20, 24, 28, 32)},
    ),
    "ofa_proxyless_w1.3_eps1e-5": (_proxyless, PUBLISHED_CHOICES),
    "ofa_resnet50d_plain_stem": (
        _resnet50d_as_it_was,
        {"depth": {"stage2": (4, 5, 6), "*": (2, 3, 4)}, **_RESNET50D_CHOICES},
    ),
}

BECAME = {
    "ofa_proxyless_w1.3": "ofa_proxyless_w1.3_eps1e-5",
    "ofa_resnet50d": "ofa_resnet50d_plain_stem",
}
"""Presets that are called otherwise since they compute what the published networks do: in runs of old."""


def create_supernet(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    input_size: Sequence[int] | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
    anchor_weights: Sequence[str | Path] = (),
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    **choices: Any,
) -> Supernet:
    """A supernet by name.

    Args:
        name: A preset (see :data:`PRESETS`), or any model that :func:`ofa.elasticize` can convert: timm's,
            ``torchvision:NAME``, ``transformers:FOLDER``, or ``path/file.py:function``, which is executed; or
            ``stitch:NAME,NAME`` of them.
        input_size: Height and width of images, in place of the model's own; ``resolution`` is the height, and the width
            keeps its proportion to it.
        num_classes, in_chans, pretrained, weights, anchor_weights, drop_rate, drop_path_rate: See :func:`create_model`.
            Published weights bring the matrices between their kernels along, unless ``kernel_transforms=False`` is
            among the choices.
        choices: Arguments of ``elasticize`` that replace the preset's own.

    Raises:
        SpaceError: If a choice is misspelt or malformed; before weights are fetched.
        UnknownModelError, ModelCodeError, StitchError, WeightsError: As :func:`create_model` does.
    """
    if "inputs" not in choices and (inputs := inputs_of_source(name)) is not None:
        choices = {**choices, "inputs": inputs}
    own = PRESETS[name][1] if name in PRESETS else {}
    if "kernel" in own and weights is not None and published_weights(weights) is not None:
        own = {**own, "kernel_transforms": True}
    spec = choices.get("inputs", own.get("inputs"))
    axes = [axis.name for axis in spec.axes] if isinstance(spec, InputSpec) else ["resolution"]
    check_choices(choices, besides=(*OPTIONS, *(create_supernet.__kwdefaults__ or ())), axes=axes)
    model = create_model(
        name,
        num_classes=num_classes,
        in_chans=in_chans,
        input_size=input_size,
        pretrained=pretrained,
        anchor_weights=anchor_weights,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    names = model.state_dict().keys()
    if "inputs" not in own and (input_size is not None or in_chans != 3):
        height, width = input_size or own_size(model)
        own = {**own, "inputs": torch.empty(1, in_chans, height, width, device="meta")}
    supernet = elasticize(model, **{**own, **choices})
    if weights is not None:  # now, for those of a supernet hold what became of the model besides
        _begin_from(supernet.model, weights, optional=supernet.model.state_dict().keys() - names)
    return supernet


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    input_size: Sequence[int] | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
    anchor_weights: Sequence[str | Path] = (),
    needs_classifier: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """The model of a preset, any of timm's, or one from elsewhere, see :mod:`ofa.supernet.model_sources`.

    Args:
        num_classes: Outputs of the classifier.
        in_chans: Channels of the input images.
        input_size: Height and width of images, for models whose weights depend on it.
        pretrained: Load timm's or torchvision's weights; presets have none.
        weights: Load this ``.safetensors`` file instead, see :func:`~ofa.supernet.weights.load_weights`; or what others
            published for a preset, ``once-for-all:FILE``, see :mod:`ofa.supernet.published`.
        anchor_weights: Such a file for each of stitched anchors, instead.
        needs_classifier: The file's classifier must be for the same classes.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block, growing linearly up to it; for models that have it.

    Raises:
        UnknownModelError: If the name is unknown; it names the nearest.
        ModelCodeError: If a file of the user's does not give a model.
        StitchError: If anchors cannot be stitched, or have another number of files.
        WeightsError: If the weights cannot be read, or are another model's.
    """
    rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    settings: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    settings |= {key: rate for key, rate in rates.items() if rate}
    if anchors := anchors_of(name):
        settings |= {"input_size": input_size, "needs_classifier": needs_classifier}
        model = _stitched(anchors, anchor_weights, pretrained=pretrained, **settings)
    elif is_source(name):
        settings |= rates
        model = model_of_source(name, pretrained=pretrained, needs_classifier=needs_classifier, **settings)
    elif name in PRESETS:
        if pretrained:
            raise UnknownModelError(f"preset {name!r} has no pretrained weights; use pretrained=False or a timm model")
        try:
            model = PRESETS[name][0](**settings)
        except TypeError as error:  # not all have dropout, or stochastic depth
            raise UnknownModelError(f"preset {name!r} is not made with {settings_text(settings)}: {error}") from None
    elif timm.is_model(name):
        try:
            model = timm.create_model(name, pretrained=pretrained, **settings)
        except TypeError as error:  # some models are no image classifiers of this form, or have no stochastic depth
            raise UnknownModelError(f"timm cannot build {name!r} with {settings_text(settings)}: {error}") from None
    else:
        known = [*PRESETS, *timm.list_models()]
        raise UnknownModelError(
            f"{unknown_name_message('preset or timm model', name, known, max_listed=5)} (timm.list_models() has all; "
            f"presets: {', '.join(PRESETS)})"
        )
    resize: Any = getattr(model, "set_input_size", None)  # timm's, of models whose weights depend on it
    if input_size is not None and resize is not None:
        resize(tuple(input_size))
    if weights is not None:
        _begin_from(model, weights, needs_classifier=needs_classifier)
    return model


def _stitched(anchors: Sequence[str], weights: Sequence[str | Path], *, pretrained: bool, **settings: Any) -> nn.Module:
    files: Sequence[str | Path | None] = weights or [None] * len(anchors)
    if len(files) != len(anchors):
        raise StitchError(f"there are {len(files)} files of weights for {len(anchors)} anchors; give one for each")
    models = [
        create_model(name, weights=file, pretrained=pretrained and file is None, **settings)
        for name, file in zip(anchors, files, strict=True)
    ]
    return Stitched(models, anchors)


def published_arch(preset: str, config: Mapping[str, Any]) -> Arch:
    """An architecture as others' code writes it, in the space of a preset.

    Args:
        config: Such as ``{"ks": [7, 5, …], "e": [3, 6, …], "d": [2, 3, …], "r": [224]}``, see
            :func:`ofa.supernet.published.once_for_all.arch_of`.

    Raises:
        SpaceError: If it does not fit the space.
    """
    with torch.device("meta"):
        space = create_supernet(preset).space
    return space.arch(own_notation(space, config))


def _begin_from(
    model: nn.Module, weights: str | Path, *, needs_classifier: bool = False, optional: Collection[str] = ()
) -> None:
    """Load a file of our names, or one of :data:`~ofa.supernet.published.PUBLISHED`."""
    found = published_weights(weights)
    if found is None:
        load_weights(model, weights, needs_classifier=needs_classifier, optional=optional)
        return
    published, path = found
    tensors = published.converted(read_weights(path))
    if TRANSFORM in " ".join(tensors) and TRANSFORM not in " ".join(model.state_dict()):
        raise WeightsError(
            f"weights {path} hold matrices that make small kernels of large ones, and the supernet has none: set "
            "model.kernel_transforms=true (kernel_transforms=True in Python)"
        )
    fit_weights(model, tensors, source=f"weights {path}", needs_classifier=needs_classifier, optional=optional)
