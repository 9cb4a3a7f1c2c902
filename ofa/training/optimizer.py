"""The optimiser that a recipe names."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import nn

from ofa.config import ConfigError
from ofa.errors import unknown_name_message
from ofa.training.recipe import TrainConfig

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """timm's, with weight decay on matrices and filters only."""
    # A fused step would unscale the gradients of 16-mixed itself, too late for what clips them.
    clips_scaled = config.precision == "16-mixed" and config.clip_grad_norm > 0
    can_fuse = get_optimizer_info(config.optimizer).opt_class in FUSED and not clips_scaled
    return _create(config, model, **({"fused": True} if can_fuse else {}))


def _create(config: TrainConfig, model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    optimizer = create_optimizer_v2(
        model,
        opt=config.optimizer,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.9,
        **settings,
    )
    forget(optimizer)
    return optimizer


def check_optimizer(config: TrainConfig) -> None:
    """:class:`ConfigError` unless the optimiser is known, installed, and trains by one backward pass."""
    name = config.optimizer
    try:
        info = get_optimizer_info(name)
    except ValueError:
        message = unknown_name_message("train.optimizer", name, map(str, list_optimizers()), max_listed=5)
        raise ConfigError(f"{message} (timm.optim.list_optimizers() has all)") from None
    if info.second_order:
        raise ConfigError(f"train.optimizer {name!r} needs second derivatives, which no step computes; name another")
    try:
        _create(config, nn.Linear(1, 1, device="meta"))
    except (AssertionError, ImportError, TypeError, ValueError) as error:  # what packages of others raise
        raise ConfigError(
            f"train.optimizer {name!r} cannot be made ({error}); install what it needs, or name another"
        ) from None


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Begin an optimiser anew.

    Momentum begins as zeros rather than with the first gradient, which is the same: torch's fused SGD does not take
    parameters with and without a buffer together, and weights of few subnets get their first gradients late.
    """
    optimizer.state.clear()
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            if group["momentum"]:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
