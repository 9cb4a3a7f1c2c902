"""Stages and blocks of a model, found by what they do: which channels stay inside, and which shortcuts pass by."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from ofa.nn.layer_choice import LayerChoice
from ofa.supernet.channels import ChannelGroup, Trace

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Block:
    """One block of a stage."""

    name: str
    path: str


@dataclass(frozen=True)
class Stage:
    """Blocks that run one after another.

    Args:
        depths: Numbers of blocks that it can keep.
        removable: Positions of the blocks that can be left out, in the order in which they go: the last first.
    """

    name: str
    blocks: tuple[Block, ...]
    depths: tuple[int, ...]
    removable: tuple[int, ...] = ()

    @property
    def depth_name(self) -> str:
        """The dim that says how many blocks are there."""
        return f"{self.name}.depth"

    def required(self, position: int) -> tuple[str, tuple[int, ...]] | None:
        """The depth dim, and at which of its values a block is there; ``None`` for one that always is."""
        least = len(self.blocks) - self.removable.index(position) if position in self.removable else 0
        depths = tuple(depth for depth in self.depths if depth >= least)
        return (self.depth_name, depths) if depths != self.depths else None


def is_within(path: str, ancestor: str) -> bool:
    """Whether a module path is another or lies below it."""
    return not ancestor or path == ancestor or path.startswith(ancestor + ".")


def common_ancestor(paths: Iterable[str]) -> str:
    columns = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, columns))


def ancestors(path: str) -> list[str]:
    """Paths above a module, the nearest first, the root's last."""
    result = []
    while path:
        path = path.rpartition(".")[0]
        result.append(path)
    return result


def above(paths: Iterable[str]) -> set[str]:
    """Paths of all that holds one of these modules, not counting themselves."""
    return {ancestor for path in paths for ancestor in ancestors(path)}


def find_stages(model: nn.Module, trace: Trace, groups: Iterable[ChannelGroup]) -> list[list[str]]:
    """Paths of the blocks of each stage, in the order of the model.

    A block is an element of a container around which a shortcut passes, or inside which some channels stay. The
    innermost such elements count, except inside a block with a shortcut of its own, whose branches they are. All
    elements of its container are then blocks of one stage. So are those of containers beside it in another container
    (the first, fixed stage of an EfficientNet). Channels that stay in a module outside any container make this module a
    block of a stage of its own. So does a choice of layers that is in no other block.
    """
    modules = dict(model.named_modules())
    chains = _chains(modules, trace)

    def element(path: str) -> str | None:
        """The nearest module at or above ``path`` that is an element of a container."""
        return next((p for p in (path, *ancestors(path)) if p and p.rpartition(".")[0] in chains), None)

    choices = {path for path, module in modules.items() if isinstance(module, LayerChoice)}
    owners = {common_ancestor(group.modules) for group in groups} | choices
    skippable = {
        path
        for path, module in modules.items()
        if path and element(path) == path and is_skippable(trace, path) and any(True for _ in module.parameters())
    }
    candidates = skippable | {found for owner in owners if (found := element(owner))}
    # What is of a skippable element's class is a block where it has no shortcut too, whatever lies inside it.
    kinds = {type(modules[path]) for path in skippable} - set(CONTAINERS)
    holding = candidates | above(candidates)
    whole = skippable | {path for path in holding if path and type(modules[path]) in kinds and element(path) == path}
    candidates |= whole
    inner = whole - above(whole)
    # What has channels of its own beside them (its attention in one place, its shortcuts in another) is the block.
    # Where they have some too, it is a stage.
    beside = {owner for owner in owners if inner.isdisjoint((owner, *ancestors(owner)))}
    inside = {path for path in inner if any(is_within(owner, path) for owner in owners)}
    inner |= {
        path for path in whole - inner if any(is_within(owner, path) for owner in beside) and path not in above(inside)
    }
    inner = {path for path in inner if inner.isdisjoint(ancestors(path))}
    innermost = (candidates - whole - above(candidates)) | inner
    blocks = {path for path in innermost if not (innermost & whole).intersection(ancestors(path))}
    containers = {path.rpartition(".")[0] for path in blocks}
    for parent in {path.rpartition(".")[0] for path in containers if path} & chains:
        children = {f"{parent}.{name}".removeprefix("."): child for name, child in modules[parent].named_children()}
        if all(isinstance(child, nn.Sequential) for child in children.values()):
            containers |= children.keys() - above(containers)
    containers -= above(containers)  # an element that holds another stage is no block
    stages = [[f"{path}.{name}".removeprefix(".") for name, _ in modules[path].named_children()] for path in containers]
    called = {path: call.order for path, call in trace.calls.items()}
    starts = [called[path] for stage in stages for path in stage if path in called]
    taken = {path for stage in stages for path in stage}
    occupied = taken | above(taken)
    alone: set[str] = set()
    for owner in owners:
        while owner in chains and owner:
            owner = owner.rpartition(".")[0]
        is_inside = not starts or min(starts) < called.get(owner, -1) < max(starts)  # a stem or head is no block
        is_inside |= owner in choices
        if owner and is_inside and owner not in occupied and taken.isdisjoint(ancestors(owner)):
            alone.add(owner)
    stages += [[path] for path in alone - above(alone)]
    order = {path: number for number, path in enumerate(modules)}
    stages = [stage for stage in stages if any(path in called for path in stage)]
    return sorted(stages, key=lambda stage: (min(called[p] for p in stage if p in called), order[stage[0]]))


def is_skippable(trace: Trace, path: str, *, normalises: bool = False) -> bool:
    """Whether a module maps a shape to the same shape around an identity shortcut: leaving it out is harmless.

    Args:
        normalises: Whether the shortcut's sum may be normalised behind it, as in BERT: without the module, what goes on
            is what the one before it normalised.
    """
    call = trace.calls.get(path)
    if call is None or call.num_calls > 1:
        return False
    return call.has_shortcut or (normalises and call.has_normalised_shortcut)


def _chains(modules: Mapping[str, nn.Module], trace: Trace) -> set[str]:
    """Paths of the modules whose children run one after another: containers, and what does as they do.

    RegNet's stages, for one, loop over their children without being a ``Sequential``: such a module is known by its
    numbered children of one type, the first of which takes what it takes and each other what the one before gives.
    """

    def is_chain(path: str, module: nn.Module) -> bool:
        names = [name for name, _ in module.named_children()]
        types = {type(child) for child in module.children()}
        if len(names) < 2 or len(types) != 1 or not all(re.fullmatch(r"\D*\d+", name) for name in names):
            return False
        paths = [path, *(f"{path}.{name}".removeprefix(".") for name in names)]
        if not trace.calls.keys() >= set(paths):
            return False
        call, *children = (trace.calls[each] for each in paths)
        taken = [*(child.input_ids[:1] for child in children), [call.output_id]]
        return taken == [call.input_ids[:1], *([child.output_id] for child in children)]

    chains = {path for path, module in modules.items() if isinstance(module, CONTAINERS) or is_chain(path, module)}
    types = {type(modules[path]) for path in chains}
    return chains | {path for path, module in modules.items() if type(module) in types}
