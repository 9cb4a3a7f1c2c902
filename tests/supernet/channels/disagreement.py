"""Whether a narrowed model still ties the channels that the full one ties."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ofa.supernet.channels import Trace
from ofa.supernet.channels.groups import Groups, _components
from ofa.supernet.channels.labels import FIXED


def disagreement(full: Trace, groups: Groups, units: Mapping[int, int], narrow: Trace) -> str | None:
    """Where a narrowed model ties other channels than the full one does, ``None`` if nowhere.

    Code that runs with fewer channels can still do something else with them: eight channels in four pairs become four
    channels in four groups of one if the code says *four groups*. Its shapes are right and its weights are not.

    Args:
        full, groups: The model's trace and groups.
        units: Group number -> units kept; other groups are whole.
        narrow: Trace of the narrowed model, which holds tensors of its own (:func:`~ofa.nn.structure.own_tensors`).
    """
    sources = {(source.tensor, source.axis): source for source in full.sources}
    # As operations tie them: what code that splits axes ties besides was a guess, which is to be confirmed here.
    expected, found = (_components(graph.num_atoms, graph.edges) for graph in (full.graph, narrow.graph))
    found_for: dict[int, int] = {}
    expected_for: dict[int, int] = {}
    for source in narrow.sources:
        original = sources[source.tensor, source.axis]
        atoms = np.arange(original.first, original.first + original.num)
        number = groups.group_of[atoms]
        limits = np.array([units.get(n, atoms.size) for n in number.tolist()])
        kept = (number < 0) | (groups.unit_of[atoms] < limits)
        if kept.sum() != source.num:
            return f"{source.tensor} has {source.num} entries on axis {source.axis} instead of {kept.sum()}"
        now = found[source.first : source.first + source.num]
        # What shrank to one unit has axes of size 1, which nothing follows.
        followed = (number[kept] >= 0) & (limits[kept] > 1) & (now != found[FIXED])
        for before, after in zip(expected[atoms][kept][followed].tolist(), now[followed].tolist(), strict=True):
            if found_for.setdefault(before, after) != after or expected_for.setdefault(after, before) != before:
                return f"the channels of {source.tensor} (axis {source.axis}) belong together in another way"
    return None
