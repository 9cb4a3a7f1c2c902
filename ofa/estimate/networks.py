"""Whole networks of several families: how far their latencies are from the sum of their kernels says how sure it is."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from ofa.hardware.timed_models import Source

NETWORKS = (
    "convnext_atto",
    "densenet121",
    "efficientnet_b0",
    "ghostnet_100",
    "hrnet_w18_small",
    "mixer_s32_224",
    "mobilenetv3_large_100",
    "mobilevit_xs",
    "pit_ti_224",
    "poolformer_s12",
    "regnetx_004",
    "resnet18",
    "resnet50",
    "vit_small_patch32_224",
    "vit_tiny_patch16_224",
)
"""Of timm, each at its own size."""


def whole_networks() -> dict[str, Source]:
    """With random weights, on which latency does not depend."""
    return {name: partial(timm_network, name) for name in NETWORKS}


def timm_network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A model of timm in eval mode, and the shape of its input without the batch."""
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(name, pretrained=False).eval()
    config: Any = model.default_cfg  # of which modules in general know nothing
    return model, tuple(config["input_size"])
