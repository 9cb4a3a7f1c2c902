"""Elastic expand ratio and MLP ratio: the width of channels that never leave a block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

from torch import nn

from ofa.space import Value
from ofa.supernet.channels import ChannelGroup
from ofa.supernet.choices import Choice, Choices, amounts
from ofa.supernet.dims.elastic import ElasticDim, Found, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis, num_channels, units_at
from ofa.supernet.stages import Block, common_ancestor


@dataclass(frozen=True)
class InnerWidth(ElasticDim):
    """Hidden width over the width of what enters (or, for a bottleneck, leaves) the block.

    Attributes:
        shares: Of the block's own ratio, the choices where none are asked for.

    Args:
        members: The widest group, whose ratio it is, and others that shrink in proportion: the second convolution of a
            bottleneck, parallel branches.
        followers: The bottleneck of a squeeze-excite, and the group that enters it, to which it keeps its proportion.
        reference: Channels that the ratio refers to.
        stream: The group that carries them, if its width is elastic: its dim and its own number of channels.
    """

    shares: ClassVar[tuple[float, ...]]

    followers: tuple[tuple[ChannelGroup, ChannelGroup], ...]
    reference: int
    stream: str | None
    divisor: int

    @property
    def main(self) -> ChannelGroup:
        return self.members[0]

    @property
    def groups(self) -> tuple[int, ...]:
        return (*super().groups, *(group.number for group, _ in self.followers))

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.stream is None else (self.stream,)

    @classmethod
    def find(cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Found) -> Iterator[Self]:
        for block in analysis.all_blocks():
            hidden = [group for group in analysis.inside[block.name] if not group.is_heads]
            pooled = [group for group in hidden if is_pooled(analysis, block, group)]
            own = [group for group in hidden if group not in pooled and kind_of(analysis, block, group) == cls.kind]
            if own:
                own.sort(key=num_channels, reverse=True)
                leaders = [(group, leader_of(analysis, group)) for group in pooled]
                followers = tuple((group, leader) for group, leader in leaders if leader in own)
                reference, stream = reference_of(analysis, block, num_channels(own[0]), found)
                name = f"{block.name}.{cls.kind}"
                whole = cls(name, (), followers, reference, stream, divisor, members=tuple(own))
                yield whole._with_values(choices.at(cls.kind, block.name))

    def _with_values(self, wanted: Sequence[Choice] | None) -> Self:
        """The dim with the ratios that were wanted, of those that round to one width the first."""
        full = ratio_text(num_channels(self.main) / self.reference)
        ratios = [full * share for share in self.shares] if wanted is None else amounts(wanted, full)
        # 0.35 of 256 channels are 88 after rounding: the model's own width goes by the ratio that was asked for.
        for ratio in ratios:
            units = units_at(self.main, self.reference * ratio, self.divisor)
            if abs(ratio / full - 1) < 0.05 and units == self.main.num_units:
                full = ratio_text(ratio)
                break
        whole = dataclasses.replace(self, values=(full,))
        by_width: dict[tuple[tuple[int, int], ...], float] = {}
        for ratio in ratios:
            narrowed = whole.units(ratio, self.reference)
            if ratio < full and self.main.number in narrowed:
                by_width.setdefault(tuple(narrowed.items()), ratio_text(ratio))
        return dataclasses.replace(self, values=tuple(sorted({*by_width.values(), full})))

    def restricted(self, groups: Set[int]) -> Self:
        if self.main.number not in groups:
            return super().restricted(groups)
        return dataclasses.replace(
            self,
            members=tuple(group for group in self.members if group.number in groups),
            followers=tuple((group, leader) for group, leader in self.followers if leader.number in groups),
        )

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        if self.name not in arch:
            return
        # A width that turned out not to vary has no dim.
        reference = self.reference if self.stream is None else int(arch.get(self.stream, self.reference))
        narrowing.units.update(self.units(float(arch[self.name]), reference))

    def units(self, ratio: float, reference: int) -> dict[int, int]:
        """Units kept of each group that does not stay whole."""
        if ratio == self.values[-1] and reference == self.reference:
            return {}
        kept: dict[ChannelGroup, int] = {}
        for group in self.members:
            scale = num_channels(group) / num_channels(self.main)
            kept[group] = units_at(group, reference * ratio * scale, self.divisor)
        for group, leader in self.followers:
            share = kept[leader] / leader.num_units
            kept[group] = units_at(group, num_channels(group) * share, self.divisor) if share < 1 else group.num_units
        return {group.number: units for group, units in kept.items() if units < group.num_units}

    def sizes(self, narrowing: Narrowing) -> Mapping[str, int]:
        kept = narrowing.units.get(self.main.number, self.main.num_units)
        return {"mid_channels": num_channels(self.main) * kept // self.main.num_units}


class ElasticExpand(InnerWidth):
    """Inverted residuals, bottlenecks, basic blocks and their kin (Once-for-All, arXiv:1908.09791, sec. 3.2)."""

    kind = "expand"
    shares = (1 / 2, 2 / 3)


class ElasticMlpRatio(InnerWidth):
    """MLPs in transformers, mixers and ConvNeXt (Chen et al., AutoFormer, arXiv:2107.00651, sec. 3.2)."""

    kind = "mlp_ratio"
    shares = (1 / 2, 3 / 4)


def ratio_text(ratio: float) -> float:
    """A ratio in at most three digits, whole numbers as such."""
    rounded = round(ratio, 3)
    return int(rounded) if rounded == int(rounded) else rounded


def kind_of(analysis: GraphAnalysis, block: Block, group: ChannelGroup) -> str:
    """``mlp_ratio`` for what lies in an MLP inside the block, ``expand`` for the rest."""
    owner = common_ancestor(group.modules)
    path = owner.removeprefix(block.path).lower()
    names = [path, type(analysis.modules[owner]).__name__.lower() if owner != block.path else ""]
    if any(word in name for name in names for word in ("mlp", "ffn", "feedforward", "glu")):
        return "mlp_ratio"
    modules = [analysis.modules[path] for path in group.modules]
    return "mlp_ratio" if any(isinstance(module, nn.Linear) for module in modules) else "expand"


def is_pooled(analysis: GraphAnalysis, block: Block, group: ChannelGroup) -> bool:
    """Whether channels in a block are computed from a spatial mean, as in squeeze-and-excitation."""
    call = analysis.trace.calls.get(block.path)
    entering = call.inputs[0][0] if call is not None and call.inputs else ()
    if _is_pooled_shape(entering):
        return False  # everything looks pooled there
    calls = [analysis.trace.calls.get(path) for path in group.modules]
    shapes = [call.output for call in calls if call is not None and call.output is not None]
    if any(len(shape) == 2 and shape[0] > min(entering[:2], default=shape[0]) for shape in shapes):
        return False  # the tokens of all samples, one after another
    return bool(shapes) and all(map(_is_pooled_shape, shapes))


def _is_pooled_shape(shape: tuple[int, ...]) -> bool:
    """Channels alone, or at one pixel, step or voxel."""
    return len(shape) == 2 or (len(shape) > 2 and prod(shape[2:]) == 1)


def leader_of(analysis: GraphAnalysis, group: ChannelGroup) -> ChannelGroup | None:
    """The group that enters the layer which makes this one."""
    for site in group.sites:
        call = analysis.trace.calls.get(site.tensor.rpartition(".")[0])
        if site.axis == 0 and call is not None and call.inputs:
            leader = analysis.group_of(call.inputs[0][1])
            if leader is not None and leader is not group:
                return leader
    return None


def reference_of(analysis: GraphAnalysis, block: Block, hidden: int, found: Found) -> tuple[int, str | None]:
    """Channels that a ratio refers to, and the dim that decides them if they are elastic."""
    call = analysis.trace.calls.get(block.path)
    if call is None or not call.inputs:
        return hidden, None
    shape, labels = call.inputs[0]
    if call.output is not None and hidden <= analysis.channels(call.output, call.output_labels):
        shape, labels = call.output, call.output_labels
    channels, group = analysis.channels(shape, labels), analysis.group_of(labels)
    if group is None or num_channels(group) != channels:
        return channels, None
    streams = [dim for dim in found.values() if dim.scope == "stream" and group.number in dim.groups]
    return channels, next((dim.name for dim in streams if len(dim.values) > 1), None)
