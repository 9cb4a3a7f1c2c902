from __future__ import annotations

import numpy as np

from ofa.search.random_search import random_search


def test_evaluates_different_architectures_once(space, world):
    asked = []

    def evaluate(population):
        asked.append(population)
        return np.column_stack([-world.exact_top1(population), world.predict_ms(population)])

    found = random_search(space, evaluate, num_evaluations=500, rng=np.random.default_rng(0))
    assert found.values.shape == (500, 2)
    assert len(asked) == 1 and np.array_equal(asked[0], found.population)
    assert len(np.unique(space.row_keys(found.population))) == 500
    again = random_search(space, evaluate, num_evaluations=500, rng=np.random.default_rng(0))
    assert np.array_equal(again.population, found.population)
