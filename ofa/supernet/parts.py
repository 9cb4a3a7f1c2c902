"""The parts of a supernet, as the cost models and the profiler see them.

A *slot* is a place in the network: stem, one block, head. What stands in it depends on a few dims only, so everything
that is to be known of a slot is a dense array over the values of those dims: what its part is (a *key*; equal keys are
the same thing to a runtime), how many MACs and parameters it has, how much memory it needs.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ofa.nn.conv import remove_kernel_transforms
from ofa.nn.structure import clone_structure, own_hooks, own_tensors
from ofa.space import SearchSpace, Value, unknown_name_message
from ofa.supernet.adapter import Fields
from ofa.supernet.stages import Block, Stage

BYTES_PER_ACTIVATION = 4

_KEY_PREFIXES = {
    "in_channels": "i",
    "out_channels": "o",
    "mid_channels": "m",
    "kernel": "k",
    "stride": "s",
    "se_channels": "se",
    "activation": "",
    "shortcut": "skip",
    "resolution": "r",
}


@dataclass(frozen=True)
class Slot:
    """A place in the network.

    Args:
        name: ``stem``, ``stage1.block0``, ``head``; what stands before the dot is the slot's stage.
        dims: Names of the dims that decide what stands here.
        keys: Part keys, one axis per dim; the empty string where nothing stands here.
    """

    name: str
    dims: tuple[str, ...]
    keys: npt.NDArray[np.object_]


@dataclass(frozen=True)
class Part:
    """A piece of network to run on its own: ``module`` (eval mode) takes ``(N, *input_shape)``."""

    key: str
    fields: Fields
    module: nn.Module
    input_shape: tuple[int, int, int]


@dataclass(frozen=True)
class _Place:
    """A slot before it is tabulated: its module inside the model, and how it can vary."""

    name: str
    module: nn.Module
    stage: Stage | None = None
    block: Block | None = None
    position: int = 0

    def local_dims(self, space: SearchSpace) -> tuple[str, ...]:
        if self.block is None:
            return ()
        return tuple(name for name in space.names if name.startswith(f"{self.block.name}."))

    def depth_dim(self) -> tuple[str, ...]:
        if self.stage is None or self.position < self.stage.depths[0]:
            return ()
        return (f"{self.stage.name}.depth",)

    def narrowed(self, choice: Mapping[str, Value]) -> nn.Module:
        module = clone_structure(self.module)
        if choice:
            assert self.block is not None and self.block.adapter is not None
            self.block.adapter.narrow(module, choice)
        return remove_kernel_transforms(module)

    def fields(self, module: nn.Module) -> Fields:
        if self.block is not None and self.block.adapter is not None:
            return {"kind": self.block.adapter.kind, **self.block.adapter.fields(module)}
        kind = self.name if self.stage is None else type(module).__name__.lower()
        convs = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
        fields: Fields = {"kind": kind}
        if convs:
            fields |= {"in_channels": convs[0].in_channels, "out_channels": convs[-1].out_channels}
            fields |= {"kernel": convs[0].kernel_size[0], "stride": convs[0].stride[0]}
        # No adapter speaks for this part, so what torch prints of it stands in for what a runtime sees.
        printed = repr(module) + (" around a shortcut" if getattr(module, "has_skip", False) else "")
        return fields | {"digest": hashlib.sha256(printed.encode()).hexdigest()[:8]}


def part_key(fields: Fields) -> str:
    """A readable name that two parts share exactly if all their fields agree."""
    words = [str(fields["kind"])]
    for name, value in fields.items():
        if name == "shortcut":
            words += ["skip"] * bool(value)
        elif name != "kind" and not (name == "se_channels" and value == 0):
            words.append(f"{_KEY_PREFIXES.get(name, '')}{value}")
    return "_".join(words)


class PartIndex:
    """All slots, parts and cost tables of one supernet. It reads the model's structure once."""

    def __init__(self, model: nn.Module, space: SearchSpace, stages: tuple[Stage, ...]) -> None:
        self.space = space
        self._places = _find_places(model, stages)
        self._resolutions = [int(value) for value in space["resolution"].values]
        self._shapes = _trace_shapes(model, self._resolutions)
        self._sources: dict[str, tuple[_Place, dict[str, Value], int]] = {}
        self.slots = tuple(self._slot(place) for place in self._places)

    def part(self, key: str) -> Part:
        try:
            place, choice, index = self._sources[key]
        except KeyError:
            raise LookupError(unknown_name_message("part", key, list(self._sources)[:20])) from None
        module = place.narrowed(choice)
        fields = {**place.fields(module), "resolution": self._input_shape(place, index)[-1]}
        own_hooks(module)
        own_tensors(module)
        return Part(key, fields, module.eval(), self._input_shape(place, index))

    def factors(self, cost: str) -> list[tuple[tuple[str, ...], npt.NDArray[np.float64]]]:
        functions: dict[str, Callable[[_Place, nn.Module, int], float]] = {
            "macs": self._macs,
            "params": lambda place, module, index: sum(parameter.numel() for parameter in module.parameters()),
            "peak_activation_bytes": self._peak_activation_bytes,
        }
        if cost not in functions:
            raise LookupError(unknown_name_message("cost", cost, functions))
        return [self._tabulate(place, functions[cost], np.float64) for place in self._places]

    def _slot(self, place: _Place) -> Slot:
        def key(place: _Place, module: nn.Module, index: int) -> str:
            return part_key({**place.fields(module), "resolution": self._input_shape(place, index)[-1]})

        dims, keys = self._tabulate(place, key, np.object_, sources=True)
        return Slot(place.name, dims, keys)

    def _tabulate(
        self,
        place: _Place,
        value: Callable[[_Place, nn.Module, int], float | str],
        dtype: type[Any],
        *,
        sources: bool = False,
    ) -> tuple[tuple[str, ...], npt.NDArray[Any]]:
        """``value`` of every choice of a place: an array over resolution, the stage's depth, the block's own dims."""
        local, depth = place.local_dims(self.space), place.depth_dim()
        shape = tuple(len(self.space[name].values) for name in ("resolution", *depth, *local))
        table: npt.NDArray[Any] = np.full(shape, "" if dtype is np.object_ else 0, dtype=dtype)
        present = [
            d
            for d, num_blocks in enumerate(self.space[depth[0]].values if depth else [place.position + 1])
            if int(num_blocks) > place.position
        ]
        for indices in itertools.product(*(range(len(self.space[name].values)) for name in local)):
            choice = {
                name.rpartition(".")[2]: self.space[name].values[i] for name, i in zip(local, indices, strict=True)
            }
            module = place.narrowed(choice)
            for r in range(len(self._resolutions)):
                entry = value(place, module, r)
                if sources:
                    self._sources.setdefault(str(entry), (place, choice, r))
                for where in [(r, d, *indices) for d in present] if depth else [(r, *indices)]:
                    table[where] = entry
        return ("resolution", *depth, *local), table

    def _input_shape(self, place: _Place, index: int) -> tuple[int, int, int]:
        first = next(iter(place.module)) if isinstance(place.module, nn.Sequential) else place.module
        channels, height, width = self._shapes[index][first][0]
        return channels, height, width

    def _macs(self, place: _Place, module: nn.Module, index: int) -> float:
        total = 0
        for original, narrowed in zip(place.module.modules(), module.modules(), strict=True):
            if isinstance(narrowed, (nn.Conv2d, nn.Linear)):
                shape = self._shapes[index][original][1]
                positions = prod(shape[1:]) if isinstance(narrowed, nn.Conv2d) else prod(shape[:-1])
                total += narrowed.weight.numel() * positions
        return total

    def _peak_activation_bytes(self, place: _Place, module: nn.Module, index: int) -> float:
        """Most activations alive at once: input and output of a layer, and the shortcut that waits for the block's end.

        This supposes that a convolution's normalisation and activation are fused into it, and memory is freed at once.
        """
        peak = shortcut = 0
        waiting = prod(self._input_shape(place, index)) if getattr(module, "has_skip", False) else 0
        for original, narrowed in zip(place.module.modules(), module.modules(), strict=True):
            if isinstance(narrowed, (nn.Conv2d, nn.Linear)):
                taken, given = self._shapes[index][original]
                if isinstance(narrowed, nn.Conv2d):
                    alive = narrowed.in_channels * prod(taken[1:]) + narrowed.out_channels * prod(given[1:])
                else:
                    alive = prod(taken) + prod(given)
                peak = max(peak, alive + shortcut)
                shortcut = waiting  # the first layer's input is the shortcut itself
        return peak * BYTES_PER_ACTIVATION


def _find_places(model: nn.Module, stages: tuple[Stage, ...]) -> list[_Place]:
    sequences = [model.get_submodule(stage.path) for stage in stages]
    layers = list(model.as_sequential())  # type: ignore[operator]
    first = next(i for i, layer in enumerate(layers) if layer is sequences[0])
    last = next(i for i, layer in enumerate(layers) if layer is sequences[-1])
    places = [_Place("stem", nn.Sequential(*layers[:first]))]
    for stage, sequence in zip(stages, sequences, strict=True):
        for position, (block, module) in enumerate(zip(stage.blocks, sequence.children(), strict=True)):
            places.append(_Place(block.name, module, stage, block, position))
    return [*places, _Place("head", nn.Sequential(*layers[last + 1 :]))]


Shapes = dict[nn.Module, tuple[tuple[int, ...], tuple[int, ...]]]


def _trace_shapes(model: nn.Module, resolutions: Sequence[int]) -> list[Shapes]:
    """Input and output shape, without the batch, of every module of the largest subnet, for each resolution."""
    traces: list[Shapes] = []
    on_meta = clone_structure(model).to("meta").eval()
    own_hooks(on_meta)
    originals = dict(zip(on_meta.modules(), model.modules(), strict=True))

    def record(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        traces[-1][originals[module]] = (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))

    for module in originals:
        module.register_forward_hook(record)
    for resolution in resolutions:
        traces.append({})
        with torch.no_grad():
            on_meta(torch.empty(1, int(getattr(model, "in_chans", 3)), resolution, resolution, device="meta"))
    return traces
