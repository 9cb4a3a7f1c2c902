"""What a kind of elastic dim has to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from ofa.space import Value
from ofa.supernet.anatomy import Anatomy
from ofa.supernet.choices import Choices


@dataclass
class Subnet:
    """What an architecture means for the model: filled by the dims, read by whoever builds or prices a subnet.

    Args:
        units: Group number -> units kept; groups that stay whole are absent.
        kernels: Path of a convolution -> kernel size.
        removed: Paths of the blocks that are left out.
    """

    units: dict[int, int] = field(default_factory=dict)
    kernels: dict[str, int] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)


class ElasticDim(Protocol):
    """One dim at one place of a model."""

    @property
    def name(self) -> str:
        """As in the space: ``stage1.block0.kernel``."""
        ...

    @property
    def values(self) -> tuple[Value, ...]:
        """The choices, the model's own last."""
        ...

    @property
    def kind(self) -> str: ...

    @property
    def groups(self) -> tuple[int, ...]:
        """Numbers of the channel groups that it narrows."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of other dims that decide with it."""
        ...

    def restricted(self, groups: Set[int]) -> ElasticDim:
        """The same dim for some of its groups; with none, one that has a single value."""
        ...

    def apply(self, arch: Mapping[str, Value], subnet: Subnet) -> None:
        """Write into ``subnet`` what the architecture chooses; leave alone what stays whole."""
        ...


Finder: TypeAlias = Callable[[Anatomy, Choices, int, Mapping[str, ElasticDim]], "list[ElasticDim]"]
"""``(anatomy, choices, channel divisor, dims found so far) -> dims``; dims with one value say that nothing varies."""


def ratio_text(ratio: float) -> float:
    """A ratio in at most three digits, whole numbers as such."""
    rounded = round(ratio, 3)
    return int(rounded) if rounded == int(rounded) else rounded
