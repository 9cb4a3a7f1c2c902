"""AutoFormer's released supernets: their tensors by our names, and their notation of architectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ofa.errors import shown
from ofa.space import SearchSpace, SpaceError
from ofa.supernet.autoformer_nets import SIZES
from ofa.supernet.published.project import Published
from ofa.supernet.weights import WeightsError, not_finite

PRESETS = tuple(SIZES)

THEIRS = {  # ours -> theirs, the longer first
    "patch_embed.": "patch_embed_super.",
    ".attn.keys.": ".attn.rel_pos_embed_k.",
    ".attn.values.": ".attn.rel_pos_embed_v.",
    ".vertical": ".embeddings_table_v",
    ".horizontal": ".embeddings_table_h",
    ".norm1.": ".attn_layer_norm.",
    ".norm2.": ".ffn_layer_norm.",
    ".mlp.": ".",
}


def preset_of(tensors: Mapping[str, Tensor]) -> str:
    """The preset whose released file this is, as its position embedding is wide.

    Raises:
        WeightsError: If it is none's.
    """
    table = tensors.get("pos_embed")
    shape = None if table is None else tuple(table.shape)
    for name, size in SIZES.items():
        if shape is not None and shape[-1:] == (size.released_width,):
            return name
    widths = ", ".join(f"{size.released_width} ({name})" for name, size in SIZES.items())
    raise WeightsError(
        f"the weights are of no released AutoFormer: 'pos_embed' is {shape or 'missing'}, and as wide as {widths} "
        "there; give a supernet's file, such as supernet-tiny.pth"
    )


def preset_of_space(space: SearchSpace) -> str:
    """The preset whose space this is, or a part of it; :class:`SpaceError` if none's."""
    for name, size in SIZES.items():
        if "stem.width" in space.names and space["stem.width"].values[-1] == size.width[-1]:
            return name
    raise SpaceError(f"an architecture of AutoFormer's is one of {', '.join(PRESETS)}; this space is another")


def converted(preset: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors by the names of our model, cut to the largest choice.

    Rows of their joint layer stand query, key, value, query ..., head after head; ours stand all queries, all keys, all
    values. Its bias stays as it is, see :class:`~ofa.nn.query_key_value.QueryKeyValue`.

    Args:
        preset: One of :data:`PRESETS`.

    Raises:
        WeightsError: If a tensor is missing, of another shape, unknown or not finite; it names the first.
    """
    size = SIZES[preset]
    with torch.device("meta"):
        own, released = size.model().state_dict(), size.model(embed_dim=size.released_width).state_dict()
    names = {name: _theirs(name) for name in own}
    for name, theirs in names.items():
        found, wanted = tensors.get(theirs), tuple(released[name].shape)
        if found is None or tuple(found.shape) != wanted:
            raise _misfit(preset, theirs, wanted, "missing" if found is None else tuple(found.shape))
    if unknown := sorted(tensors.keys() - set(names.values())):
        raise _misfit(preset, unknown[0], "nothing", tuple(tensors[unknown[0]].shape))
    if (bad := not_finite(tensors)) is not None:
        raise WeightsError(f"the weights hold values in {bad!r} that are not finite; fetch the file again")
    result = {}
    for name, whole in own.items():
        tensor = tensors[names[name]]
        if name.endswith(".qkv.weight"):
            tensor = tensor.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)
        result[name] = tensor[tuple(map(slice, whole.shape))].contiguous()
    return result


def _theirs(name: str) -> str:
    for mine, theirs in THEIRS.items():
        name = name.replace(mine, theirs)
    return name


def _misfit(preset: str, name: str, wanted: object, found: object) -> WeightsError:
    return WeightsError(
        f"the weights do not fit {preset!r}: {name!r} is {wanted} in the released file and {found} in this one; give "
        "the supernet's file as it was published"
    )


def arch_of(preset: str, config: Mapping[str, Any]) -> dict[str, int | float]:
    """An architecture of ours for one in AutoFormer's notation.

    Args:
        preset: One of :data:`PRESETS`.
        config: ``{"layer_num": 12, "embed_dim": [192, ...], "num_heads": [3, ...], "mlp_ratio": [3.5, ...]}``, lists
            with one entry for each layer; the width is the same in all layers.

    Returns:
        Every active dim of the preset's space.

    Raises:
        SpaceError: If a key is missing or unknown, a list has another length, or a value is not among the choices.
    """
    size = SIZES[preset]
    keys = ("layer_num", "embed_dim", "num_heads", "mlp_ratio")
    if not isinstance(config, Mapping) or config.keys() != set(keys):
        raise SpaceError(f"an architecture of AutoFormer's says {', '.join(keys)}, and not {shown(config)}")
    depth = int(_choice("layer_num", config["layer_num"], size.depth))
    widths, heads, ratios = (
        [_choice(f"{key}[{i}]", value, choices) for i, value in enumerate(_entries(key, config[key], depth))]
        for key, choices in zip(keys[1:], (size.width, size.heads, size.mlp_ratio), strict=True)
    )
    if len(set(widths)) > 1:
        raise SpaceError(f"'embed_dim' must be the same in all layers, as the shortcuts add them, not {shown(widths)}")
    arch = {"resolution": 224, "stem.width": widths[0], "stage0.depth": depth}
    for i in range(depth):
        arch |= {f"stage0.block{i}.mlp_ratio": ratios[i], f"stage0.block{i}.heads": heads[i]}
    return arch


def _entries(key: str, given: Any, depth: int) -> list[Any]:
    if not isinstance(given, (list, tuple)) or len(given) != depth:
        raise SpaceError(f"{key!r} must be a list of {depth} values, one for each of 'layer_num', not {shown(given)}")
    return list(given)


def _choice(key: str, given: Any, choices: tuple[float, ...]) -> int | float:
    """The choice that a value equals, which may be written as 4 or 4.0."""
    for choice in choices:
        if not isinstance(given, bool) and given == choice:
            return choice
    raise SpaceError(f"{key!r} cannot be {shown(given)}; choices: {list(choices)}")


PUBLISHED = Published(
    networks={name: f"supernet-{name.removeprefix('autoformer_')}" for name in PRESETS},
    preset_of=preset_of,
    converted=lambda tensors: converted(preset_of(tensors), tensors),
    arch_of=lambda space, config: arch_of(preset_of_space(space), config),
    notation=frozenset({"layer_num", "embed_dim", "num_heads", "mlp_ratio"}),
    project="https://github.com/microsoft/Cream",
    licence="MIT",
    where="https://github.com/microsoft/Cream/tree/main/AutoFormer, supernet-tiny.pth and the like",
    accuracies={
        "autoformer_tiny": "74.7 % with 5.7 million parameters, as it comes out of the supernet",
        "autoformer_small": "81.7 % with 22.9 million parameters, as it comes out of the supernet",
        "autoformer_base": "82.4 % with 54 million parameters, as it comes out of the supernet",
    },
    pictures={
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
    },
)
