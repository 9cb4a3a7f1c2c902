"""A recipe in words: what was trained and how. Schedules, samplers and losses say themselves what they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ofa.config import ConfigError, Record, from_mapping
from ofa.space import SearchSpace

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Strategy(Record):
    schedule: str | dict[str, Any] | None = None
    sampler: str | dict[str, Any] | None = None
    loss: str | dict[str, Any] | None = None
    teacher: str | None = None
    teacher_share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class _Train(Record):
    epochs: float = 0.0
    batch_size: int = 0
    learning_rate: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RecipeRecord(Record):
    """What is read of a recipe, which another version may have written."""

    name: str = ""
    strategy: _Strategy | None = None
    train: _Train | None = None
    model: dict[str, Any] = field(default_factory=dict)


def describe_origin(origin: Mapping[str, str]) -> dict[str, str]:
    """The same of weights that others trained, see :mod:`ofa.training.importing`; empty if nobody did."""
    questions = {"project": "Imported from", "network": "Network", "licence": "Licence", "published": "Published"}
    return {question: origin[name] for name, question in questions.items() if name in origin}


def describe_recipe(recipe: Settings, space: SearchSpace) -> dict[str, str]:
    """Short answers to what one asks of a training run; what the recipe does not say is left out.

    Args:
        recipe: ``recipe`` of ``supernet.json``. Names and settings that are not known here stand for themselves.
        space: What it trained.
    """
    strategy, train, model = (recipe.get(name) or {} for name in ("strategy", "train", "model"))
    parts = {name: _part(name, strategy[name]) for name in ("schedule", "sampler", "loss") if strategy.get(name)}
    words = {name: part if isinstance(part, str) else part.describe() for name, part in parts.items()}
    answers = {
        "Starts from": _start(model) if model else "",
        "Which part trains when": words.get("schedule", ""),
        "Subnets of a step": words.get("sampler", ""),
        "What they learn from": words.get("loss", ""),
        "Teacher": _teacher(strategy, parts, space),
        "How long": _length(train) if train else "",
    }
    return {question: answer for question, answer in answers.items() if answer}


def _part(kind: str, settings: Settings | str) -> Any:
    """A part of a strategy; what it was called, as a sentence, where a name or setting is of another version."""
    from ofa.training import Strategy  # here, as pages without a recipe need none of it

    try:
        return getattr(from_mapping(Strategy, {kind: settings}, where="recipe"), kind)
    except ConfigError:
        name = str(settings.get("name", "") if isinstance(settings, Mapping) else settings)
        return name.replace("_", " ").capitalize() + "."


def _start(model: Settings) -> str:
    if model.get("grow_from"):
        return "The weights of a smaller supernet."
    if model.get("weights"):
        return "Weights from a file."
    return "timm's pretrained weights." if model.get("pretrained") else "Random weights."


def _teacher(strategy: Settings, parts: Mapping[str, Any], space: SearchSpace) -> str:
    if strategy.get("teacher"):
        share = strategy.get("teacher_share", 1.0)
        return f"{strategy['teacher']}" + ("." if share == 1 else f" for {share:.0%}, the largest subnet for the rest.")
    if not getattr(parts.get("loss"), "needs_teacher", False):
        return ""
    schedule, sampler = parts.get("schedule"), parts.get("sampler")
    phases = schedule.phases(space) if schedule is not None and not isinstance(schedule, str) else []
    if any(phase.freezes_largest for phase in phases):
        return "A frozen copy of the trained largest subnet."
    return "The largest subnet of the same step." if getattr(sampler, "teaches", False) else ""


def _length(train: Settings) -> str:
    parts = [f"{train['epochs']:g} epochs"] if "epochs" in train else []
    parts += [f"{train['batch_size']} images a step"] if "batch_size" in train else []
    parts += [f"{train['optimizer']}"] if isinstance(train.get("optimizer"), str) else []
    parts += [f"learning rate {train['learning_rate']:g}"] if "learning_rate" in train else []
    return ", ".join(parts) + "." if parts else ""
