"""Why a pick is as it is: what each of its choices buys, and which classes are worth less to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ofa.metrics import Metric
from ofa.search.problem import Evaluate
from ofa.space import Arch, SearchSpace

LEAST_MS = 1e-6
NUM_CLASSES = 5


def choices_of(space: SearchSpace, arch: Arch, predict: Evaluate, metric: Metric) -> list[dict[str, Any]]:
    """What changing one choice at a time would do, by prediction; what buys most a millisecond comes first.

    Args:
        predict: Errors (:meth:`Metric.error`) and milliseconds of ``(N, D)`` architectures, shape ``(N, 2)``.

    Returns:
        An entry for each active dim and each next value of it (of categories, each other one): ``dim``, ``value``,
        ``instead``; by how much metric and latency would change, ``change`` in the metric's unit and
        ``change_latency_ms``; and how much better the metric gets for each millisecond more, ``gain_per_ms``, ``None``
        where it takes no time. A block that is added by a greater depth is the smallest.
    """
    own = space.to_population(arch)
    places = [
        (column, gene)
        for column, dim in enumerate(space.dims)
        if dim.name in arch and dim.follows is None
        for gene in range(len(dim.values))
        if gene != own[0, column] and (abs(gene - own[0, column]) == 1 or not space.is_ordered[column])
    ]
    changed = np.repeat(own, len(places) + 1, axis=0)
    for row, (column, gene) in enumerate(places, start=1):
        changed[row, column] = gene
    errors, latency_ms = predict(space.canonical(changed)).T
    entries = []
    for (column, gene), error, ms in zip(places, errors[1:] - errors[0], latency_ms[1:] - latency_ms[0], strict=True):
        dim = space.dims[column]
        entry: dict[str, Any] = {"dim": dim.name, "value": arch[dim.name], "instead": dim.values[gene]}
        entry |= {"change": -metric.sign * float(error), "change_latency_ms": float(ms)}
        entries.append(entry | {"gain_per_ms": float(-error / ms) if abs(ms) > LEAST_MS else None})
    return sorted(entries, key=lambda entry: -(entry["gain_per_ms"] or 0.0))


def class_losses(
    of_pick: Mapping[str, float | None], of_largest: Mapping[str, float | None]
) -> list[dict[str, str | float]]:
    """The five classes that lose most against the largest subnet: ``class``, ``pick`` and ``largest``.

    Args:
        of_pick: Class -> what it is worth, more being better; ``None`` where there is no sample of it.
    """
    both = [
        (name, own, most) for name, own in of_pick.items() if own is not None and (most := of_largest[name]) is not None
    ]
    losses = sorted(both, key=lambda each: each[1] - each[2])[:NUM_CLASSES]
    return [{"class": name, "pick": own, "largest": most} for name, own, most in losses if own < most]
