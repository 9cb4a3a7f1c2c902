"""Training one subnet of a run further, alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ofa.config import apply_overrides
from ofa.space import Value
from ofa.training.recipe import Recipe
from ofa.training.run import Run

EPOCHS, LEARNING_RATE = 1 / 3, 0.1
"""Shares of what the run had."""


def finetuning_recipe(
    run: Run, arch: Mapping[str, Value], overrides: Sequence[str] = (), *, data_root: str | None = None
) -> Recipe:
    """The run's recipe for one of its subnets, which begins from the run's weights.

    The run's largest subnet teaches it, as it is, where the run's loss learns from a teacher: not as in in-place
    distillation, where it learns too.

    Args:
        overrides: ``section.key=value`` words that are laid over it.
        data_root: Where the data is now, if it moved.
    """
    before = run.recipe
    weights = str(run.path / "supernet.safetensors")
    model = dataclasses.replace(
        before.model.untrained(), weights=weights, sort_channels="none", zero_init=False, subnet=dict(arch)
    )
    config = before.train
    epochs = config.epochs * EPOCHS
    train = dataclasses.replace(
        config,
        epochs=epochs,
        learning_rate=config.learning_rate * LEARNING_RATE,
        warmup_epochs=min(config.warmup_epochs, epochs / 10),
        average_epochs=0,
    )
    values = dataclasses.replace(before, model=model, train=train).to_json()
    values["strategy"] = {
        "schedule": "one_stage",
        "sampler": "single",
        "loss": values["strategy"]["loss"],
        "teacher": str(run.path),
    }
    if data_root is not None:
        values["data"]["root"] = data_root
    recipe = Recipe.from_json(apply_overrides(values, overrides), where=f"recipe of {run.path}")
    if recipe.strategy.loss.needs_teacher:
        return recipe
    return dataclasses.replace(recipe, strategy=dataclasses.replace(recipe.strategy, teacher=None))
