"""Small networks whose kernels are measured: drawn at random, over the sizes that real networks have.

Each is a block of one kind, some layers that are often found together, so that the runtime fuses them as it does in
networks, and kernels find their input where others left it. nn-Meter (Zhang et al., MobiSys 2021, sec. 4) times fused
operators alone; here a block's time is shared out among its kernels by :mod:`ofa.estimate.fit`.

Shapes: pictures ``(N, C, H, W)``, tokens ``(N, L, C)``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa.errors import unknown_name_message

Value = int | str
Built = tuple[nn.Module, tuple[int, ...]]

SIZES = (4, 7, 8, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
TOKENS = (16, 49, 50, 64, 98, 128, 144, 196, 197, 256, 257, 324, 400, 576, 784, 1024)
MAX_PARAMS, MAX_MACS, MAX_SIZE = 6_000_000, 600_000_000, 2_000_000  # of a sample; its input's elements
NEAR = 1.5  # by which a number is multiplied or divided at most, for a sample near another
MULTIPLES = (16, 8, 4, 1)
MULTIPLE_SHARES = (0.5, 0.25, 0.15, 0.1)


@dataclass(frozen=True)
class Span:
    """Whole numbers between two bounds, drawn evenly on a logarithmic scale; channels are mostly multiples of 8."""

    low: int
    high: int
    are_channels: bool = True

    def draw(self, rng: np.random.Generator) -> int:
        return self._rounded(math.exp(rng.uniform(math.log(self.low), math.log(self.high))), rng)

    def near(self, value: Value, rng: np.random.Generator) -> int:
        return self._rounded(int(value) * NEAR ** rng.uniform(-1, 1), rng)

    def _rounded(self, number: float, rng: np.random.Generator) -> int:
        multiple = int(rng.choice(MULTIPLES, p=MULTIPLE_SHARES)) if self.are_channels else 1
        return max(multiple, int(np.clip(round(number / multiple) * multiple, self.low, self.high)))


@dataclass(frozen=True)
class Choice:
    """One of some values, drawn evenly; those that stand twice are drawn twice as often."""

    values: tuple[Value, ...]

    def draw(self, rng: np.random.Generator) -> Value:
        return self.values[int(rng.integers(len(self.values)))]

    def near(self, value: Value, rng: np.random.Generator) -> Value:
        if not isinstance(value, int) or value not in self.values:
            return value
        ordered = sorted({number for number in self.values if isinstance(number, int)})
        place = ordered.index(value) + int(rng.integers(-1, 2))
        return ordered[min(max(place, 0), len(ordered) - 1)]


CHANNELS, NARROW = Span(8, 2048), Span(8, 320)
SIZE, TOKEN, DEPTH = Choice(SIZES), Choice(TOKENS), Choice((1, 2, 3))
KERNEL, STRIDE, FLAG = Choice((3, 3, 5, 7)), Choice((1, 1, 1, 2)), Choice((0, 1))
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "none": nn.Identity,
    "hard_swish": nn.Hardswish,
    "relu6": nn.ReLU6,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
    "sigmoid": nn.Sigmoid,
    "hard_sigmoid": nn.Hardsigmoid,
    "tanh": nn.Tanh,
    "gelu_tanh": partial(nn.GELU, "tanh"),
    "mish": nn.Mish,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "prelu": nn.PReLU,
}
ACTIVATION = Choice(
    ("relu", "relu", "relu", "silu", "silu", "gelu", "none", "none", "hard_swish", "relu6", "leaky_relu")
)


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Any:
        return self.function(inputs)


class Residual(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = super().forward(inputs)
        return inputs + outputs


def _sequence(layers: Sequence[nn.Module], *, is_residual: bool = False) -> nn.Module:
    return Residual(*layers) if is_residual else nn.Sequential(*layers)


def _conv(
    width: int, out: int, kernel: int = 1, activation: str = "none", stride: int = 1, groups: int = 1
) -> nn.Module:
    layer = nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups)
    return nn.Sequential(layer, ACTIVATIONS[activation]())


class Squeeze(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int, reduction: int, gate: str) -> None:
        super().__init__()
        inner = max(8, channels // reduction)
        self.layers = nn.Sequential(_conv(channels, inner, 1, "relu"), _conv(inner, channels, 1, gate))

    def forward(self, inputs: Tensor) -> Tensor:
        gates: Tensor = self.layers(inputs.mean((2, 3), keepdim=True))
        return inputs * gates


def convolution(channels: int, out: int, kernel: int, stride: int, size: int, activation: str, depth: int) -> Built:
    layers = [_conv(channels, out, kernel, activation, stride)]
    layers += [_conv(out, out, kernel, activation) for _ in range(depth - 1)]
    return nn.Sequential(*layers), (channels, size, size)


def pointwise(channels: int, out: int, stride: int, size: int, activation: str, depth: int) -> Built:
    layers = [_conv(channels, out, 1, activation, stride)]
    layers += [_conv(*pair, 1, activation) for pair in [(out, channels), (channels, out)][: depth - 1]]
    return nn.Sequential(*layers), (channels, size, size)


def depthwise(channels: int, kernel: int, stride: int, size: int, activation: str, depth: int) -> Built:
    strides = [stride, *[1] * (depth - 1)]
    layers = [_conv(channels, channels, kernel, activation, each, channels) for each in strides]
    return nn.Sequential(*layers), (channels, size, size)


def grouped(width: int, groups: int, stride: int, size: int, activation: str, depth: int) -> Built:
    channels, strides = width * groups, [stride, *[1] * (depth - 1)]
    layers = [_conv(channels, channels, 3, activation, each, groups) for each in strides]
    return nn.Sequential(*layers), (channels, size, size)


def stem(out: int, kernel: int, stride: int, size: int, activation: str) -> Built:
    return _conv(3, out, kernel, activation, min(stride, kernel)), (3, size, size)


def inverted(
    channels: int, ratio: int, kernel: int, stride: int, size: int, activation: str, squeeze: int, gate: str, depth: int
) -> Built:
    blocks = []
    for each in [stride, *[1] * (depth - 1)]:
        inner = channels * ratio
        layers = [_conv(channels, inner, 1, activation), _conv(inner, inner, kernel, activation, each, inner)]
        layers += [Squeeze(inner, 4 * ratio, gate)] if squeeze else []
        blocks.append(_sequence([*layers, _conv(inner, channels)], is_residual=each == 1))
    return nn.Sequential(*blocks), (channels, size, size)


def bottleneck(
    channels: int, ratio: int, groups: int, size: int, activation: str, squeeze: int, gate: str, depth: int
) -> Built:
    inner = max(groups, channels // ratio // groups * groups)
    blocks = []
    for _ in range(depth):
        layers = [_conv(channels, inner, 1, activation), _conv(inner, inner, 3, activation, groups=groups)]
        layers += [Squeeze(inner, 8, gate)] if squeeze else []
        blocks += [_sequence([*layers, _conv(inner, channels)], is_residual=True), ACTIVATIONS[activation]()]
    return nn.Sequential(*blocks), (channels, size, size)


class Dense(nn.Module):
    """Features that are normalised before, and put beside, those before them."""

    def __init__(self, channels: int, growth: int, kernel: int, activation: str) -> None:
        super().__init__()
        inner = _conv(channels, 2 * growth, 1, activation), _conv(2 * growth, growth, kernel)
        self.layers = nn.Sequential(nn.BatchNorm2d(channels), ACTIVATIONS[activation](), *inner)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, self.layers(inputs)], dim=1)


def dense(channels: int, growth: int, kernel: int, size: int, activation: str, depth: int) -> Built:
    layers = [Dense(channels + index * growth, growth, kernel, activation) for index in range(depth)]
    return nn.Sequential(*layers), (channels, size, size)


class Norm2d(nn.LayerNorm):
    """Of the channels of pictures."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def modern(channels: int, ratio: int, kernel: int, size: int, activation: str, by_linear: int, depth: int) -> Built:
    """A large depthwise kernel, layer normalisation, an MLP of channels that is linear layers or convolutions."""
    inner, blocks = channels * ratio, list[nn.Module]()
    for _ in range(depth):
        layers = [_conv(channels, channels, kernel, groups=channels)]
        if by_linear:
            mlp = [nn.Linear(channels, inner), ACTIVATIONS[activation](), nn.Linear(inner, channels)]
            turns = [Apply(lambda x: x.permute(0, 2, 3, 1)), Apply(lambda x: x.permute(0, 3, 1, 2))]
            layers += [turns[0], nn.LayerNorm(channels), *mlp, Scale(channels), turns[1]]
        else:
            layers += [Norm2d(channels), _conv(channels, inner, 1, activation), _conv(inner, channels)]
        blocks.append(Residual(*layers))
    return nn.Sequential(*blocks), (channels, size, size)


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale


class Attention(nn.Module):
    """Attention as most write it: queries, keys and values from one layer, heads apart.

    Args:
        form: ``sdpa``: torch's own function; ``products``: written out; ``bias``: with a bias for each pair of tokens.
    """

    def __init__(self, channels: int, head: int, tokens: int, form: str) -> None:
        super().__init__()
        self.num_heads, self.form, self.scale = max(1, channels // head), form, head**-0.5
        inner = self.num_heads * head
        self.qkv, self.proj = nn.Linear(channels, 3 * inner), nn.Linear(inner, channels)
        if form == "bias":
            self.bias = nn.Parameter(torch.full((1, self.num_heads, tokens, tokens), 0.1))

    def forward(self, inputs: Tensor) -> Tensor:
        batch, tokens, _ = inputs.shape
        q, k, v = self.qkv(inputs).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "sdpa":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            mixed = (scores + self.bias if self.form == "bias" else scores).softmax(dim=-1) @ v
        outputs: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return outputs


def _mlp(channels: int, ratio: int, activation: str) -> list[nn.Module]:
    layers = [nn.LayerNorm(channels), nn.Linear(channels, channels * ratio), ACTIVATIONS[activation]()]
    return [*layers, nn.Linear(channels * ratio, channels)]


def transformer(tokens: int, channels: int, head: int, ratio: int, activation: str, form: str, depth: int) -> Built:
    blocks = list[nn.Module]()
    for _ in range(depth):
        attention = Attention(channels, head, tokens, form)
        blocks += [Residual(nn.LayerNorm(channels), attention), Residual(*_mlp(channels, ratio, activation))]
    return nn.Sequential(*blocks, nn.LayerNorm(channels)), (tokens, channels)


class Windows(nn.Module):
    """Attention within square windows of a picture whose channels are last, shifted or not."""

    def __init__(self, channels: int, head: int, window: int, is_shifted: bool, form: str) -> None:
        super().__init__()
        self.attention, self.window = Attention(channels, head, window**2, form), window
        self.shift = window // 2 if is_shifted else 0

    def forward(self, inputs: Tensor) -> Tensor:
        batch, height, width, channels = inputs.shape
        size = self.window
        if self.shift:
            inputs = torch.roll(inputs, (-self.shift, -self.shift), (1, 2))
        cut = inputs.reshape(batch, height // size, size, width // size, size, channels)
        mixed = self.attention(cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, size**2, channels))
        put = mixed.reshape(batch, height // size, width // size, size, size, channels)
        outputs = put.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)
        return torch.roll(outputs, (self.shift, self.shift), (1, 2)) if self.shift else outputs


def windows(
    channels: int, head: int, window: int, across: int, is_shifted: int, form: str, ratio: int, activation: str
) -> Built:
    attention, size = Windows(channels, head, window, bool(is_shifted), form), window * across
    layers = [Residual(nn.LayerNorm(channels), attention), Residual(*_mlp(channels, ratio, activation))]
    return nn.Sequential(*layers), (size, size, channels)


def mixer(tokens: int, channels: int, inner: int, ratio: int, activation: str) -> Built:
    turn = [Apply(lambda x: x.transpose(1, 2)) for _ in range(2)]
    layers = [nn.Linear(tokens, inner), ACTIVATIONS[activation](), nn.Linear(inner, tokens)]
    first = Residual(nn.LayerNorm(channels), turn[0], *layers, turn[1])
    return nn.Sequential(first, Residual(*_mlp(channels, ratio, activation))), (tokens, channels)


def linear(rows: int, channels: int, out: int, activation: str, bias: int, depth: int) -> Built:
    widths = [channels, *[out, channels, out][:depth]]
    layers = [[nn.Linear(*pair, bias=bool(bias)), ACTIVATIONS[activation]()] for pair in pairwise(widths)]
    return nn.Sequential(*(each for pair in layers for each in pair)), (rows, channels) if rows > 1 else (channels,)


ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: x + x.flip(0),
    "gate": lambda x: x * (1.0 + x.mean((-2, -1), keepdim=True)),  # far from numbers so small that they are slow
    "gate_last": lambda x: x * (1.0 + x.mean(-1, keepdim=True)),
    "gate_tokens": lambda x: x * (1.0 + x.mean(-2, keepdim=True)),
    "multiply": lambda x: x * (1.0 + x),
    "subtract": lambda x: x - x.mean(-1, keepdim=True),
    "divide": lambda x: x / (1.5 + x * x),
    "normalise": lambda x: F.normalize(x, dim=-1),
    "negate": lambda x: -x,
    "root": lambda x: (x * x + 1.0).sqrt(),
    "exponential": lambda x: (-x * x).exp(),
    "softmax": lambda x: x.softmax(-1),
    "clip": lambda x: x.clamp(-1.0, 1.0),
    "maximum": lambda x: x.amax(-1, keepdim=True) + x,
}


def elementwise(rows: int, channels: int, op: str, depth: int) -> Built:
    each = Apply(ELEMENTWISE[op]) if op in ELEMENTWISE else ACTIVATIONS[op]()
    return nn.Sequential(*[each] * depth), (1, rows, channels)


def _shuffled(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)


MOVES: dict[str, Callable[[Tensor], Any]] = {
    "channels_last": lambda x: x.permute(0, 2, 3, 1) + 1.0,
    "channels_first": lambda x: x.permute(0, 3, 1, 2) + 1.0,
    "tokens": lambda x: x.flatten(2).transpose(1, 2) + 1.0,
    "swap": lambda x: x.transpose(1, 2) + 1.0,
    "roll": lambda x: torch.roll(x, (1, 1), (2, 3)),
    "shuffle": _shuffled,
    "concat": lambda x: torch.cat([x, x.abs()], 1),
    "concat_last": lambda x: torch.cat([x, x.abs()], -1),
    "split": lambda x: torch.cat([part.abs() for part in x.chunk(2, 1)], 1),
    "split_last": lambda x: torch.cat([part.abs() for part in x.chunk(2, -1)], -1),
    "first": lambda x: x[:, 0] + 1.0,
    "flatten": lambda x: x.flatten(1) + 1.0,
    "slice": lambda x: x[:, : x.shape[1] // 2] + 1.0,
    "strided": lambda x: x[:, :, ::2, ::2] + 1.0,
    "pad": lambda x: F.pad(x, (0, 2, 0, 2)),
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=[max(1, size * 3 // 4) for size in x.shape[2:]], mode="bicubic"),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x[:, : x.shape[1] // 4 * 4], 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2], 2),
}


def moving(channels: int, size: int, op: str) -> Built:
    return Apply(MOVES[op]), (channels // 2 * 2 or 2, size, size)


POOLS: dict[str, Callable[[int, int], nn.Module]] = {
    "max": lambda kernel, stride: nn.MaxPool2d(kernel, stride, kernel // 2),
    "average": lambda kernel, stride: nn.AvgPool2d(kernel, stride, kernel // 2),
    "global": lambda kernel, stride: Apply(lambda x: x.mean((2, 3), keepdim=True)),
    "global_max": lambda kernel, stride: nn.AdaptiveMaxPool2d(1),
    "enlarge": lambda kernel, stride: nn.Upsample(scale_factor=2, mode="nearest"),
    "sum": lambda kernel, stride: Apply(lambda x: x.sum(1)),
    "rows": lambda kernel, stride: Apply(lambda x: x.mean(2)),
    "channels": lambda kernel, stride: Apply(lambda x: x.mean(1, keepdim=True)),
}


def pooling(channels: int, size: int, op: str, kernel: int, stride: int, within: int) -> Built:
    """Alone, or between convolutions, in the layout that these have."""
    layers = [POOLS[op](kernel, stride)]
    if within:
        layers = [_conv(channels, channels, 3, "relu", groups=channels), *layers]
    return nn.Sequential(*layers), (channels, size, size)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
    "batch": lambda channels: nn.Sequential(Apply(lambda x: x.transpose(1, 2)), nn.BatchNorm1d(channels)),
    "group": lambda channels: nn.Sequential(Apply(lambda x: x.transpose(1, 2)), nn.GroupNorm(1, channels)),
}


def normalisation(tokens: int, channels: int, op: str) -> Built:
    return nn.Sequential(nn.ReLU(), NORMS[op](channels)), (tokens, channels)


@dataclass(frozen=True)
class Block:
    """A kind of small network.

    Args:
        build: Makes one, with the shape of its input, from values by name.
        ranges: Where each of these is drawn from.
        weight: How often it is drawn, beside the others.
    """

    build: Callable[..., Built]
    ranges: Mapping[str, Span | Choice] = field(default_factory=dict)
    weight: float = 1.0


_GATE, _RATIO = Choice(("sigmoid", "hard_sigmoid")), Choice((1, 2, 3, 4, 4, 6))
_FORM, _HEAD = Choice(("sdpa", "sdpa", "products", "bias")), Choice((16, 24, 32, 32, 48, 64, 64, 80))
_PICTURE = {"size": SIZE, "activation": ACTIVATION, "depth": DEPTH}
_SMOOTH = Choice(("gelu", "gelu", "silu", "relu", "gelu_tanh", "hard_swish"))

BLOCKS = {
    block.build.__name__: block
    for block in (
        Block(
            convolution, {"channels": CHANNELS, "out": CHANNELS, "kernel": KERNEL, "stride": STRIDE, **_PICTURE}, 2.0
        ),
        Block(pointwise, {"channels": CHANNELS, "out": CHANNELS, "stride": STRIDE, **_PICTURE}, 2.0),
        Block(depthwise, {"channels": CHANNELS, "kernel": Choice((3, 3, 5, 7, 9)), "stride": STRIDE, **_PICTURE}, 1.5),
        Block(grouped, {"width": Span(4, 128), "groups": Choice((2, 4, 8, 16, 32)), "stride": STRIDE, **_PICTURE}, 1.0),
        Block(
            stem,
            {
                "out": Span(16, 768),
                "kernel": Choice((3, 3, 4, 7, 8, 16, 32)),
                "stride": Choice((2, 2, 4, 8, 16, 32)),
                "size": Choice((128, 160, 192, 224, 240, 256, 288)),
                "activation": ACTIVATION,
            },
        ),
        Block(
            inverted,
            {
                "channels": NARROW,
                "ratio": _RATIO,
                "kernel": KERNEL,
                "stride": STRIDE,
                "squeeze": FLAG,
                "gate": _GATE,
                **_PICTURE,
            },
            1.5,
        ),
        Block(
            bottleneck,
            {
                "channels": Span(32, 2048),
                "ratio": Choice((1, 2, 4, 4)),
                "groups": Choice((1, 1, 1, 2, 8, 32)),
                "squeeze": FLAG,
                "gate": _GATE,
                **_PICTURE,
            },
            1.5,
        ),
        Block(dense, {"channels": Span(16, 1024), "growth": Span(8, 96), "kernel": KERNEL, **_PICTURE}),
        Block(
            modern,
            {
                "channels": Span(24, 768),
                "ratio": Choice((1, 2, 4, 4)),
                "kernel": Choice((3, 5, 7, 7)),
                "size": SIZE,
                "activation": _SMOOTH,
                "by_linear": FLAG,
                "depth": DEPTH,
            },
        ),
        Block(
            transformer,
            {
                "tokens": TOKEN,
                "channels": Span(48, 1024),
                "head": _HEAD,
                "ratio": Choice((2, 3, 4, 4)),
                "activation": _SMOOTH,
                "form": _FORM,
                "depth": Choice((1, 1, 2)),
            },
            2.0,
        ),
        Block(
            windows,
            {
                "channels": Span(48, 768),
                "head": _HEAD,
                "window": Choice((4, 6, 7, 7, 8, 14)),
                "across": Choice((1, 2, 4, 8)),
                "is_shifted": FLAG,
                "form": _FORM,
                "ratio": Choice((2, 4, 4)),
                "activation": _SMOOTH,
            },
        ),
        Block(
            mixer,
            {
                "tokens": TOKEN,
                "channels": Span(48, 768),
                "inner": Span(32, 1024),
                "ratio": Choice((2, 4)),
                "activation": _SMOOTH,
            },
            0.5,
        ),
        Block(
            linear,
            {
                "rows": Choice((1, 1, 1, 16, 49, 64, 196, 256, 784)),
                "channels": Span(32, 3072),
                "out": Span(32, 3072),
                "activation": ACTIVATION,
                "bias": Choice((1, 1, 0)),
                "depth": DEPTH,
            },
            1.5,
        ),
        Block(
            elementwise,
            {
                "rows": Span(8, 4096),
                "channels": Span(8, 2048),
                "op": Choice((*ACTIVATIONS, *ELEMENTWISE)),
                "depth": Choice((1, 2, 4)),
            },
            2.5,
        ),
        Block(moving, {"channels": Span(8, 1024), "size": SIZE, "op": Choice(tuple(MOVES))}, 2.0),
        Block(
            pooling,
            {
                "channels": CHANNELS,
                "size": SIZE,
                "op": Choice(tuple(POOLS)),
                "kernel": Choice((2, 3, 3, 5)),
                "stride": Choice((1, 2, 2)),
                "within": FLAG,
            },
        ),
        Block(normalisation, {"tokens": Span(4, 4096), "channels": Span(16, 2048), "op": Choice(tuple(NORMS))}),
    )
}
"""By name; a new one is a function and an entry."""


def draw(rng: np.random.Generator, weights: Mapping[str, float] | None = None) -> str:
    """A sample's name, which says all that it is made from.

    Args:
        weights: How often blocks are drawn; as :data:`BLOCKS` say by default.
    """
    shares = np.array([(weights or {}).get(name, block.weight) for name, block in BLOCKS.items()])
    name = list(BLOCKS)[int(rng.choice(len(BLOCKS), p=shares / shares.sum()))]
    return _name_of(name, {key: range_.draw(rng) for key, range_ in BLOCKS[name].ranges.items()})


def draw_near(sample: str, rng: np.random.Generator) -> str:
    """Another sample, with similar numbers and the same choices."""
    block, values = parse(sample)
    return _name_of(block, {key: range_.near(values[key], rng) for key, range_ in BLOCKS[block].ranges.items()})


def build(sample: str) -> Built:
    """The module, in eval mode, and the shape of its input without the batch; random weights, the same each time."""
    block, values = parse(sample)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, shape = BLOCKS[block].build(**values)
    return module.eval(), shape


def is_small(sample: str) -> bool:
    """Whether it takes milliseconds rather than seconds, by parameters and positions; without making its weights."""
    with torch.device("meta"):
        block, values = parse(sample)
        module, shape = BLOCKS[block].build(**values)
    num_params = sum(parameter.numel() for parameter in module.parameters())
    channels = shape[-1] if len(shape) < 3 or block == "windows" else shape[0]
    positions = math.prod(shape) // channels
    return num_params <= MAX_PARAMS and num_params * positions <= MAX_MACS and math.prod(shape) <= MAX_SIZE


def parse(sample: str) -> tuple[str, dict[str, Any]]:
    """The block and its values; :class:`KeyError` if there is no such block."""
    block, _, text = sample.partition(" ")
    if block not in BLOCKS:
        raise KeyError(unknown_name_message("block", block, BLOCKS))
    return block, json.loads(text)


def _name_of(block: str, values: Mapping[str, Value]) -> str:
    return f"{block} {json.dumps(values, separators=(',', ':'))}"
