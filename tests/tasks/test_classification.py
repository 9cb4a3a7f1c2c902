"""Classification: what is right, class by class, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ofa.config import ConfigError
from ofa.errors import UsageError
from ofa.metrics import METRICS, wilson_interval
from ofa.tasks import LOSSES, TASKS, Classification, Loss, mean_of, task_from_json
from ofa.training import Recipe, load_recipe

# Of class 0 three of four are right, of class 1 one of two, of class 2 none of one.
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
SAID = np.array([0, 0, 0, 1, 1, 2, 0])
BY_HAND = {
    "top1_percent": 100 * 4 / 7,
    "balanced_accuracy_percent": 100 * (3 / 4 + 1 / 2 + 0) / 3,
    "worst_class_accuracy_percent": 0.0,
}


@pytest.mark.parametrize("judge_by", BY_HAND)
@pytest.mark.parametrize("as_torch", [False, True])
def test_by_hand(judge_by: str, as_torch: bool) -> None:
    scorer = Classification(judge_by=judge_by).scorer(None)  # type: ignore[arg-type]
    logits = np.eye(3, dtype=np.float32)[SAID]
    for part in (slice(0, 3), slice(3, 7)):
        outputs, targets = logits[part], LABELS[part]
        scorer.update(
            torch.from_numpy(outputs) if as_torch else outputs, torch.tensor(targets) if as_torch else targets
        )
    score = scorer.score()
    assert score.value == scorer.value() == pytest.approx(BY_HAND[judge_by])
    assert score.low <= score.value <= score.high and score.num_images == scorer.num_images == 7


def test_details_are_class_by_class() -> None:
    scorer = Classification().scorer(None)
    scorer.update(np.eye(4)[SAID], LABELS)
    details = Classification().details(scorer, SimpleNamespace(classes=("cat", "dog", "eel", "fox")))
    assert details.pop("class_accuracy_percent") == {"cat": 75.0, "dog": 50.0, "eel": 0.0, "fox": None}
    assert details == {name: pytest.approx(BY_HAND[name], abs=1e-4) for name in list(BY_HAND)[1:]}
    assert [*Classification(judge_by="balanced_accuracy_percent").details(scorer, SimpleNamespace(classes="abcd"))] == [
        "class_accuracy_percent"
    ]


@pytest.mark.parametrize("judge_by", BY_HAND)
def test_nothing_seen_has_no_score(judge_by: str) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        Classification(judge_by=judge_by).scorer(None).score()  # type: ignore[arg-type]


def test_the_interval_of_balanced_accuracy_covers_as_often_as_it_says() -> None:
    """Classes of 200 and 50 images, right with 0.9 and 0.6: 0.75 should lie in 95 % of the intervals."""
    rng, hits = np.random.default_rng(0), 0
    labels = np.repeat([0, 1], [200, 50])
    for _ in range(200):
        right = rng.random(250) < np.where(labels == 0, 0.9, 0.6)
        scorer = Classification(judge_by="balanced_accuracy_percent").scorer(None)
        scorer.update(np.eye(2)[np.where(right, labels, 1 - labels)], labels)
        score = scorer.score()
        hits += score.low <= 75 <= score.high
    assert 0.9 <= hits / 200 <= 0.99


def test_top1_has_wilsons_interval_and_is_raced() -> None:
    scorer = Classification().scorer(None)
    scorer.update(np.eye(3)[SAID], LABELS)
    score = scorer.score()
    assert (score.low, score.high) == wilson_interval(4, 7)
    raced = [name for name, metric in METRICS.items() if metric.interval_by == "share"]
    assert raced == ["top1_percent"]


def test_teachers_teach_probabilities_and_are_averaged() -> None:
    logits = torch.tensor([[1.0, 3.0]], requires_grad=True)
    taught = Classification().teaching(logits)
    assert not taught.requires_grad and taught.sum() == pytest.approx(1)
    other = {"a": torch.zeros(2), "b": [torch.ones(1)]}
    assert mean_of([other, {"a": torch.ones(2), "b": [torch.ones(1)]}])["a"].tolist() == [0.5, 0.5]
    assert mean_of([torch.zeros(1), torch.ones(1)], weights=[0.25, 0.75]).item() == 0.75


def test_a_recipe_says_its_task_only_where_it_is_not_the_default() -> None:
    plain = load_recipe("demo")
    assert plain.task == Classification() and "task" not in plain.to_json()
    other = load_recipe("demo", ["task.judge_by=balanced_accuracy_percent"])
    assert other.to_json()["task"] == {"name": "classification", "judge_by": "balanced_accuracy_percent"}
    assert Recipe.from_json(other.to_json(), where="here") == other
    assert load_recipe("demo", ["task=classification"]) == plain
    with pytest.raises(ConfigError, match=r"task: unknown name 'clasification'; did you mean 'classification'\?"):
        load_recipe("demo", ["task=clasification"])
    with pytest.raises(ConfigError, match="judge_by cannot be 'top5'; choices: top1_percent, balanced"):
        load_recipe("demo", ["task.judge_by=top5"])


def test_a_file_names_its_task_or_it_is_classification() -> None:
    assert task_from_json(None, where="here") == Classification()
    for name in TASKS.keys() - {"several"}:
        assert task_from_json(name, where="here").name == name
    several = {"name": "several", "judge_by": "kind", "tasks": {"kind": "classification", "value": "regression"}}
    assert task_from_json(several, where="here").name == "several"


def test_a_loss_of_another_task_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Boxes(Loss):
        pass

    monkeypatch.setitem(LOSSES, "boxes", Boxes)
    with pytest.raises(ConfigError, match="loss boxes is not for task classification; choose one of labels, soft_lab"):
        load_recipe("demo", ["strategy.loss=boxes"])
