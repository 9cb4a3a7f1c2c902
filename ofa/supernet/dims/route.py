"""Elastic route: which of several stitched anchors a network is made of, and where it passes to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from ofa.space import SpaceError, Value
from ofa.supernet.choices import Choices
from ofa.supernet.dims.elastic import ElasticDim, Found, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.stages import ancestors
from ofa.supernet.stitching import Route, Stitched, StitchError


@dataclass(frozen=True)
class ElasticRoute(ElasticDim):
    """One route of :class:`~ofa.supernet.stitching.Stitched`, the cheapest first (SN-Net, arXiv:2302.06586).

    Those that cost more than the anchor that they lead to, or less than the one that they come from, are none.

    Args:
        routes: In the order of the values.
    """

    kind = "route"
    scope = "stream"
    of_stitched = True

    routes: tuple[Route, ...]

    @classmethod
    def find(cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Found) -> Iterator[Self]:
        if choices.at(cls.kind, cls.kind) is not None:
            raise SpaceError("routes are all that lie between the anchors; leave 'route' out")
        model = analysis.model
        assert isinstance(model, Stitched)
        macs: Counter[str] = Counter()  # of what lies in a module
        for contraction in analysis.trace.contractions:
            macs.update(dict.fromkeys((contraction.module, *ancestors(contraction.module)), contraction.macs))
        costs = {route: macs[""] - sum(macs[path] for path in route.left_out) for route in model.routes()}
        anchors = [cost for route, cost in costs.items() if len(route.anchors) == 1]
        if anchors != sorted(set(anchors)):
            raise StitchError(
                f"anchors take {', '.join(f'{each:,}' for each in anchors)} MACs; give cheaper ones first"
            )
        between = [
            route
            for route, cost in costs.items()
            if len(route.anchors) == 1 or anchors[route.anchors[0]] < cost < anchors[route.anchors[1]]
        ]
        between.sort(key=lambda route: costs[route])
        yield cls("anchors.route", tuple(route.name for route in between), tuple(between))

    def left_out(self, value: Value) -> frozenset[str]:
        return self.routes[self.values.index(value)].left_out

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        narrowing.removed.update(self.left_out(arch.get(self.name, self.values[-1])))
        narrowing.in_sequence = True
