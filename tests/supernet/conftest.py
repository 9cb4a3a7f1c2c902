from __future__ import annotations

import pytest

from ofa.supernet import PRESETS, Supernet, create_supernet

from .helpers import randomise


@pytest.fixture(scope="session", params=sorted(PRESETS))
def preset(request: pytest.FixtureRequest) -> Supernet:
    """Every preset, with kernel transforms in the published ones; not to be changed by tests."""
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
