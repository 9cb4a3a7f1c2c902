"""Elastic stage width: the channels that flow from block to block, tied by the shortcuts of a stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from dataclasses import dataclass

from ofa.space import Value
from ofa.supernet.anatomy import Anatomy, num_channels, per_unit, units_at
from ofa.supernet.channels import ChannelGroup
from ofa.supernet.choices import Choices, share_of
from ofa.supernet.dims.elastic import ElasticDim, Subnet
from ofa.supernet.structure import is_within


@dataclass(frozen=True)
class ElasticWidth:
    """Keeps the first channels of a stage, as Once-for-All's ResNet50D space does with its width multipliers.

    Streams that begin in one stage with as many channels (every layer of a DenseNet block adds one) vary together.
    """

    name: str
    values: tuple[int, ...]
    members: tuple[ChannelGroup, ...]
    kind: str = "width"
    reads: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(group.number for group in self.members)

    @classmethod
    def find(
        cls, anatomy: Anatomy, choices: Choices, divisor: int, found: Mapping[str, ElasticDim]
    ) -> list[ElasticDim]:
        together: dict[tuple[str, int, int], list[ChannelGroup]] = {}
        for group in anatomy.streams:
            together.setdefault((_place(anatomy, group), num_channels(group), per_unit(group)), []).append(group)
        dims: list[ElasticDim] = []
        num_at: dict[str, int] = {}
        for (place, full, unit), members in together.items():
            number = num_at.setdefault(place, 0)
            num_at[place] += 1
            name = f"{place}.width{number or ''}"
            wanted = choices.at("width", place)
            if wanted is None:
                anatomy.notes[name] = "not asked for: pass width=[...] to vary it"
                wanted = ()
            channels = {
                units_at(members[0], float(v) if (share := share_of(v)) is None else share * full, divisor) * unit
                for v in wanted
            }
            dims.append(cls(name, (*sorted(value for value in channels if value < full), full), tuple(members)))
        return dims

    def restricted(self, groups: Set[int]) -> ElasticDim:
        return dataclasses.replace(self, values=self.values[-1:])

    def apply(self, arch: Mapping[str, Value], subnet: Subnet) -> None:
        channels = int(arch.get(self.name, self.values[-1]))
        if channels < self.values[-1]:
            subnet.units.update({group.number: channels // per_unit(group) for group in self.members})


def _place(anatomy: Anatomy, group: ChannelGroup) -> str:
    """Where a stream begins: the stage, or the stem or head outside all of them."""
    calls = anatomy.trace.calls
    first = min((path for path in group.modules if path in calls), key=lambda path: calls[path].order, default="")
    for name, blocks in anatomy.stages:
        if any(is_within(first, block.path) for block in blocks):
            return name
    order = calls[first].order if first in calls else 0
    starts = [min(calls[block.path].order for block in blocks if block.path in calls) for _, blocks in anatomy.stages]
    num_before = sum(start < order for start in starts)
    if num_before == 0:
        return "stem"
    return "head" if num_before == len(starts) else anatomy.stages[num_before][0]
