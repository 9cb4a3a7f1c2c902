from __future__ import annotations

import pytest

from ofa.config import Named
from ofa.report.strategy import _start, describe_recipe
from ofa.space import Dim, SearchSpace
from ofa.tasks.losses import LOSSES
from ofa.training.recipe import list_recipes, load_recipe
from ofa.training.samplers import SAMPLERS
from ofa.training.schedules import SCHEDULES

SPACE = SearchSpace((Dim("resolution", (16, 20)), Dim("stage1.depth", (1, 2)), Dim("stage1.block0.kernel", (3, 5))))


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_told_in_sentences(name: str) -> None:
    words = describe_recipe(load_recipe(name).to_json(), SPACE)
    assert {"Starts from", "Which part trains when", "Subnets of a step", "What they learn from", "How long"} <= set(
        words
    )
    assert all(answer.endswith(".") and answer[0].isalnum() for answer in words.values())


@pytest.mark.parametrize("kind", [*SCHEDULES.values(), *SAMPLERS.values(), *LOSSES.values()])
def test_everything_describes_itself_in_a_sentence(kind: type[Named]) -> None:
    words = kind().describe()
    assert words.endswith(".") and words[0].isalnum() and "(self" not in words


def test_the_words_follow_the_settings() -> None:
    recipe = load_recipe("bignas", ["strategy.sampler.num_random=1", "train.epochs=7"]).to_json()
    words = describe_recipe(recipe, SPACE)
    assert words["Subnets of a step"] == "The sandwich rule: the largest subnet, 1 random subnet and the smallest."
    assert words["Teacher"] == "The largest subnet of the same step."
    assert words["How long"].startswith("7 epochs, 64 images a step, sgd, learning rate 0.1")
    assert "Teacher" not in describe_recipe(load_recipe("plain").to_json(), SPACE)
    shrinking = describe_recipe(load_recipe("progressive_shrinking").to_json(), SPACE)
    assert shrinking["Teacher"] == "A frozen copy of the trained largest subnet."


def test_what_is_not_known_stands_for_itself() -> None:
    assert describe_recipe({}, SPACE) == {}
    strategy = {
        "sampler": {"name": "brand_new", "num_random": 3},
        "loss": "soft_labels",
        "schedule": {"name": "largest_first", "share": 0.5},
    }
    words = describe_recipe({"strategy": strategy}, SPACE)
    assert words["Subnets of a step"] == "Brand new."
    assert words["Which part trains when"] == "Largest first."  # of a version whose settings had other names
    assert words["What they learn from"] == "Their teacher's soft labels."
    assert "Teacher" not in words


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({}, "Random weights."),
        ({"weights": "mine.safetensors"}, "Weights from a file."),
        ({"pretrained": True}, "timm's pretrained weights."),
        ({"grow_from": "runs/small", "growth": "preserving"}, "The weights of a smaller supernet."),
    ],
)
def test_where_weights_begin(model: dict[str, object], words: str) -> None:
    assert _start(model) == words
