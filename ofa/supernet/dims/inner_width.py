"""What expand ratio and MLP ratio share: the width of channels that never leave a block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from torch import nn

from ofa.space import Value
from ofa.supernet.anatomy import Anatomy, num_channels, per_unit, units_at
from ofa.supernet.channels import ChannelGroup
from ofa.supernet.choices import Choices, share_of
from ofa.supernet.dims.elastic import ElasticDim, Subnet, ratio_text
from ofa.supernet.structure import Block, common_ancestor, is_within


@dataclass(frozen=True)
class InnerWidth:
    """Hidden width over the width of what enters (or, for a bottleneck, leaves) the block.

    Args:
        main: The widest group; the ratio is its.
        others: Groups that shrink in proportion: the second convolution of a bottleneck, parallel branches.
        followers: ``(group, leader)``: the bottleneck of a squeeze-excite, in proportion to the group that enters it.
        reference: Channels that the ratio refers to.
        stream: The group that carries them, if its width is elastic: its dim and its own number of channels.
    """

    name: str
    values: tuple[float, ...]
    kind: str
    main: ChannelGroup
    others: tuple[ChannelGroup, ...]
    followers: tuple[tuple[ChannelGroup, int], ...]
    reference: int
    stream: str | None
    divisor: int

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(group.number for group in (self.main, *self.others, *(group for group, _ in self.followers)))

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.stream is None else (self.stream,)

    def restricted(self, groups: Set[int]) -> ElasticDim:
        if self.main.number not in groups:
            return dataclasses.replace(self, values=self.values[-1:])
        leaders = {self.main.number, *(group.number for group in self.others if group.number in groups)}
        return dataclasses.replace(
            self,
            others=tuple(group for group in self.others if group.number in leaders),
            followers=tuple((group, leader) for group, leader in self.followers if leader in leaders),
        )

    def apply(self, arch: Mapping[str, Value], subnet: Subnet) -> None:
        if self.name not in arch:
            return
        # A width that turned out not to vary has no dim.
        reference = self.reference if self.stream is None else int(arch.get(self.stream, self.reference))
        subnet.units.update(self.units(float(arch[self.name]), reference))

    def units(self, ratio: float, reference: int) -> dict[int, int]:
        """Units kept of each group that does not stay whole."""
        if ratio == self.values[-1] and reference == self.reference:
            return {}
        kept: dict[int, int] = {}
        for group in (self.main, *self.others):
            scale = num_channels(group) / num_channels(self.main)
            kept[group.number] = units_at(group, reference * ratio * scale, self.divisor)
        whole = {group.number: group.num_units for group in (self.main, *self.others)}
        for group, leader in self.followers:
            share = kept[leader] / whole[leader]
            if share < 1:
                kept[group.number] = units_at(group, num_channels(group) * share, self.divisor)
                whole[group.number] = group.num_units
        return {number: units for number, units in kept.items() if units < whole[number]}


def find_inner_widths(
    kind: str,
    anatomy: Anatomy,
    choices: Choices,
    divisor: int,
    found: Mapping[str, ElasticDim],
    shares: Sequence[float],
) -> list[ElasticDim]:
    """Dims of one kind, for every block that has channels of it."""
    dims: list[ElasticDim] = []
    for block in anatomy.all_blocks():
        hidden = [group for group in anatomy.inside[block.name] if not group.is_heads]
        pooled = [group for group in hidden if is_pooled(anatomy, group)]
        own = [group for group in hidden if group not in pooled and kind_of(anatomy, block, group) == kind]
        if not own:
            continue
        own.sort(key=num_channels, reverse=True)
        followers = []
        for group in pooled:
            leader = leader_of(anatomy, group)
            if leader is not None and leader in own:
                followers.append((group, leader.number))
        reference, stream = reference_of(anatomy, block, num_channels(own[0]), found)
        full = ratio_text(num_channels(own[0]) / reference)
        wanted = choices.at(kind, block.name)
        if wanted is None:
            ratios = [full * share for share in shares]
        else:
            ratios = [float(v) if (share := share_of(v)) is None else share * full for v in wanted]
        # 0.35 of 256 channels are 88 after rounding: the model's own width goes by the ratio that was asked for.
        same = [
            r
            for r in ratios
            if abs(r / full - 1) < 0.05 and _channels(own[0], r, reference, divisor) == num_channels(own[0])
        ]
        full = ratio_text(same[0]) if same else full
        dim = InnerWidth(
            f"{block.name}.{kind}", (full,), kind, own[0], tuple(own[1:]), tuple(followers), reference, stream, divisor
        )
        by_width: dict[tuple[tuple[int, int], ...], float] = {}
        for ratio in ratios:
            units = dim.units(ratio, reference)
            if ratio < full and own[0].number in units:
                by_width.setdefault(tuple(units.items()), ratio_text(ratio))
        values = tuple(sorted({*by_width.values(), full}))
        dims.append(InnerWidth(dim.name, values, kind, dim.main, dim.others, dim.followers, reference, stream, divisor))
    return dims


def _channels(group: ChannelGroup, ratio: float, reference: int, divisor: int) -> int:
    return units_at(group, reference * ratio, divisor) * per_unit(group)


def kind_of(anatomy: Anatomy, block: Block, group: ChannelGroup) -> str:
    """``mlp_ratio`` for what lies in an MLP inside the block, ``expand`` for the rest."""
    owner = common_ancestor(group.modules)
    path = owner.removeprefix(block.path).lower()
    names = [path, type(anatomy.modules[owner]).__name__.lower() if owner != block.path else ""]
    if any(word in name for name in names for word in ("mlp", "ffn", "feedforward", "glu")):
        return "mlp_ratio"
    modules = [anatomy.modules[path] for path in group.modules]
    return "mlp_ratio" if any(isinstance(module, nn.Linear) for module in modules) else "expand"


def is_pooled(anatomy: Anatomy, group: ChannelGroup) -> bool:
    """Whether the channels are computed from a spatial mean, as in squeeze-and-excitation."""
    shapes = [
        call.output
        for path in group.modules
        if (call := anatomy.trace.calls.get(path)) is not None and call.output is not None
    ]
    return (
        bool(shapes)
        and all(all(size == 1 for size in shape[2:]) if len(shape) == 4 else len(shape) == 2 for shape in shapes)
        and not _block_is_pooled(anatomy, group)
    )


def _block_is_pooled(anatomy: Anatomy, group: ChannelGroup) -> bool:
    """At a feature map of one pixel everything looks pooled."""
    owner = common_ancestor(group.modules)
    for block in anatomy.all_blocks():
        if is_within(owner, block.path):
            call = anatomy.trace.calls.get(block.path)
            shape = call.inputs[0][0] if call is not None and call.inputs else ()
            return len(shape) == 4 and all(size == 1 for size in shape[2:])
    return False


def leader_of(anatomy: Anatomy, group: ChannelGroup) -> ChannelGroup | None:
    """The group that enters the layer which makes this one."""
    for site in group.sites:
        call = anatomy.trace.calls.get(site.tensor.rpartition(".")[0])
        if site.axis == 0 and call is not None and call.inputs:
            leader = anatomy.group_of(call.inputs[0][1])
            if leader is not None and leader is not group:
                return leader
    return None


def reference_of(
    anatomy: Anatomy, block: Block, hidden: int, found: Mapping[str, ElasticDim]
) -> tuple[int, str | None]:
    """Channels that a ratio refers to, and the dim that decides them if they are elastic."""
    call = anatomy.trace.calls.get(block.path)
    if call is None or not call.inputs:
        return hidden, None
    shape, labels = call.inputs[0]
    if call.output is not None:
        out = anatomy.channels(call.output, call.output_labels)
        if hidden <= out:
            shape, labels = call.output, call.output_labels
    group = anatomy.group_of(labels)
    stream = next(
        (
            dim.name
            for dim in found.values()
            if group and dim.kind == "width" and group.number in dim.groups and len(dim.values) > 1
        ),
        None,
    )
    if (
        stream is not None
        and group is not None
        and per_unit(group) * group.num_units != anatomy.channels(shape, labels)
    ):
        stream = None
    return anatomy.channels(shape, labels), stream
