from __future__ import annotations

import pytest

from ofa.config import ConfigError
from ofa.training import load_recipe
from ofa.training.samplers.attentive import Attentive
from ofa.training.samplers.sandwich import Sandwich
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
