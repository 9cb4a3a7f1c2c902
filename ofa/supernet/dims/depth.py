"""Elastic depth: blocks at the end of a stage whose shortcut is the identity can be left out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ofa.space import Value
from ofa.supernet.choices import Allowed, Choices, amounts
from ofa.supernet.dims.elastic import ElasticDim, Found, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.stages import Block, is_skippable


@dataclass(frozen=True)
class ElasticDepth(ElasticDim):
    """Keeps the first blocks of a stage (Cai et al., Once-for-All, arXiv:1908.09791, sec. 3.2).

    Blocks that normalise behind their shortcut, as those of BERT, go only where a depth is asked for: what is left has
    to learn to do without them (Fan et al., LayerDrop, arXiv:1909.11556).

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
            wanted = choices.at(cls.kind, name)
            identity, normalised = (
                tuple(b.path for b in blocks[:0:-1] if is_skippable(analysis.trace, b.path, normalises=normalises))
                for normalises in (False, True)
            )
            paths = identity if wanted is None else normalised
            if not paths:
                analysis.notes[f"{name}.depth"] = (
                    "blocks normalise behind their shortcuts: pass depth=[...] to vary it"
                    if normalised
                    else "one block alone"
                    if full == 1
                    else "each block hears all before it: their outputs are concatenated, and none can be left out"
                    if _are_concatenated(analysis, blocks)
                    else "no block beyond the first has a shortcut"
                )
            depths = range(math.ceil(full / 2), full) if wanted is None else map(math.ceil, amounts(wanted, full))
            kept = sorted({depth for depth in depths if full - len(paths) <= depth < full})
            yield cls(f"{name}.depth", (*kept, full), paths)

    def left_out(self, value: Value) -> frozenset[str]:
        return frozenset(self.paths[: int(self.values[-1]) - int(value)])

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        narrowing.removed.update(self.left_out(arch.get(self.name, self.values[-1])))


def _are_concatenated(analysis: GraphAnalysis, blocks: Sequence[Block]) -> bool:
    """Whether the inputs of every block are among those of the next, beside others, as in DenseNet."""
    calls = [analysis.trace.calls.get(block.path) for block in blocks]
    heard = [{int(n) for _, labels in call.inputs for atoms in labels for n in atoms.flat} for call in calls if call]
    return len(heard) == len(blocks) > 1 and all(
        first and first < second for first, second in itertools.pairwise(heard)
    )
