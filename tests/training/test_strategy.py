from __future__ import annotations

import pytest

from ofa.config import ConfigError
from ofa.tasks.losses import LOSSES
from ofa.tasks.losses.soft_labels import SoftLabels
from ofa.training import list_recipes, load_recipe
from ofa.training.samplers import SAMPLERS
from ofa.training.samplers.attentive import Attentive
from ofa.training.samplers.sandwich import Sandwich
from ofa.training.schedules import SCHEDULES
from ofa.training.strategy import Strategy


def test_parts_are_chosen_by_name_and_set_by_key() -> None:
    assert load_recipe("demo", ["strategy.sampler=attentive"]).strategy.sampler == Attentive()
    assert load_recipe("demo", ["strategy.sampler.num_random=3"]).strategy.sampler == Sandwich(num_random=3)
    assert load_recipe("bignas", ["strategy.schedule.decay=exponential"]).strategy.schedule.decay == "exponential"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "strategy.sampler=sandwhich",
            "sampler: unknown name 'sandwhich'; did you mean 'sandwich'[?] known: sandwich,",
        ),
        ("strategy.sampler.nm_random=1", "sampler sandwich: unknown key 'nm_random'; did you mean 'num_random'"),
        ("strategy.sampler={num_random: 1}", "sampler must have a name, one of sandwich, uniform,"),
        ("strategy.sampler.num_random=few", "num_random must be a whole number, not 'few'"),
        ("strategy.loss=softlabels", "loss: unknown name 'softlabels'; did you mean 'soft_labels'"),
        ("strategy.schedule=onestage", "schedule: unknown name 'onestage'; did you mean 'one_stage'"),
        ("strategy.loss.clip=5", "loss soft_labels: unknown key 'clip'"),
        (
            "strategy.schedule={name: one_stage, decay: linear}",
            "decay cannot be 'linear'; choices: cosine, exponential",
        ),
        ("strategy.resolution=fixed", "resolution cannot be 'fixed'; choices: per_subnet, per_batch"),
        ("strategy.drop=none", "drop cannot be 'none'; choices: largest, all"),
        ("strategy.teacher_share=1.5", r"strategy.teacher_share must be above 0 and at most 1, not 1\.5"),
        ("strategy.samplr=uniform", "strategy: unknown key 'samplr'; did you mean 'sampler'"),
        ("strategy.teacher_share=0", "strategy.teacher_share must be above 0 and at most 1, not 0.0"),
        ("strategy.teacher_weights=x", "teacher_weights is given, but no strategy.teacher; name its timm model"),
    ],
)
def test_mistakes(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("demo", [word])


def test_conflicts_can_be_removed_only_where_the_largest_trains() -> None:
    with pytest.raises(ConfigError, match="needs the largest subnet in every step, but sampler multi_arch does not"):
        load_recipe("multi_arch", ["strategy.remove_conflicts=true"])
    assert Strategy(remove_conflicts=True).sampler.teaches


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not SAMPLERS[name].teaches])
def test_samplers_without_the_largest_have_no_conflicts_to_remove(name: str) -> None:
    with pytest.raises(ConfigError, match=f"sampler {name} does not draw it; use strategy.sampler=sandwich"):
        Strategy(sampler=SAMPLERS[name](), remove_conflicts=True)


@pytest.mark.parametrize("recipe", list_recipes())
def test_every_part_can_be_chosen_in_every_recipe(recipe: str) -> None:
    losses = {name: loss for name, loss in LOSSES.items() if issubclass(loss, load_recipe(recipe).task.losses)}
    losses.pop("each_head", None)  # which must be told the heads
    for kind, known in (("sampler", SAMPLERS), ("loss", losses), ("schedule", SCHEDULES)):
        for name, part in known.items():
            assert getattr(load_recipe(recipe, [f"strategy.{kind}={name}"]).strategy, kind) == part()


def test_settings_follow_a_bare_name() -> None:
    words = ["strategy.sampler=attentive", "strategy.sampler.num_candidates=5", "strategy.loss.label_weight=1"]
    strategy = load_recipe("bignas", words).strategy
    assert strategy.sampler == Attentive(num_candidates=5)
    assert strategy.loss == SoftLabels(label_weight=1)
