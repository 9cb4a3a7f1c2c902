from __future__ import annotations

import pytest

from ofa.supernet import Supernet, create_supernet

from .helpers import CLASSIFIERS, randomise


@pytest.fixture(scope="session", params=CLASSIFIERS)
def preset(request: pytest.FixtureRequest) -> Supernet:
    """Every preset of a classifier, with kernel transforms in the published ones; not to be changed by tests."""
    name: str = request.param
    supernet = create_supernet(name, num_classes=10, kernel_transforms=name.endswith(("w1.0", "w1.3")))
    randomise(supernet.model, size=supernet.input_shape(supernet.space.largest())[-1])
    return supernet.eval()


@pytest.fixture
def tiny() -> Supernet:
    """A supernet of one's own."""
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10)
    randomise(supernet.model, size=32)
    return supernet.eval()
