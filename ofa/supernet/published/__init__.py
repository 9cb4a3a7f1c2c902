"""Weights and architectures of others' supernets, in the names of our presets: ``once-for-all:FILE``.

One file per project, and a line in :data:`PUBLISHED`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ofa.space import Population, SearchSpace, Value
from ofa.supernet.published import autoformer, efficientnet_lite, once_for_all
from ofa.supernet.published.accuracy import accuracy_predictor


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a project published.

    Args:
        presets: Ours -> its own name of the network.
        converted: Its tensors by the names of our preset's parameters and buffers.
        preset_of: The preset that tensors are of, by their shapes.
        arch_of: An architecture in its notation, in the dims of a space.
        accuracy_predictor: Of its own making, from a file, for a space: values in percent of architectures
            ``(N, D)``; ``None`` if it published none.
        notation: Keys that its notation has, and no other.
        accuracies: What it says of networks from these weights, in words.
        pictures: How its own evaluation makes inputs of pictures, in settings of :class:`~ofa.data.DataConfig`.
        project: Its address.
        where: Where its files are.
    """

    presets: Mapping[str, str]
    converted: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    preset_of: Callable[[Mapping[str, Tensor]], str]
    accuracies: Mapping[str, str]
    project: str
    licence: str
    where: str
    pictures: Mapping[str, Any] = field(default_factory=dict)
    notation: frozenset[str] = frozenset()
    arch_of: Callable[[SearchSpace, Mapping[str, Any]], Mapping[str, Value]] | None = None
    accuracy_predictor: Callable[[SearchSpace, Path], Callable[[Population], npt.NDArray[np.float64]]] | None = None


PUBLISHED: Mapping[str, Published] = {
    "once-for-all": Published(
        presets=once_for_all.PRESETS,
        converted=once_for_all.converted,
        preset_of=once_for_all.preset_of,
        arch_of=once_for_all.arch_of,
        accuracy_predictor=accuracy_predictor,
        notation=once_for_all.NOTATION,
        accuracies=once_for_all.ACCURACIES,
        pictures=once_for_all.PICTURES,
        project="https://github.com/mit-han-lab/once-for-all",
        licence="MIT",
        where=once_for_all.WHERE,
    ),
    "autoformer": Published(
        presets=autoformer.NETWORKS,
        converted=lambda tensors: autoformer.converted(autoformer.preset_of(tensors), tensors),
        preset_of=autoformer.preset_of,
        arch_of=lambda space, config: autoformer.arch_of(autoformer.preset_of_space(space), config),
        notation=autoformer.NOTATION,
        accuracies=autoformer.ACCURACIES,
        pictures=autoformer.PICTURES,
        project="https://github.com/microsoft/Cream",
        licence="MIT",
        where=autoformer.WHERE,
    ),
    "efficientnet-lite": Published(
        presets=efficientnet_lite.NETWORKS,
        converted=efficientnet_lite.converted,
        preset_of=efficientnet_lite.preset_of,
        accuracies=efficientnet_lite.ACCURACIES,
        project="https://github.com/tensorflow/tpu",
        licence="Apache-2.0",
        where=efficientnet_lite.WHERE,
    ),
}


def published_weights(weights: str | Path) -> tuple[Published, Path] | None:
    """The project and the file of ``once-for-all:FILE``; ``None`` for a file alone."""
    name, _, file = str(weights).partition(":")
    return (PUBLISHED[name], Path(file)) if file and name in PUBLISHED else None


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
