"""Teachers other than the largest subnet of the step."""

from __future__ import annotations

import copy

import timm
import torch
from timm.layers import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from ofa.config import ConfigError
from ofa.supernet import Supernet
from ofa.supernet.model_sources import is_source
from ofa.supernet.presets import PRESETS, create_model
from ofa.training.run import Run, is_run_folder
from ofa.training.strategy import Strategy


def check_teacher(strategy: Strategy) -> None:
    """What :func:`load_teacher` would refuse, as far as can be told before the number of classes is known."""
    name = strategy.teacher
    if name is None:
        return
    if is_run_folder(name):
        Run.open(name).outline()
        return
    if strategy.teacher_weights is None:
        _check_own_weights(name, None)
    with torch.device("meta"):
        create_model(name, num_classes=1, weights=strategy.teacher_weights)


def load_teacher(strategy: Strategy, *, num_classes: int) -> nn.Module | None:
    """The model that ``strategy.teacher`` names, in eval mode and without gradients; ``None`` if it names none.

    Raises:
        ConfigError: If it has no weights of its own and none are given, or its own are for other classes.
        UnknownModelError: If the name is unknown.
        WeightsError: If the weights that are given do not fit.
        RunError, FileFormatError, UntrustedCodeError: If it is a run folder that cannot be used.
    """
    name = strategy.teacher
    if name is None:
        return None
    if is_run_folder(name):
        run = Run.open(name)
        if run.num_classes != num_classes:
            raise ConfigError(
                f"strategy.teacher {name} was trained for {run.num_classes} classes, not {num_classes}; name another"
            )
        return run.supernet().largest_subnet.requires_grad_(False)
    if strategy.teacher_weights is None:
        _check_own_weights(name, num_classes)
    teacher = create_model(
        name,
        num_classes=num_classes,
        pretrained=strategy.teacher_weights is None,
        weights=strategy.teacher_weights,
        needs_classifier=True,
    )
    return teacher.eval().requires_grad_(False)


def _check_own_weights(name: str, num_classes: int | None) -> None:
    """timm would give a model for other classes a classifier that knows nothing."""
    if is_source(name) or (name not in PRESETS and not timm.is_model(name)):
        return  # building it says so
    config = None if name in PRESETS else timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ConfigError(f"strategy.teacher {name!r} has no weights of its own; give teacher_weights")
    if num_classes is not None and config.num_classes != num_classes:
        raise ConfigError(
            f"strategy.teacher {name!r} knows {config.num_classes} classes, not {num_classes}; give teacher_weights of "
            "one that was trained for these"
        )


def frozen_copy(supernet: Supernet) -> nn.Module:
    """The largest subnet as it is now, to teach from: batch statistics, no dropout, no gradients.

    Like the subnets it teaches, it normalises with the statistics of the batch, whose resolution may not be its own.
    """
    model = copy.deepcopy(supernet.largest_subnet)
    without_dropout(model)
    return model.train().requires_grad_(False)


def without_dropout(module: nn.Module) -> None:
    """Turn dropout and stochastic depth off, in place, whatever mode the module is in."""
    for child in module.modules():
        if isinstance(child, nn.modules.dropout._DropoutNd | StochasticDepth):
            child.p = 0.0
        elif isinstance(child, DropPath):
            child.drop_prob = 0.0
        if isinstance(getattr(child, "drop_rate", None), float):
            vars(child)["drop_rate"] = 0.0  # models that call functional.dropout before their classifier
