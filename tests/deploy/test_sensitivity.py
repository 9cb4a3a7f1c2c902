"""Which nodes stay in floating point."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from ofa.deploy.targets.int8 import find_float_nodes

HARMS = {"stem": 0.8, "depthwise": 2.5, "expand": 0.1, "project": 0.4, "head": 0.2}


class Graph:
    """Each node in INT8 costs its harm; counts measurements."""

    def __init__(self) -> None:
        self.num_losses = self.num_harms = 0

    def loss(self, float_nodes: Collection[str]) -> float:
        self.num_losses += 1
        return sum(harm for name, harm in HARMS.items() if name not in float_nodes)

    def harm(self, node: str) -> float:
        self.num_harms += 1
        return HARMS[node]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (4.1, []),
        (2.0, ["depthwise"]),
        (1.0, ["depthwise", "stem"]),
        (0.35, ["depthwise", "stem", "project"]),
        (0.15, ["depthwise", "stem", "project", "head"]),
        (0.0, ["depthwise", "stem", "project", "head", "expand"]),
    ],
)
def test_as_few_as_needed_the_worst_first(allowed: float, expected: list[str]) -> None:
    graph = Graph()
    found = find_float_nodes(list(HARMS), graph.loss, graph.harm, max_loss_points=allowed)
    assert list(found.float_nodes) == expected
    assert found.loss_points == pytest.approx(sum(harm for name, harm in HARMS.items() if name not in expected))
    assert found.all_int8_loss_points == pytest.approx(4.0)
    assert graph.num_losses <= 6
    assert graph.num_harms == (len(HARMS) if expected else 0)


def test_all_in_floating_point_is_where_it_ends() -> None:
    found = find_float_nodes(["a", "b"], lambda nodes: 5.0, lambda node: 1.0, max_loss_points=1.0)
    assert found.float_nodes == ("a", "b")
