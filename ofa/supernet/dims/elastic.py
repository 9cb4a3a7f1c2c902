"""What a kind of elastic dim has to say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self, TypeAlias

from torch import nn

from ofa.space import Value
from ofa.supernet.channels import ChannelGroup
from ofa.supernet.choices import Allowed, Choices
from ofa.supernet.graph_analysis import GraphAnalysis

Scope: TypeAlias = Literal["stream", "stage", "block"]
Found: TypeAlias = Mapping[str, "ElasticDim"]


@dataclass
class Narrowing:
    """What an architecture means for the model: filled by the dims, read by whoever builds or prices a subnet.

    Args:
        units: Group number -> units kept; groups that stay whole are absent.
        kernels: Path of a convolution -> the size to which its kernel shrinks.
        removed: Paths of the blocks that are left out.
        in_sequence: The children that are left run one after another, whatever the model does with all of them.
    """

    units: dict[int, int] = field(default_factory=dict)
    kernels: dict[str, int] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    in_sequence: bool = False

    @classmethod
    def of(cls, dims: Iterable[ElasticDim], arch: Mapping[str, Value]) -> Narrowing:
        narrowing = cls()
        for dim in dims:
            dim.apply(arch, narrowing)
        return narrowing


@dataclass(frozen=True)
class ElasticDim:
    """One dim at one place of a model. A kind of dim is a subclass, and a line in :data:`~ofa.supernet.dims.DIM_KINDS`.

    Attributes:
        kind: Its name, which is the last part of its dims' names and what a user asks for it by.
        scope: What a dim belongs to: a ``stream``, channels that flow between blocks (or anything else that is in no
            stage), a ``stage``, or a ``block``. Kinds are found in this order.
        allowed: How lists of choices are checked.
        fallback: Choices where the user asks for none and fewer than two kinds vary; else the default holds.
        of_stitched: Whether it is for :class:`~ofa.supernet.stitching.Stitched`, in which no other kind varies.

    Args:
        name: As in the space: ``stage1.block0.kernel``.
        values: The choices, the model's own last; a single one says that nothing varies.
        members: The channel groups that it narrows.
    """

    kind: ClassVar[str]
    scope: ClassVar[Scope] = "block"
    allowed: ClassVar[Allowed] = Allowed()
    fallback: ClassVar[tuple[str, ...]] = ()
    of_stitched: ClassVar[bool] = False

    name: str
    values: tuple[Value, ...]
    members: tuple[ChannelGroup, ...] = field(default=(), kw_only=True)

    @property
    def groups(self) -> tuple[int, ...]:
        """Numbers of all the channel groups that it narrows."""
        return tuple(group.number for group in self.members)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of other dims that decide with it."""
        return ()

    @classmethod
    def find(cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Found) -> Iterable[ElasticDim]:
        """All dims of this kind in a model.

        What could vary and does not is a dim with one value, or has a reason in ``analysis.notes``, or both.

        Args:
            divisor: Channels are rounded to multiples of it.
            found: Dims of the kinds before this one.
        """
        raise NotImplementedError

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        """Write into ``narrowing`` what the architecture chooses; leave alone what stays whole."""
        raise NotImplementedError

    def left_out(self, value: Value) -> Set[str]:
        """Paths of the modules that are not there at one of its values."""
        return frozenset()

    def restricted(self, groups: Set[int]) -> Self:
        """The same dim for some of its groups; with none, one that has a single value."""
        return dataclasses.replace(self, values=self.values[-1:])

    def sizes(self, narrowing: Narrowing) -> Mapping[str, int]:
        """Sizes that the names of parts and the columns of latency tables show, besides channels and kernel."""
        return {}

    def add_transforms(self, modules: Mapping[str, nn.Module]) -> None:
        """Give the model's layers what ``kernel_transforms=True`` asks for."""
