from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ofa.config import ConfigError
from ofa.data import DataError
from ofa.training import Recipe, build_supernet, list_recipes, load_recipe
from ofa.training.recipe import RECIPES_DIR, TrainConfig


@pytest.mark.parametrize("name", list_recipes())
def test_every_packaged_recipe_loads_and_can_be_stored(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json())), where="test") == recipe
    least = 20 if recipe.model.anchors else 100
    assert build_supernet(recipe.model.untrained(), num_classes=3).space.num_archs > least


@pytest.mark.parametrize("name", list_recipes())
def test_what_a_recipe_says_can_be_set_can_be_set(name: str) -> None:
    """The ``section.key=value`` words in its comments, line by line as they are written."""
    for line in (RECIPES_DIR / f"{name}.yaml").read_text().splitlines():
        if line.startswith("#"):
            assert load_recipe(name, re.findall(r"(?<!')\b[a-z]+\.[a-z_.]+=[\w./-]+", line)).name == name


def test_a_recipe_with_everything_set_comes_back_from_json() -> None:
    words = [
        "model.depth={stage1: [1, 2], '*': ['50%', '100%']}",
        "model.expand=[2, 2.5]",
        "model.width=['50%', 24]",
        "model.coupled=[expand]",
        "strategy.sampler={name: single, arch: {resolution: 32, stage1.depth: 2}}",
        "strategy.loss={name: alpha_divergence, clip: 3}",
        "strategy.schedule={name: progressive_shrinking, depth: [1, 2], expand: [3]}",
    ]
    recipe = load_recipe("bignas", words)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json())), where="test") == recipe
    assert recipe.to_json()["strategy"]["sampler"]["name"] == "single"
    assert recipe.to_json()["strategy"]["schedule"]["expand"] == (3.0,)


def test_there_is_a_recipe_for_the_demo() -> None:
    assert "demo" in list_recipes()


@pytest.mark.parametrize("policy", ["rant", "rand-q9"])
def test_a_policy_that_timm_does_not_know_is_refused_before_data_is_read(policy: str) -> None:
    with pytest.raises(DataError, match=f"timm takes no auto_augment '{policy}' "):
        load_recipe("bignas", [f"data.auto_augment=timm:{policy}"])


def test_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model:\n  name: mobilenetv2_050\ntrain:\n  epochs: 3\n")
    recipe = load_recipe(path, ["train.epochs=5", "train.learning_rate=1e-2", "model.kernel=[3, 5]", "data.limit=100"])
    assert recipe.name == "mine"
    assert recipe.model.name == "mobilenetv2_050"
    assert recipe.train.epochs == 5
    assert recipe.train.learning_rate == 0.01
    assert recipe.model.dims == {"kernel": (3, 5)}
    assert recipe.data.limit == 100
    assert recipe.train.batch_size == TrainConfig().batch_size


def test_choices_leave_out_what_was_not_given() -> None:
    recipe = load_recipe("bignas", ["model.depth=[1, 2]"])
    assert recipe.model.choices() == {
        "depth": (1, 2),
        "kernel_transforms": False,
        "coupled": (),
    }
    assert load_recipe("bignas", ["model.divisor=16"]).model.choices()["divisor"] == 16


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "train.epoch=3",
            r"recipe demo.yaml: train: unknown key 'epoch'; did you mean 'epochs'\? known: epochs, batch_size",
        ),
        (
            "trian.epochs=3",
            r"unknown key 'trian'; did you mean 'train'\? known: name, description, task, model, data, strategy",
        ),
        ("train.epochs=many", "train: epochs must be a finite number, not 'many'"),
        ("train.epochs=0", "train.epochs must be a number above 0, not 0"),
        ("train.learning_rate=0", "train.learning_rate must be .*above 0, not 0.0"),
        ("train.learning_rate=.nan", "train: learning_rate must be a finite number, not nan"),
        ("train.clip_grad_norm=.inf", "train: clip_grad_norm must be a finite number, not inf"),
        ("train.weight_decay=-1", "train.weight_decay must not be negative, but is -1.0"),
        ("train.ema_decay=1", "train.ema_decay must be from 0 to below 1, not 1.0"),
        ("train.precision=fp8", "precision cannot be 'fp8'; choices: 32-true, bf16-mixed, 16-mixed"),
        ("model.depth=3", "model: depth must be a list, not 3"),
        ("model.drop_rate=1", r"model.drop_rate must be from 0 to below 1, not 1\.0"),
        ("model.drop_path_rate=-0.1", r"model.drop_path_rate must be from 0 to below 1, not -0\.1"),
        ("model.sort_channels=random", "sort_channels cannot be 'random'; choices: none, l1, activations"),
        ("train.average_epochs=-1", "train.average_epochs must not be negative, but is -1"),
        ("train.checkpoint_minutes=0", r"train.checkpoint_minutes must be a number above 0, not 0\.0"),
        ("train.batch_size=0", "train.batch_size must be at least 1, not 0"),
        (
            "train.mlflow=http://me:secret@host:5000",
            r"^(?!.*secret).*train.mlflow holds a password",
        ),
        ("data.lable_column=x", "data: unknown key 'lable_column'; did you mean 'label_column'"),
    ],
)
def test_wrong_words(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("demo", [word])


def test_compiled_subnets_are_not_synchronised() -> None:
    with pytest.raises(ConfigError, match=r"train.compile and train.sync_batch_norm do not go together; leave one"):
        load_recipe("demo", ["train.compile=true", "train.sync_batch_norm=true"])


def test_a_wrong_value_of_the_data_says_where_it_stands() -> None:
    with pytest.raises(ValueError, match="limit is 0"):
        load_recipe("demo", ["data.limit=0"])


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'dmeo'; did you mean 'demo'\? known: .*, or a .yaml file"):
        load_recipe("dmeo")
    with pytest.raises(ConfigError, match=r"no recipe at nowhere.yaml"):
        load_recipe("nowhere.yaml")
