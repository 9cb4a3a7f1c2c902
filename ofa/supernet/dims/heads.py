"""Elastic heads: attention keeps its first heads, each whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Self

from ofa.space import Value
from ofa.supernet.choices import Allowed, Choices, amounts
from ofa.supernet.dims.elastic import ElasticDim, Found, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis


@dataclass(frozen=True)
class ElasticHeads(ElasticDim):
    """The size of a head stays (Chen et al., AutoFormer, arXiv:2107.00651, sec. 3.2)."""

    kind = "heads"
    allowed = Allowed(whole=True)

    @classmethod
    def find(cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Found) -> Iterator[Self]:
        for block in analysis.all_blocks():
            members = tuple(group for group in analysis.inside[block.name] if group.is_heads)
            if members:
                full = max(group.num_units for group in members)
                counts = set(map(math.ceil, amounts(choices.at(cls.kind, block.name) or ("50%", "75%"), full)))
                kept = sorted(count for count in counts if count < full)
                yield cls(f"{block.name}.heads", (*kept, full), members=members)

    def restricted(self, groups: Set[int]) -> Self:
        members = tuple(group for group in self.members if group.number in groups)
        if max((group.num_units for group in members), default=0) < int(self.values[-1]):
            return super().restricted(groups)
        return dataclasses.replace(self, members=members)

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        heads, full = int(arch.get(self.name, self.values[-1])), int(self.values[-1])
        if heads < full:
            for group in self.members:
                narrowing.units[group.number] = max(1, round(group.num_units * heads / full))

    def sizes(self, narrowing: Narrowing) -> Mapping[str, int]:
        first = self.members[0]
        return {"heads": narrowing.units.get(first.number, first.num_units)}
