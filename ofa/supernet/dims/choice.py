"""Elastic choice: which of several layers stands at a place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from ofa.nn.layer_choice import LayerChoice
from ofa.space import Value
from ofa.supernet.choices import Allowed, Choices
from ofa.supernet.dims.elastic import ElasticDim, Found, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.stages import ancestors


@dataclass(frozen=True)
class ElasticChoice(ElasticDim):
    """One candidate of a :class:`~ofa.nn.layer_choice.LayerChoice`; ``choice1`` is the second in a block.

    Args:
        path: Of the module.
    """

    kind = "choice"
    allowed = Allowed(refusal="what may stand at a place are the candidates of its LayerChoice; leave 'choice' out")

    path: str

    @classmethod
    def find(cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Found) -> Iterator[Self]:
        blocks = {block.path: block.name for block in analysis.all_blocks()}
        used: Counter[str] = Counter()
        for path, module in analysis.modules.items():
            if isinstance(module, LayerChoice):
                block = next(blocks[each] for each in (path, *ancestors(path)) if each in blocks)
                number = str(used[block] or "")
                used[block] += 1
                yield cls(f"{block}.{cls.kind}{number}", tuple(name for name, _ in module.named_children()), path)

    def left_out(self, value: Value) -> frozenset[str]:
        return frozenset(f"{self.path}.{name}" for name in self.values if name != value)

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        narrowing.removed.update(self.left_out(arch.get(self.name, self.values[-1])))
