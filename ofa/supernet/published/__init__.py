"""Weights and architectures of others' networks, in the names of our models: ``once-for-all:FILE``.

One file per project, and a line in :data:`PUBLISHED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa.space import SearchSpace
from ofa.supernet.published import autoformer, efficientnet_lite, once_for_all
from ofa.supernet.published.project import Published

PUBLISHED: Mapping[str, Published] = {
    "once-for-all": once_for_all.PUBLISHED,
    "autoformer": autoformer.PUBLISHED,
    "efficientnet-lite": efficientnet_lite.PUBLISHED,
}


def published_weights(weights: str | Path) -> tuple[Published, Path] | None:
    """The project and the file of ``once-for-all:FILE``; ``None`` for a file alone."""
    name, _, file = str(weights).partition(":")
    return (PUBLISHED[name], Path(file)) if file and name in PUBLISHED else None


def known_networks() -> list[dict[str, str]]:
    """What can be had, under which name here, under which licence, and where."""
    return [
        {
            "project": name,
            "network": network,
            "preset": preset,
            "licence": published.licence,
            "published": published.accuracies.get(preset, ""),
            "where": published.where,
        }
        for name, published in PUBLISHED.items()
        for preset, network in published.networks.items()
    ]


def own_notation(space: SearchSpace, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """An architecture in our dims, of whatever notation it is in; as it is, if in none of :data:`PUBLISHED`.

    Raises:
        SpaceError: If it does not fit the space.
    """
    if not config or config.keys() & set(space.names):
        return config
    for published in PUBLISHED.values():
        if published.arch_of is not None and config.keys() <= published.notation:
            return published.arch_of(space, config)
    return config
