"""Elastic stage width: the channels that flow from block to block, tied by the shortcuts of a stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from ofa.space import Value
from ofa.supernet.channels import ChannelGroup
from ofa.supernet.choices import Allowed, Choices, amounts
from ofa.supernet.dims.elastic import ElasticDim, Found, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis, num_channels, per_unit, units_at
from ofa.supernet.stages import is_within


@dataclass(frozen=True)
class ElasticWidth(ElasticDim):
    """Keeps the first channels of a stage, as Once-for-All's ResNet50D space does with its width multipliers.

    Streams that begin in one stage with as many channels (every layer of a DenseNet block adds one) vary together.
    """

    kind = "width"
    scope = "stream"
    allowed = Allowed(whole=True)
    fallback = ("50%", "75%", "100%")

    @classmethod
    def find(cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Found) -> Iterator[Self]:
        together: dict[tuple[str, int, int], list[ChannelGroup]] = {}
        for group in analysis.streams:
            together.setdefault((_place(analysis, group), num_channels(group), per_unit(group)), []).append(group)
        num_at: Counter[str] = Counter()
        for (place, full, unit), members in together.items():
            name = f"{place}.width{num_at[place] or ''}"
            num_at[place] += 1
            wanted = choices.at(cls.kind, place)
            if wanted is None:
                analysis.notes[name] = "not asked for: pass width=[...] to vary it"
            channels = {units_at(members[0], amount, divisor) * unit for amount in amounts(wanted or (), full)}
            kept = sorted(value for value in channels if value < full)
            yield cls(name, (*kept, full), members=tuple(members))

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        channels = int(arch.get(self.name, self.values[-1]))
        if channels < int(self.values[-1]):
            narrowing.units.update({group.number: channels // per_unit(group) for group in self.members})


def _place(analysis: GraphAnalysis, group: ChannelGroup) -> str:
    """Where a stream begins: the stage, or the stem or head outside all of them."""
    calls = analysis.trace.calls
    first = min((path for path in group.modules if path in calls), key=lambda path: calls[path].order, default="")
    for name, blocks in analysis.stages:
        if any(is_within(first, block.path) for block in blocks):
            return name
    order = calls[first].order if first in calls else 0
    starts = [min(calls[block.path].order for block in blocks if block.path in calls) for _, blocks in analysis.stages]
    regions = ["stem", *(name for name, _ in analysis.stages[1:]), "head"]
    return regions[sum(start < order for start in starts)]
