"""Elastic depth: blocks at the end of a stage whose shortcut is the identity can be left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from ofa.space import Value
from ofa.supernet.choices import Allowed, Choices, amounts
from ofa.supernet.dims.elastic import ElasticDim, Found, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.stages import is_skippable


@dataclass(frozen=True)
class ElasticDepth(ElasticDim):
    """Keeps the first blocks of a stage (Cai et al., Once-for-All, arXiv:1908.09791, sec. 3.2).

    Args:
        paths: Paths of the blocks that can go, the first to go first.
    """

    kind = "depth"
    scope = "stage"
    allowed = Allowed(whole=True)

    paths: tuple[str, ...]

    @classmethod
    def find(cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Found) -> Iterator[Self]:
        for name, blocks in analysis.stages:
            full = len(blocks)
            paths = tuple(block.path for block in blocks[:0:-1] if is_skippable(analysis.trace, block.path))
            if not paths:
                analysis.notes[f"{name}.depth"] = (
                    "one block alone" if full == 1 else "no block beyond the first has a shortcut"
                )
            wanted = choices.at(cls.kind, name)
            depths = range(math.ceil(full / 2), full) if wanted is None else map(math.ceil, amounts(wanted, full))
            kept = sorted({depth for depth in depths if full - len(paths) <= depth < full})
            yield cls(f"{name}.depth", (*kept, full), paths)

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        depth = int(arch.get(self.name, self.values[-1]))
        narrowing.removed.update(self.paths[: int(self.values[-1]) - depth])
