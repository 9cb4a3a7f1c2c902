"""Layers whose attributes repeat the sizes of their tensors: what to set once the tensors were narrowed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

# Written past ``Module.__setattr__``, which takes longer than all the rest.


def _conv(conv: Any) -> None:
    # Grouped convolutions keep the size of their groups and lose whole groups.
    leading, per_group = conv.weight.shape[:2]
    if conv.transposed:
        vars(conv).update(in_channels=leading, out_channels=per_group * conv.groups)
        return
    groups = leading // (conv.out_channels // conv.groups) if conv.groups > 1 else 1
    vars(conv).update(groups=groups, in_channels=per_group * groups, out_channels=leading)


def _linear(linear: Any) -> None:
    out_features, in_features = linear.weight.shape
    vars(linear).update(out_features=out_features, in_features=in_features)


def _batch_norm(norm: Any) -> None:
    tensor = norm.weight if norm.weight is not None else norm.running_mean
    vars(norm).update(num_features=tensor.shape[0])


def _layer_norm(norm: Any) -> None:
    vars(norm).update(normalized_shape=tuple(norm.weight.shape))


def _group_norm(norm: Any) -> None:
    num_channels = norm.weight.shape[0]
    num_groups = max(1, num_channels // (norm.num_channels // norm.num_groups))
    vars(norm).update(num_groups=num_groups, num_channels=num_channels)


def _prelu(activation: Any) -> None:
    vars(activation).update(num_parameters=activation.weight.shape[0])


LAYERS: dict[type[nn.Module], Callable[[Any], None]] = {
    _ConvNd: _conv,
    nn.Linear: _linear,
    _NormBase: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
}


@functools.cache
def _follower(kind: type[Any]) -> Callable[[Any], None] | None:
    return next((follow for base, follow in LAYERS.items() if issubclass(kind, base)), None)


def follow_tensors(module: nn.Module) -> None:
    """Set the sizes that a layer keeps as attributes to those of its tensors, in place on a clone.

    A module that none of :data:`LAYERS` knows keeps its attributes; layers of timm that hold ``normalized_shape``
    without being a ``LayerNorm`` are treated as one.
    """
    kind: Any = type(module)  # mypy does not take a class of modules for hashable
    follow = _follower(kind)
    if follow is not None:
        follow(module)
    elif hasattr(module, "normalized_shape") and getattr(module, "weight", None) is not None:
        _layer_norm(module)
