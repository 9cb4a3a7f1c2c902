"""What a pick's choices buy, against sums that are known, and the classes that lose."""

from __future__ import annotations

import numpy as np
import pytest

from ofa.metrics import EQUAL_ERROR_RATE, TOP1
from ofa.search.why import choices_of, class_losses
from ofa.space import Dim, SearchSpace

SPACE = SearchSpace(
    (
        Dim("resolution", (24, 28, 32)),
        Dim("depth", (1, 2)),
        Dim("kernel", (3, 5), requires=("depth", (2,))),
        Dim("op", ("conv", "pool", "skip")),
    )
)


def predict(population):
    """Top-1 errors and milliseconds: sums over the dims, and the second block costs by itself."""
    top1 = population @ np.array([2.0, 3.0, 0.5, 1.0])
    return np.column_stack([40 - top1, 1 + population @ np.array([1.0, 0.5, 0.25, 0.0])])


def test_each_other_choice_is_said_with_what_it_would_change():
    arch = SPACE.arch({"resolution": 28, "depth": 2, "kernel": 3, "op": "pool"})
    entries = choices_of(SPACE, arch, predict, TOP1)
    found = {(entry["dim"], entry["instead"]): entry for entry in entries}
    assert set(found) == {
        *(("resolution", 24), ("resolution", 32), ("depth", 1), ("kernel", 5), ("op", "conv"), ("op", "skip"))
    }
    depth = found["depth", 1]
    assert depth["value"] == 2 and depth["gain_per_ms"] == pytest.approx(6.0)
    assert (depth["change"], depth["change_latency_ms"]) == pytest.approx((-3.0, -0.5))
    assert found["resolution", 32]["change"] == pytest.approx(2.0)
    assert found["op", "skip"]["gain_per_ms"] is None  # it takes no time
    rates = [entry["gain_per_ms"] for entry in entries if entry["gain_per_ms"] is not None]
    assert entries[0]["dim"] == "depth" and rates == sorted(rates, reverse=True)


def test_where_less_is_better_a_gain_is_a_fall():
    (entry, _) = choices_of(SearchSpace((Dim("size", (1, 2, 3)),)), *_middle(), EQUAL_ERROR_RATE)
    assert entry["gain_per_ms"] == pytest.approx(2.0)
    assert entry["change"] * entry["change_latency_ms"] < 0


def _middle():
    arch = SearchSpace((Dim("size", (1, 2, 3)),)).arch({"size": 2})
    return arch, lambda population: np.column_stack([30 - 2.0 * population[:, 0], 1.0 + population[:, 0]])


def test_nothing_varies():
    space = SearchSpace((Dim("size", (1,)),))
    assert choices_of(space, space.largest(), lambda population: np.ones((len(population), 2)), TOP1) == []


def test_the_classes_that_lose_most():
    largest = {name: 90.0 for name in "abcdefgh"}
    pick = largest | {"a": 50.0, "b": 89.0, "c": 95.0, "d": 70.0, "e": 60.0, "f": 80.0, "g": 85.0, "h": None}
    losses = class_losses(pick, largest)
    assert [loss["class"] for loss in losses] == ["a", "e", "d", "f", "g"]
    assert losses[0] == {"class": "a", "pick": 50.0, "largest": 90.0}
    assert class_losses({"a": 1.0, "b": 2.0}, {"a": None, "b": 1.0}) == []
    assert class_losses({}, {}) == []
