"""What an adapter for one block family has to say, and the choices that a user may ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from timm.layers import Conv2dSame, make_divisible
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from ofa.nn.squeeze_excite import narrow_squeeze_excite
from ofa.space import SpaceError, Value, unknown_name_message

Fields = dict[str, int | str]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What may vary, for the whole model.

    Each is a list of values, or ``None`` for the default given here. Values above what a block has are left out for
    that block; its own full value is always in, so that the largest subnet is the model itself.

    Args:
        depth: Blocks per stage. Default: from half of them (rounded up) to all.
        kernel: Sizes of the main (depthwise) convolution. Default: every odd size from 3 to its own.
        expand: Hidden width over input width. Default: 1/2, 2/3 and all of the block's own.
        resolution: Input sizes in pixels. Default: four sizes from about 4/7 of the model's own to all of it.
    """

    depth: Sequence[int] | None = None
    kernel: Sequence[int] | None = None
    expand: Sequence[float] | None = None
    resolution: Sequence[int] | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Choices:
        """Check names and values; :class:`SpaceError` names the wrong one."""
        known = [entry.name for entry in fields(cls)]
        for name, entries in values.items():
            if name not in known:
                raise SpaceError(unknown_name_message("elastic choice", name, known))
            numbers = list(entries) if isinstance(entries, (list, tuple)) else []
            valid = numbers and all(isinstance(n, (int, float)) and not isinstance(n, bool) and n > 0 for n in numbers)
            if entries is not None and (not valid or numbers != sorted(set(numbers))):
                raise SpaceError(
                    f"choices of {name!r} must be a list of positive numbers in ascending order, not {entries!r}"
                )
            if valid and name != "expand" and any(n != int(n) for n in numbers):
                raise SpaceError(f"choices of {name!r} must be whole numbers, not {entries!r}")
            if valid and name == "kernel" and any(n % 2 == 0 for n in numbers):
                raise SpaceError(f"choices of 'kernel' must be odd, not {entries!r}")
        return cls(**values)  # type: ignore[arg-type]


class BlockAdapter(Protocol):
    """Knows one family of timm blocks. All methods work on timm's own block objects."""

    kind: str

    def dims(self, block: Any, choices: Choices) -> dict[str, tuple[Value, ...]]:
        """What is elastic inside the block: dim name -> values, the block's own (largest) value last."""
        ...

    def narrow(self, block: Any, choice: Mapping[str, Value]) -> None:
        """Make a *clone* of the block take ``choice``, in place."""
        ...

    def skippable(self, block: Any) -> bool:
        """Whether the block maps a shape to the same shape around a shortcut, so that leaving it out is harmless."""
        ...

    def fields(self, block: Any) -> Fields:
        """What a runtime sees of a block: everything that its latency may depend on, the resolution excepted."""
        ...


def kernel_values(conv: nn.Module, choices: Choices) -> tuple[int, ...]:
    """Kernel sizes that a square, odd, plainly padded convolution can take; one alone if it is not elastic."""
    if type(conv) not in (nn.Conv2d, Conv2dSame):
        return ()
    assert isinstance(conv, nn.Conv2d)
    size = conv.kernel_size[0]
    if conv.kernel_size != (size, size) or size % 2 == 0:
        return ()
    wanted = range(3, size, 2) if choices.kernel is None else choices.kernel
    return (*(value for value in wanted if value < size), size)


def expand_values(in_channels: int, hidden: int, choices: Choices, *, divisor: int) -> tuple[float, ...]:
    """Ratios of hidden to input width that give different widths, the block's own last."""
    full = _tidy(hidden / in_channels)
    wanted = [full / 2, full * 2 / 3] if choices.expand is None else list(choices.expand)
    ratios: dict[int, float] = {}
    for ratio in wanted:
        width = hidden_width(in_channels, hidden, ratio, divisor=divisor)
        if ratio < full and width < hidden:
            ratios.setdefault(width, _tidy(ratio))
    return (*ratios.values(), full)


def hidden_width(in_channels: int, hidden: int, ratio: float, *, divisor: int) -> int:
    """Hidden channels at an expand ratio: rounded as timm does, the block's own width at its own ratio."""
    if _tidy(ratio) == _tidy(hidden / in_channels):
        return hidden
    width = make_divisible(in_channels * ratio, divisor)
    return int(min(width, hidden))


def _tidy(ratio: float) -> float:
    rounded = round(ratio, 3)
    return int(rounded) if rounded == int(rounded) else rounded


def can_narrow(block: nn.Module) -> bool:
    """Whether a block holds only layers that the functions of :mod:`ofa.nn` can narrow; others stay whole."""
    for name, child in block.named_children():
        if name.startswith("conv_") and type(child) not in (nn.Conv2d, Conv2dSame):
            return False
        if name.startswith("bn") and not isinstance(child, nn.BatchNorm2d):
            return False
        if name == "se" and not isinstance(child, (nn.Identity, SqueezeExcite)):
            return False
    return True


def narrow_se(block: Any, num_channels: int) -> None:
    """Narrow ``block.se`` unless the block has none."""
    if not isinstance(block.se, nn.Identity):
        narrow_squeeze_excite(block.se, num_channels)


def se_bottleneck(block: Any) -> int:
    return 0 if isinstance(block.se, nn.Identity) else block.se.conv_reduce.out_channels


def channel_divisor(conv: nn.Conv2d) -> int:
    """Channels are kept in multiples of 8 and of the convolution's group size."""
    return math.lcm(8, conv.in_channels // conv.groups) if conv.groups > 1 else 8


def activation_name(norm: nn.Module) -> str:
    """The activation inside timm's ``BatchNormAct2d``, in lower case; ``linear`` for none."""
    act = getattr(norm, "act", None)
    return "linear" if act is None or isinstance(act, nn.Identity) else type(act).__name__.lower()
