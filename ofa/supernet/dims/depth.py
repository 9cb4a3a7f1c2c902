"""Elastic depth: blocks at the end of a stage whose shortcut is the identity can be left out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass

from ofa.space import Value
from ofa.supernet.anatomy import Anatomy
from ofa.supernet.choices import Choices, share_of
from ofa.supernet.dims.elastic import ElasticDim, Subnet
from ofa.supernet.structure import is_skippable


@dataclass(frozen=True)
class ElasticDepth:
    """Keeps the first blocks of a stage (Cai et al., Once-for-All, arXiv:1908.09791, sec. 3.2).

    Args:
        removable: Positions of the blocks that can go, the first to go first.
        paths: Their paths.
    """

    name: str
    values: tuple[int, ...]
    removable: tuple[int, ...]
    paths: tuple[str, ...]
    kind: str = "depth"
    groups: tuple[int, ...] = ()
    reads: tuple[str, ...] = ()

    @classmethod
    def find(
        cls, anatomy: Anatomy, choices: Choices, divisor: int, found: Mapping[str, ElasticDim]
    ) -> list[ElasticDim]:
        dims: list[ElasticDim] = []
        for name, blocks in anatomy.stages:
            removable = tuple(j for j in range(len(blocks) - 1, 0, -1) if is_skippable(anatomy.trace, blocks[j].path))
            if not removable:
                one = len(blocks) == 1
                anatomy.notes[f"{name}.depth"] = (
                    "one block alone" if one else "no block beyond the first has a shortcut"
                )
            wanted = choices.at("depth", name)
            if wanted is None:
                wanted = range(math.ceil(len(blocks) / 2), len(blocks))
            depths = {
                int(value) if (share := share_of(value)) is None else math.ceil(share * len(blocks)) for value in wanted
            }
            kept = sorted(value for value in depths if len(blocks) - len(removable) <= value < len(blocks))
            paths = tuple(blocks[j].path for j in removable)
            dims.append(cls(f"{name}.depth", (*kept, len(blocks)), removable, paths))
        return dims

    def restricted(self, groups: Set[int]) -> ElasticDim:
        return dataclasses.replace(self, values=self.values[-1:])

    def apply(self, arch: Mapping[str, Value], subnet: Subnet) -> None:
        depth = int(arch.get(self.name, self.values[-1]))
        subnet.removed.update(self.paths[: self.values[-1] - depth])
