"""Where the elastic blocks of a model are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ofa.space import Value
from ofa.supernet.adapter import BlockAdapter


@dataclass(frozen=True)
class Block:
    """One block of a stage; without an adapter it is fixed."""

    name: str
    adapter: BlockAdapter | None

    def choice(self, arch: Mapping[str, Value]) -> dict[str, Value]:
        """The part of an architecture that concerns this block: local dim name -> value."""
        prefix = self.name + "."
        return {name.removeprefix(prefix): value for name, value in arch.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Stage:
    """A ``Sequential`` of the model at ``path``; ``depths`` are the numbers of blocks that it can keep."""

    name: str
    path: str
    depths: tuple[int, ...]
    blocks: tuple[Block, ...]

    def depth(self, arch: Mapping[str, Value]) -> int:
        return int(arch[f"{self.name}.depth"]) if len(self.depths) > 1 else self.depths[0]
