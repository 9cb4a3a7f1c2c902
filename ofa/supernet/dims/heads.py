"""Elastic heads: attention keeps its first heads, each whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass

from ofa.space import Value
from ofa.supernet.anatomy import Anatomy
from ofa.supernet.channels import ChannelGroup
from ofa.supernet.choices import Choices, share_of
from ofa.supernet.dims.elastic import ElasticDim, Subnet


@dataclass(frozen=True)
class ElasticHeads:
    """The size of a head stays (Chen et al., AutoFormer, arXiv:2107.00651, sec. 3.2)."""

    name: str
    values: tuple[int, ...]
    members: tuple[ChannelGroup, ...]
    kind: str = "heads"
    reads: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(group.number for group in self.members)

    @classmethod
    def find(
        cls, anatomy: Anatomy, choices: Choices, divisor: int, found: Mapping[str, ElasticDim]
    ) -> list[ElasticDim]:
        dims: list[ElasticDim] = []
        for block in anatomy.all_blocks():
            members = tuple(group for group in anatomy.inside[block.name] if group.is_heads)
            if not members:
                continue
            full = max(group.num_units for group in members)
            wanted = choices.at("heads", block.name)
            if wanted is None:
                wanted = ("50%", "75%")
            counts = {int(v) if (share := share_of(v)) is None else math.ceil(share * full) for v in wanted}
            dims.append(cls(f"{block.name}.heads", (*sorted(value for value in counts if value < full), full), members))
        return dims

    def restricted(self, groups: Set[int]) -> ElasticDim:
        members = tuple(group for group in self.members if group.number in groups)
        if max((group.num_units for group in members), default=0) < self.values[-1]:
            return dataclasses.replace(self, values=self.values[-1:])
        return dataclasses.replace(self, members=members)

    def apply(self, arch: Mapping[str, Value], subnet: Subnet) -> None:
        if self.name not in arch:
            return
        heads, full = int(arch[self.name]), int(self.values[-1])
        if heads < full:
            for group in self.members:
                subnet.units[group.number] = max(1, round(group.num_units * heads / full))
