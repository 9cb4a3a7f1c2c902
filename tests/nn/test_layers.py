"""Layers whose tensors were narrowed against layers that are built with the smaller sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import (
    BatchNormAct2d,
    Conv2dSame,
    GroupNorm,
    LayerNorm,
    LayerNorm2d,
    RmsNorm,
    RmsNorm2d,
    ScaledStdConv2d,
    SimpleNorm,
)
from torch import Tensor, nn

from ofa.nn.layers import follow_tensors
from ofa.nn.structure import clone_structure

Make = Callable[..., Any]

# Layer with the full sizes, the same with the smaller ones, shape of the smaller one's input.
LAYERS: list[tuple[Make, tuple[Any, ...], tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv2d, (6, 8, 3), (4, 5, 3), {}, (2, 4, 7, 7)),
    (nn.Conv2d, (6, 8, 3), (6, 5, 3), {"stride": 2, "padding": 1, "bias": False}, (2, 6, 7, 7)),
    (nn.Conv2d, (8, 8, 5), (3, 3, 5), {"padding": 2, "groups": (8, 3)}, (2, 3, 7, 7)),
    (nn.Conv2d, (8, 16, 3), (3, 6, 3), {"groups": (8, 3)}, (2, 3, 7, 7)),
    (nn.Conv2d, (12, 8, 3), (6, 4, 3), {"groups": (4, 2)}, (2, 6, 7, 7)),
    (nn.Conv2d, (12, 8, 3), (3, 2, 3), {"groups": (4, 1)}, (2, 3, 7, 7)),
    (nn.Conv1d, (6, 8, 3), (4, 5, 3), {}, (2, 4, 7)),
    (Conv2dSame, (6, 8, 3), (4, 5, 3), {"stride": 2}, (2, 4, 7, 7)),
    (ScaledStdConv2d, (6, 8, 3), (6, 5, 3), {"bias": True}, (2, 6, 7, 7)),
    (nn.ConvTranspose2d, (6, 8, 2), (4, 5, 2), {"stride": 2}, (2, 4, 7, 7)),
    (nn.ConvTranspose1d, (6, 8, 2), (4, 5, 2), {"bias": False}, (2, 4, 7)),
    (nn.ConvTranspose2d, (8, 4, 2), (8, 2, 2), {"groups": (2, 2)}, (2, 8, 7, 7)),
    (nn.Linear, (6, 8), (4, 5), {}, (2, 3, 4)),
    (nn.Linear, (6, 8), (4, 8), {"bias": False}, (2, 4)),
    (nn.BatchNorm2d, (8,), (5,), {}, (2, 5, 7, 7)),
    (nn.BatchNorm1d, (8,), (5,), {}, (2, 5)),
    (nn.BatchNorm2d, (8,), (5,), {"affine": False}, (2, 5, 7, 7)),
    (nn.BatchNorm2d, (8,), (5,), {"track_running_stats": False}, (2, 5, 7, 7)),
    (BatchNormAct2d, (8,), (5,), {"act_layer": nn.SiLU}, (2, 5, 7, 7)),
    (nn.LayerNorm, (8,), (5,), {}, (2, 3, 5)),
    (nn.LayerNorm, (8,), (5,), {"bias": False, "eps": 1e-3}, (2, 3, 5)),
    (LayerNorm, (8,), (5,), {}, (2, 3, 5)),
    (LayerNorm2d, (8,), (5,), {}, (2, 5, 7, 7)),
    (nn.RMSNorm, (8,), (5,), {}, (2, 3, 5)),
    (RmsNorm, (8,), (5,), {}, (2, 3, 5)),
    (RmsNorm2d, (8,), (5,), {}, (2, 5, 7, 7)),
    (SimpleNorm, (8,), (5,), {}, (2, 3, 5)),
    (nn.GroupNorm, (1, 8), (1, 5), {}, (2, 5, 7, 7)),
    (nn.GroupNorm, (4, 8), (3, 6), {}, (2, 6, 7, 7)),
    (nn.GroupNorm, (8, 8), (5, 5), {}, (2, 5, 7, 7)),
    (GroupNorm, (8, 4), (6, 3), {}, (2, 6, 7, 7)),  # timm's takes the channels first
    (nn.PReLU, (8,), (5,), {}, (2, 5, 7, 7)),
]


def build(make: Make, sizes: tuple[Any, ...], options: dict[str, Any], which: int) -> Any:
    return make(*sizes, **{k: v[which] if isinstance(v, tuple) else v for k, v in options.items()}).eval()


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


def cut(tensors: dict[str, Tensor | None], shapes: dict[str, Tensor | None]) -> None:
    """Slice every tensor to the first entries of the shape that another has."""
    for name, tensor in tensors.items():
        smaller = shapes[name]
        if tensor is not None and smaller is not None:
            tensors[name] = tensor[tuple(slice(size) for size in smaller.shape)]


@pytest.mark.parametrize(
    ("make", "full", "small", "options", "shape"),
    LAYERS,
    ids=[f"{row[0].__module__.partition('.')[0]}.{row[0].__name__}-{row[1]}-{row[3]}" for row in LAYERS],
)
def test_a_narrowed_layer_is_a_layer_of_the_smaller_size(
    make: Make, full: tuple[Any, ...], small: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    layer, fresh = build(make, full, options, 0), build(make, small, options, 1)
    randomise(layer)
    text = repr(layer)
    narrow = clone_structure(layer)
    cut(narrow._parameters, fresh._parameters)
    cut(narrow._buffers, fresh._buffers)
    follow_tensors(narrow)
    assert repr(narrow) == repr(fresh)
    assert repr(layer) == text
    fresh.load_state_dict(narrow.state_dict())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(narrow(x), fresh(x))


@pytest.mark.parametrize("row", LAYERS, ids=lambda row: row[0].__name__)
def test_a_layer_that_was_not_narrowed_stays_as_it_is(row: Any) -> None:
    make, sizes, _, options, _ = row
    layer = build(make, sizes, options, 0)
    text, before = repr(layer), {k: v for k, v in vars(layer).items() if isinstance(v, (int, tuple))}
    follow_tensors(layer)
    assert repr(layer) == text
    assert {k: v for k, v in vars(layer).items() if isinstance(v, (int, tuple))} == before


def test_modules_that_hold_no_sizes_are_left_alone() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma, self.dim = nn.Parameter(torch.ones(4)), 8

    scale = Scale()
    follow_tensors(scale)
    assert scale.dim == 8


def test_one_prelu_for_all_channels() -> None:
    activation = nn.PReLU()
    follow_tensors(activation)
    assert activation.num_parameters == 1
