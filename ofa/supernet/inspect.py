"""What is elastic in a supernet, what is not and why, and between which costs its subnets lie."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ofa.space import Arch, Dim, Value
from ofa.supernet.channels import sizes_at
from ofa.supernet.channels.tracer import stand_in
from ofa.supernet.stages import CONTAINERS, Stage
from ofa.supernet.supernet import Supernet


@dataclass(frozen=True, kw_only=True)
class ElasticDims:
    """Dims of one kind that have the same values.

    Args:
        kind: ``kernel``, ``width``, ``resolution``: see :data:`ofa.supernet.dims.DIM_KINDS`.
        where: Their places, short: ``block0,2-3``, ``stem``; empty for all of the stage, or for the whole model.
            Of several widths at one place it says which: ``width1-3``, ``stem.width1-3``.
        values: The choices, the model's own last.
        names: The dims as the space names them: ``stage1.block0.kernel``.
    """

    kind: str
    where: str
    values: tuple[Value, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage.

    Args:
        name: As in the space: ``stage1``.
        path: The module that holds its blocks, or its only block.
        blocks: ``(class, how many in a row)``.
        depths: Numbers of blocks that it can keep.
        dims: What varies in it, its depth excepted.
    """

    name: str
    path: str
    blocks: tuple[tuple[str, int], ...]
    depths: tuple[int, ...]
    dims: tuple[ElasticDims, ...]


@dataclass(frozen=True, kw_only=True)
class NotElastic:
    """Places where something stays whole for the same reason.

    Args:
        kind: What could vary: ``kernel``, ``width``.
        where: The places, short: ``stage0-3, stage5.block1,4``; empty for the whole model.
        reason: Why it does not; of reasons that differ in numbers only, the first.
        names: The dims that there could have been: ``stage1.block0.kernel``.
    """

    kind: str
    where: str
    reason: str
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one subnet costs: multiply-accumulates of one image, and parameters."""

    macs: int
    params: int


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that is known of a supernet before anything is trained or measured; :func:`inspect` makes it.

    Args:
        model_class: Class of timm's model.
        resolution: Size in pixels of the images that it was taken apart with; ``None`` if it takes none.
        stages: In the order in which they run.
        dims: What varies outside of stages: resolution, and the widths of stem and head.
        not_elastic: What does not vary, and why.
        unknown_operations: Operations whose channels could not be followed; what they touch stays whole.
        num_subnets: Exact number of different subnets.
        model: Name that it was asked for by, if any.
    """

    model_class: str
    resolution: float | None
    stages: tuple[StageReport, ...]
    dims: tuple[ElasticDims, ...]
    not_elastic: tuple[NotElastic, ...]
    unknown_operations: tuple[str, ...]
    num_subnets: int
    smallest: Costs
    largest: Costs
    model: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data under the names of the fields, here and below; ``blocks`` as ``{"type", "num"}``."""
        data = dataclasses.asdict(self)
        for stage in data["stages"]:
            stage["blocks"] = [{"type": name, "num": num} for name, num in stage["blocks"]]
        return data


def inspect(supernet: Supernet) -> Inspection:
    """Take stock of a supernet. Its weights are not read; they may be on the meta device."""
    space, stages = supernet.space, supernet.stages
    weightless = Supernet(stand_in(supernet.model), space, stages, supernet.dims, supernet.analysis)
    return Inspection(
        model_class=type(supernet.model).__name__,
        resolution=supernet.inputs.own.get("resolution"),
        stages=tuple(_stage_report(supernet, stage) for stage in stages),
        dims=_outside(space.dims, {stage.name for stage in stages}),
        not_elastic=fold_notes(supernet.analysis.notes, {stage.name: len(stage.blocks) for stage in stages}),
        unknown_operations=tuple(sorted(supernet.analysis.trace.unknown_operations)),
        num_subnets=space.num_archs,
        smallest=_costs(weightless, space.smallest()),
        largest=_costs(weightless, space.largest()),
    )


def _costs(supernet: Supernet, arch: Arch) -> Costs:
    """Counted on the subnet itself, which takes one run without values; the tables of all choices would take longer."""
    subnet = supernet.extract(arch)
    sizes = sizes_at(subnet, supernet.analysis.example(supernet.inputs.sizes(arch)))
    return Costs(
        macs=sum(sizes.macs),
        params=sum(parameter.numel() for parameter in subnet.parameters()),
    )


def _stage_report(supernet: Supernet, stage: Stage) -> StageReport:
    modules = supernet.analysis.modules
    types = [type(modules[block.path]).__name__ for block in stage.blocks]
    parent = stage.blocks[0].path.rpartition(".")[0]
    is_chain = len(stage.blocks) > 1 or isinstance(modules[parent], CONTAINERS)
    inside = [
        dim for dim in supernet.space.dims if dim.name.startswith(f"{stage.name}.") and dim.name != stage.depth_name
    ]
    return StageReport(
        name=stage.name,
        path=parent if is_chain and parent else stage.blocks[0].path,
        blocks=tuple((name, len(list(run))) for name, run in itertools.groupby(types)),
        depths=stage.depths,
        dims=fold_dims(inside, num_blocks=len(stage.blocks)),
    )


# -- folding -----------------------------------------------------------------------------------------------------------


def _split(name: str) -> tuple[str, str, int]:
    """``stem.width2`` as place, kind, and number of the stream."""
    place, _, last = name.rpartition(".")
    kind = last.rstrip("0123456789")
    return place, kind, int(last[len(kind) :] or 0)


def _outside(dims: Iterable[Dim], stages: Collection[str]) -> tuple[ElasticDims, ...]:
    places: dict[str, list[Dim]] = {}
    for dim in dims:
        place = _split(dim.name)[0]
        if place.partition(".")[0] not in stages:
            places.setdefault(place, []).append(dim)
    return tuple(
        dataclasses.replace(entry, where=".".join(filter(None, (place, entry.where))))
        for place, each in places.items()
        for entry in fold_dims(each, num_blocks=0)
    )


def fold_dims(dims: Iterable[Dim], *, num_blocks: int) -> tuple[ElasticDims, ...]:
    """Dims of one stage or other place; those of one kind with the same values as one entry."""
    kinds: dict[str, dict[tuple[Value, ...], list[str]]] = {}
    for dim in dims:
        kinds.setdefault(_split(dim.name)[1], {}).setdefault(dim.values, []).append(dim.name)
    folded = []
    for kind, by_values in kinds.items():
        num_alike = sum(map(len, by_values.values()))
        for values, names in by_values.items():
            blocks = [int(block) for name in names if (block := _split(name)[0].partition(".block")[2])]
            if len(names) == (num_blocks if blocks else num_alike):
                where = ""
            elif blocks:
                where = ranges("block", blocks)
            else:  # several widths: the first bears no number
                numbers = [_split(name)[2] for name in names]
                where = ",".join(filter(None, [kind if 0 in numbers else "", ranges(kind, filter(None, numbers))]))
            folded.append(ElasticDims(kind=kind, where=where, values=values, names=tuple(names)))
    return tuple(folded)


def fold_notes(notes: Mapping[str, str], num_blocks: Mapping[str, int]) -> tuple[NotElastic, ...]:
    """Notes of an analysis; those of one kind with the same reason as one entry.

    Args:
        notes: ``stage1.block0.kernel`` -> reason.
        num_blocks: Of each stage.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for name, reason in notes.items():
        alike.setdefault((_split(name)[1], re.sub(r"\d+", "0", reason)), []).append(name)
    return tuple(
        NotElastic(kind=kind, where=_fold_places(names, num_blocks), reason=notes[names[0]], names=tuple(names))
        for (kind, _), names in alike.items()
    )


def _fold_places(names: Sequence[str], num_blocks: Mapping[str, int]) -> str:
    """Stages that are there with all of their blocks as a range, single blocks of others, what is in no stage."""
    blocks: dict[str, list[int]] = {}
    whole: set[str] = set()
    elsewhere: list[str] = []
    for place in dict.fromkeys(_split(name)[0] for name in names):
        stage, _, block = place.partition(".block")
        if stage not in num_blocks:
            elsewhere.append(place)
        elif block:
            blocks.setdefault(stage, []).append(int(block))
        else:
            whole.add(stage)
    whole |= {stage for stage, positions in blocks.items() if len(positions) == num_blocks[stage]}
    before = [place for place in elsewhere if place == "stem"]
    after = [place for place in elsewhere if place != "stem"]  # the empty place is the model
    stages = [ranges("stage", [number for number, stage in enumerate(num_blocks) if stage in whole])]
    partial = [ranges(f"{stage}.block", positions) for stage, positions in blocks.items() if stage not in whole]
    return ", ".join(filter(None, [*before, *stages, *partial, *after]))


def ranges(prefix: str, numbers: Iterable[int]) -> str:
    """``block0,2-4`` of 0, 2, 3, 4; nothing of none."""
    runs = []
    for _, group in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        runs.append(f"{run[0]}" + (f"-{run[-1]}" if len(run) > 1 else ""))
    return prefix + ",".join(runs) if runs else ""
