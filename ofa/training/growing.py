"""Beginning from a smaller run."""

from __future__ import annotations

import torch

from ofa.config import ConfigError
from ofa.space import SpaceError
from ofa.supernet import Supernet, grow
from ofa.supernet.growth import GrowthError, check_growth
from ofa.training.recipe import Recipe
from ofa.training.run import Run, build_supernet


def check_grow_from(recipe: Recipe) -> None:
    """What :func:`grow_from` would refuse, as far as can be told before the number of classes is known."""
    model = recipe.model
    if model.grow_from is None:
        return
    run = Run.open(model.grow_from)
    run.check_weights()
    with torch.device("meta"):
        larger = build_supernet(model, num_classes=run.num_classes, inputs=recipe.task.inputs())
    try:
        check_growth(run.outline(), larger, init=model.growth)
    except (SpaceError, GrowthError) as error:
        raise type(error)(f"model.grow_from {model.grow_from}: {error}") from None


def grow_from(recipe: Recipe, supernet: Supernet, *, num_classes: int) -> None:
    """Let a supernet begin from the run that ``model.grow_from`` names, in place; not if it names none.

    Raises:
        RunError, FileFormatError, UntrustedCodeError: If it is no run folder that can be used.
        ConfigError: If it was trained for another number of classes.
        SpaceError, GrowthError: As :func:`ofa.supernet.grow` does.
    """
    name = recipe.model.grow_from
    if name is None:
        return
    run = Run.open(name)
    if run.num_classes != num_classes:
        raise ConfigError(
            f"model.grow_from {name} was trained for {run.num_classes} classes, not {num_classes}; name another"
        )
    grow(run.supernet(), supernet, init=recipe.model.growth)
