"""What is known of a model before choices are made: its trace, its channel groups, its stages and blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from ofa.inputs import Inputs, InputSpec, Sizes
from ofa.supernet.channels import ChannelGroup, Trace, find_groups, trace
from ofa.supernet.channels.groups import Groups
from ofa.supernet.channels.labels import Labels
from ofa.supernet.graph_form import GraphForm
from ofa.supernet.stages import Block, ancestors, common_ancestor, find_stages
from ofa.supernet.stitching import Stitched


@dataclass
class GraphAnalysis:
    """A model taken apart.

    Args:
        inputs: What it takes; it was traced at the sizes of its example.
        stages: Name and blocks of each stage.
        inside: Block name -> groups whose channels never leave the block.
        streams: Groups that flow between blocks.
        notes: Place -> why something there is not elastic.
        forms: Path -> a module that runs as a graph when it is narrowed, as its code computes with fixed sizes.
    """

    model: nn.Module
    inputs: InputSpec
    trace: Trace
    groups: Groups
    stages: list[tuple[str, list[Block]]]
    inside: dict[str, list[ChannelGroup]]
    streams: list[ChannelGroup]
    modules: dict[str, nn.Module]
    notes: dict[str, str] = field(default_factory=dict)
    forms: dict[str, GraphForm] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, inputs: InputSpec) -> GraphAnalysis:
        try:
            traced = trace(model, inputs.at(inputs.own))
        # Whatever a model's code raises that would look at values.
        except Exception:
            traced = trace(model, inputs.with_values(inputs.own))
        groups = find_groups(traced)
        found = model.stages() if isinstance(model, Stitched) else find_stages(model, traced, groups.all)
        stages = [
            (f"stage{i}", [Block(f"stage{i}.block{j}", path) for j, path in enumerate(paths)])
            for i, paths in enumerate(found)
        ]
        blocks = {block.path: block.name for _, elements in stages for block in elements}
        inside: dict[str, list[ChannelGroup]] = {name: [] for name in blocks.values()}
        streams: list[ChannelGroup] = []
        for group in groups.all:
            owner = common_ancestor(group.modules)
            name = next((blocks[path] for path in (owner, *ancestors(owner)) if path in blocks), None)
            (streams if name is None else inside[name]).append(group)
        return cls(model, inputs, traced, groups, stages, inside, streams, dict(model.named_modules()))

    def example(self, sizes: Sizes | None = None) -> Inputs:
        """What the model runs on at some sizes, its own by default: without values if it does without them."""
        make = self.inputs.with_values if self.trace.has_values else self.inputs.at
        return make(self.inputs.own if sizes is None else sizes)

    def all_blocks(self) -> Iterable[Block]:
        return (block for _, elements in self.stages for block in elements)

    def numbers_in(self, labels: Labels) -> set[int]:
        """Numbers of the groups in a tensor; -1 stands for channels that must stay."""
        return {int(n) for atoms in labels for n in np.unique(self.groups.group_of[atoms])}

    def group_of(self, labels: Labels) -> ChannelGroup | None:
        """The one group that labels a tensor, if there is one."""
        numbers = self.numbers_in(labels)
        return self.groups.all[numbers.pop()] if len(numbers) == 1 and min(numbers) >= 0 else None

    def channels(self, shape: Sequence[int], labels: Labels) -> int:
        """Channels of a traced tensor: the size of its labelled axis."""
        for atoms in labels:
            if atoms.size > 1:
                return int(atoms.size)
        return int(shape[1] if len(shape) in (4, 5) else shape[-1])


def per_unit(group: ChannelGroup) -> int:
    """Channels in a unit: 1, the size of a convolution's groups, or the size of a head."""
    return min(site.indices.shape[1] for site in group.sites)


def num_channels(group: ChannelGroup) -> int:
    return group.num_units * per_unit(group)


def units_at(group: ChannelGroup, channels: float, divisor: int) -> int:
    """Units that make about so many channels, rounded to ``divisor`` as timm does, never more than there are."""
    step = math.lcm(divisor, per_unit(group))
    rounded = max(step, int(channels + step / 2) // step * step)
    if rounded < 0.9 * channels:
        rounded += step
    return min(group.num_units, rounded // per_unit(group))
