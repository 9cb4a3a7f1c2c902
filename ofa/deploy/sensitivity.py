"""Which nodes stay in floating point, so that INT8 costs no more accuracy than allowed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FloatNodes:
    """What was kept in floating point, to keep low what INT8 costs.

    Args:
        loss_points: Floating point minus INT8, in the metric's unit.
        all_int8_loss_points: The same with every node in INT8.
        float_nodes: Names of nodes that stay in floating point.
    """

    loss_points: float
    all_int8_loss_points: float
    float_nodes: tuple[str, ...]


def find_float_nodes(
    nodes: Sequence[str],
    loss_points: Callable[[Collection[str]], float],
    harm: Callable[[str], float],
    *,
    max_loss_points: float,
) -> FloatNodes:
    """Keep as few of the most sensitive nodes in floating point as the accuracy needs.

    Nothing is done where all of INT8 loses little enough. Otherwise nodes are ranked by the harm that each does alone,
    twice as many of the worst are left out until the loss is small enough, and the number is bisected then. That takes
    one small measurement a node and about twice log2(nodes) measurements of accuracy.

    Args:
        nodes: Names of all that can be quantized.
        loss_points: Measures what is lost with these nodes in floating point.
        harm: Measures how far outputs move with this node alone in INT8.

    Returns:
        Nodes in floating point; all of them where nothing else helps.

    References:
        Sensitivity one layer at a time: Wu et al., Integer quantization for deep learning inference, arXiv:2004.09602,
        sec. 5.2 (there by accuracy; by outputs here, which needs fewer images), with bisection in place of adding one
        layer after another.
    """
    all_int8 = loss = loss_points([])
    if loss <= max_loss_points:
        return FloatNodes(loss, all_int8, ())
    ranked = sorted(nodes, key=harm, reverse=True)
    too_few, enough = 0, 1
    while (loss := loss_points(ranked[:enough])) > max_loss_points and enough < len(ranked):
        too_few, enough = enough, min(2 * enough, len(ranked))
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        found = loss_points(ranked[:middle])
        if found <= max_loss_points:
            enough, loss = middle, found
        else:
            too_few = middle
    return FloatNodes(loss, all_int8, tuple(ranked[:enough]))
