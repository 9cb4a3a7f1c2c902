"""What is known of a project that published weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ofa.space import Population, SearchSpace, Value


@dataclass(frozen=True, kw_only=True)
class Published:
    """A project and its networks.

    Args:
        networks: Our name, a preset or a model of timm's -> its own name of the network.
        preset_of: Our name of the network that tensors are of; :class:`WeightsError` if none.
        converted: Its tensors by the names of our model's parameters and buffers.
        arch_of: An architecture in its notation, in the dims of a space; ``None`` if it has no supernets.
        notation: Keys that its notation has, and no other.
        accuracy_predictor: Of its own making, from a file, for one of our networks and its space: values in percent of
            architectures ``(N, D)``; ``None`` if it published none.
        accuracies: What it says of networks from these weights, in words.
        pictures: How its own evaluation makes inputs of pictures, in settings of :class:`~ofa.data.DataConfig`; empty
            if as timm says.
        project: Its address.
        where: Where its files are.
    """

    networks: Mapping[str, str]
    preset_of: Callable[[Mapping[str, Tensor]], str]
    converted: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    project: str
    licence: str
    where: str
    accuracies: Mapping[str, str]
    pictures: Mapping[str, Any] = field(default_factory=dict)
    notation: frozenset[str] = frozenset()
    arch_of: Callable[[SearchSpace, Mapping[str, Any]], Mapping[str, Value]] | None = None
    accuracy_predictor: Callable[[str, SearchSpace, Path], Callable[[Population], npt.NDArray[np.float64]]] | None = (
        None
    )
