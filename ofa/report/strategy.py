"""A recipe in words: what was trained and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Settings = Mapping[str, Any]
Words = Callable[[Settings], str]

SCHEDULES: dict[str, Words] = {
    "one_stage": lambda s: "The whole space trains from the first step on.",
    "largest_first": lambda s: (
        f"The largest subnet trains alone for {s['alone']:.0%} of the run"
        + (", its important channels are put first" if s.get("sort_channels") else "")
        + ", and then everything trains."
    ),
    "progressive_shrinking": lambda s: (
        "Progressive shrinking: the largest subnet alone, then kernels open, then depths, then widths."
    ),
}

SAMPLERS: dict[str, Words] = {
    "sandwich": lambda s: f"The sandwich rule: the largest subnet, {_num(s, 'random')} and the smallest.",
    "uniform": lambda s: f"{_num(s, 'random').capitalize()}, every dim drawn uniformly.",
    "attentive": lambda s: (
        f"The largest subnet, the smallest, and {s['num_random']} between, each the {s['choose']} of "
        f"{s['num_candidates']} candidates of one cost by its loss on the mini-batch."
    ),
    "sorted": lambda s: f"{s['num_random']} of a nested chain of {s['num_models']} sub-models, the smallest first.",
    "multi_arch": lambda s: f"{_num(s, 'random').capitalize()}, each on its part of the mini-batch.",
    "single": lambda s: "One given subnet." if s.get("arch") else f"The {s['bound']} subnet only.",
}

LOSSES: dict[str, Words] = {
    "labels": lambda s: "Every subnet learns from the labels.",
    "soft_labels": lambda s: (
        "Their teacher's soft labels" + (" and the labels themselves." if s.get("label_weight") else ".")
    ),
    "alpha_divergence": lambda s: (
        f"Their teacher's probabilities, by the larger of two alpha-divergences ({s['alpha_min']:g} and "
        f"{s['alpha_max']:g})."
    ),
}


def describe_recipe(recipe: Settings) -> dict[str, str]:
    """Short answers to what one asks of a training run; what the recipe does not say is left out.

    Args:
        recipe: ``recipe`` of ``supernet.json``. Names that are not known here stand for themselves.
    """
    strategy, train, model = (recipe.get(name) or {} for name in ("strategy", "train", "model"))
    answers = {
        "Starts from": _start(model) if model else "",
        "Which part trains when": _words(SCHEDULES, strategy.get("schedule")),
        "Subnets of a step": _words(SAMPLERS, strategy.get("sampler")),
        "What they learn from": _words(LOSSES, strategy.get("loss")),
        "Teacher": _teacher(strategy) if strategy else "",
        "How long": _length(train) if train else "",
    }
    return {question: answer for question, answer in answers.items() if answer}


def _words(known: Mapping[str, Words], settings: Settings | str | None) -> str:
    if not settings:
        return ""
    settings = {"name": settings} if isinstance(settings, str) else settings
    name = settings.get("name", "")
    try:
        return known[name](settings)
    except KeyError:  # a name or a setting of another version
        return str(name).replace("_", " ").capitalize() + "."


def _num(settings: Settings, what: str) -> str:
    num = settings[f"num_{what}"]
    return f"{num} {what} subnet{'' if num == 1 else 's'}"


def _start(model: Settings) -> str:
    if model.get("weights"):
        return "Weights from a file."
    return "timm's pretrained weights." if model.get("pretrained") else "Random weights."


def _teacher(strategy: Settings) -> str:
    if strategy.get("teacher"):
        share = strategy.get("teacher_share", 1.0)
        return f"{strategy['teacher']}" + ("." if share == 1 else f" for {share:.0%}, the largest subnet for the rest.")
    loss, sampler, schedule = (
        part.get("name") if isinstance(part := strategy.get(name), Mapping) else part
        for name in ("loss", "sampler", "schedule")
    )
    if loss in (None, "labels"):
        return ""
    if schedule == "progressive_shrinking":
        return "A frozen copy of the trained largest subnet."
    return "The largest subnet of the same step." if sampler in ("sandwich", "attentive") else ""


def _length(train: Settings) -> str:
    parts = [f"{train['epochs']:g} epochs"] if "epochs" in train else []
    parts += [f"{train['batch_size']} images a step"] if "batch_size" in train else []
    parts += [f"{train['optimizer']}"] if isinstance(train.get("optimizer"), str) else []
    parts += [f"learning rate {train['learning_rate']:g}"] if "learning_rate" in train else []
    return ", ".join(parts) + "." if parts else ""
