"""What can be known to be wrong with a recipe before data is read, which may take minutes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from ofa.config import ConfigError
from ofa.supernet import Supernet
from ofa.training.growing import check_grow_from
from ofa.training.optimizer import check_optimizer
from ofa.training.recipe import Recipe
from ofa.training.run import build_supernet
from ofa.training.samplers import Draw, Step
from ofa.training.schedules import Stretch
from ofa.training.teacher import check_teacher


def check_recipe(recipe: Recipe, *, num_processes: int = 1, resumes: bool = False) -> Supernet:
    """Refuse a recipe that cannot train, whatever its data is.

    How many classes there are is not known yet: weights are compared with the model but for its classifier.

    Args:
        resumes: A checkpoint brings the weights.

    Returns:
        The supernet without weights, for one class, on the meta device: no memory, nothing drawn.

    Raises:
        ConfigError, SpaceError, UnknownModelError, ModelCodeError, WeightsError, GrowthError, RunError,
            FileFormatError: They name what is wrong.
    """
    check_optimizer(recipe.train)
    _check_batch(recipe, num_processes)
    model, inputs = recipe.model.untrained() if resumes else recipe.model, recipe.task.inputs()
    with torch.device("meta"):
        outline = build_supernet(dataclasses.replace(model, pretrained=False), num_classes=1, inputs=inputs)
    if model.pretrained:  # fetched now; the next time they come from the disk
        with torch.random.fork_rng(devices=[]):
            build_supernet(model, num_classes=1, inputs=inputs)
    if not resumes:
        check_grow_from(recipe)
    schedule = recipe.strategy.schedule
    plan = schedule.plan(outline.space, len(schedule.phases(outline.space)))
    _check_teacher(recipe, plan)
    for stretch in plan:
        _check_draws(recipe, stretch, num_rows=recipe.train.batch_size // num_processes)
    return outline


def _check_batch(recipe: Recipe, num_processes: int) -> None:
    batch_size = recipe.train.batch_size
    if batch_size % num_processes:
        raise ConfigError(
            f"train.batch_size {batch_size} does not divide among {num_processes} processes; make it a multiple"
        )
    if recipe.data.mixes and batch_size // num_processes % 2:
        raise ConfigError(
            f"data.mixup and data.cutmix need pairs, but train.batch_size={batch_size} leaves "
            f"{batch_size // num_processes} images to each of {num_processes} processes; make it a multiple of "
            f"{2 * num_processes}"
        )


def _check_teacher(recipe: Recipe, plan: Sequence[Stretch]) -> None:
    strategy = recipe.strategy
    freezes = any(stretch.phase.freezes_largest for stretch in plan)
    if strategy.loss.needs_teacher and not (strategy.sampler.teaches or strategy.teacher or freezes):
        raise ConfigError(
            f"strategy.loss {strategy.loss.name} needs a teacher, but sampler {strategy.sampler.name} does not "
            "draw the largest subnet in every step; use strategy.loss=labels, or name a strategy.teacher"
        )
    check_teacher(strategy)


def draws_of(recipe: Recipe, stretch: Stretch) -> list[Draw]:
    """Subnets as a step would draw them, whatever they cost and are worth."""
    step = Step(stretch.space, np.random.default_rng(0), lambda population: np.zeros(len(population)), lambda arch: 0.0)
    return recipe.strategy.draw(stretch.phase, step)


def step_weights(recipe: Recipe, plan: Sequence[Stretch]) -> list[float]:
    """What a step of each phase takes, in training passes of the largest subnet over the batch: at most so many."""
    weights, teaches = [], recipe.strategy.teacher is not None
    for stretch in plan:
        teaches |= stretch.phase.freezes_largest
        weights.append(sum(1 / draw.part[1] for draw in draws_of(recipe, stretch)) + (1 / 3 if teaches else 0))
    return weights


def _check_draws(recipe: Recipe, stretch: Stretch, *, num_rows: int) -> None:
    """Whether each subnet gets images; :class:`~ofa.space.SpaceError` if one that was given is not of the space."""
    num_parts, num_chunks = draws_of(recipe, stretch)[0].part[1], recipe.train.accumulate
    if num_rows < num_parts:
        raise ConfigError(
            f"{num_parts} subnets share a mini-batch of {num_rows} images; raise train.batch_size or lower "
            "strategy.sampler.num_random"
        )
    if num_rows // num_parts < num_chunks:
        raise ConfigError(
            f"train.accumulate={num_chunks} leaves no image in some parts of the {num_rows // num_parts} that a subnet "
            "sees in a step; lower it"
        )
