from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ofa.report.strategy import LOSSES, SAMPLERS, SCHEDULES, describe_recipe
from ofa.tasks import losses
from ofa.training import samplers, schedules
from ofa.training.recipe import list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_told_in_sentences(name: str) -> None:
    words = describe_recipe(load_recipe(name).to_json())
    assert {"Starts from", "Which part trains when", "Subnets of a step", "What they learn from", "How long"} <= set(
        words
    )
    assert all(answer.endswith(".") and answer[0].isalnum() for answer in words.values())


@pytest.mark.parametrize(
    ("known", "registry"),
    [(SCHEDULES, schedules.SCHEDULES), (SAMPLERS, samplers.SAMPLERS), (LOSSES, losses.LOSSES)],
)
def test_nothing_is_described_that_does_not_exist(known: Mapping[str, Any], registry: Mapping[str, Any]) -> None:
    assert set(known) <= set(registry)


def test_the_words_follow_the_settings() -> None:
    recipe = load_recipe("bignas", ["strategy.sampler.num_random=1", "train.epochs=7"]).to_json()
    words = describe_recipe(recipe)
    assert words["Subnets of a step"] == "The sandwich rule: the largest subnet, 1 random subnet and the smallest."
    assert words["Teacher"] == "The largest subnet of the same step."
    assert words["How long"].startswith("7 epochs, 64 images a step, sgd, learning rate 0.1")
    assert "Teacher" not in describe_recipe(load_recipe("plain").to_json())


def test_what_is_not_known_stands_for_itself() -> None:
    assert describe_recipe({}) == {}
    strategy = {
        "sampler": {"name": "brand_new", "num_random": 3},
        "loss": "soft_labels",
        "schedule": {"name": "largest_first"},
    }
    words = describe_recipe({"strategy": strategy})
    assert words["Subnets of a step"] == "Brand new."
    assert words["Which part trains when"] == "Largest first."  # of a version whose settings had other names
    assert words["What they learn from"] == "Their teacher's soft labels."
