"""Layers whose attributes repeat the sizes of their tensors: what to set once the tensors were narrowed."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrizations import _SpectralNorm

# Written past ``Module.__setattr__``, which takes longer than all the rest.


@functools.singledispatch
def follow_tensors(module: Any) -> None:
    """Set the sizes that a layer keeps as attributes to those of its tensors, in place on a clone.

    Of other modules than those below, only what holds ``normalized_shape`` changes: it is taken for a ``LayerNorm``.
    """
    if hasattr(module, "normalized_shape") and getattr(module, "weight", None) is not None:
        vars(module).update(normalized_shape=tuple(module.weight.shape))


@follow_tensors.register(_ConvNd)
def _(conv: Any) -> None:
    # Grouped convolutions keep the size of their groups and lose whole groups.
    leading, per_group = conv.weight.shape[:2]
    if conv.transposed:
        vars(conv).update(in_channels=leading, out_channels=per_group * conv.groups)
        return
    groups = leading // (conv.out_channels // conv.groups) if conv.groups > 1 else 1
    vars(conv).update(groups=groups, in_channels=per_group * groups, out_channels=leading)


@follow_tensors.register(nn.Linear)
def _(linear: Any) -> None:
    out_features, in_features = linear.weight.shape
    vars(linear).update(out_features=out_features, in_features=in_features)


@follow_tensors.register(_NormBase)
def _(norm: Any) -> None:
    tensor = norm.weight if norm.weight is not None else norm.running_mean
    vars(norm).update(num_features=tensor.shape[0])


@follow_tensors.register(nn.GroupNorm)
def _(norm: Any) -> None:
    num_channels = norm.weight.shape[0]
    num_groups = max(1, num_channels // (norm.num_channels // norm.num_groups))
    vars(norm).update(num_groups=num_groups, num_channels=num_channels)


@follow_tensors.register(nn.RNNBase)
def _(layer: Any) -> None:
    weights = [layer._parameters[name] for name in layer._flat_weights_names]  # which it hands to the kernel
    input_size, hidden_size = layer.weight_ih_l0.shape[1], layer.weight_hh_l0.shape[1]
    if layer.proj_size:  # which is what the layer hears of itself, then
        vars(layer).update(proj_size=hidden_size)
        hidden_size = layer.weight_hr_l0.shape[1]
    vars(layer).update(input_size=input_size, hidden_size=hidden_size, _flat_weights=weights)


@follow_tensors.register(nn.RNNCellBase)
def _(cell: Any) -> None:
    vars(cell).update(input_size=cell.weight_ih.shape[1], hidden_size=cell.weight_hh.shape[1])


@follow_tensors.register(nn.MultiheadAttention)
def _(attention: Any) -> None:
    vars(attention).update(_qkv_same_embed_dim=False)  # or a TransformerEncoderLayer hands it to a kernel for all heads


@follow_tensors.register(_SpectralNorm)
def _(parametrisation: Any) -> None:
    for name in ("_u", "_v"):  # parts of what were unit vectors
        vector = parametrisation._buffers.get(name)
        if vector is not None and vector.is_floating_point():
            parametrisation._buffers[name] = functional.normalize(vector, dim=0, eps=parametrisation.eps)


@follow_tensors.register(nn.PReLU)
def _(activation: Any) -> None:
    vars(activation).update(num_parameters=activation.weight.shape[0])
