from __future__ import annotations

import pytest

from ofa.space import SearchSpace

from .world import World, make_space


@pytest.fixture
def space() -> SearchSpace:
    return make_space()


@pytest.fixture
def world(space: SearchSpace) -> World:
    return World(space)
