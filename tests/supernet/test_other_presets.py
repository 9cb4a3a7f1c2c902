"""Presets that are no classifiers of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ofa.cost import macs
from ofa.supernet import Supernet, create_supernet
from ofa.supernet.autoformer_nets import SIZES
from ofa.supernet.model_sources import UnknownModelError

from .helpers import CLASSIFIERS, PRESETS

KINDS = {
    "edsr": {"depth", "expand", "width"},
    "edsr_tiny": {"depth", "expand", "width"},
    "keyword_net": {"depth", "kernel", "expand", "width"},
    "ecapa_tdnn": {"width"},
}


@pytest.fixture(scope="module", params=sorted(KINDS))
def other(request: pytest.FixtureRequest) -> Supernet:
    supernet = create_supernet(
        request.param, num_classes=3, **({"resolution": [16, 24]} if "edsr" in request.param else {})
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in supernet.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return supernet.eval()


def test_all_are_tried() -> None:
    assert set(KINDS) | set(CLASSIFIERS) | set(SIZES) == set(PRESETS)


def test_what_varies(other: Supernet) -> None:
    (kinds,) = [
        kinds for name, kinds in KINDS.items() if create_supernet(name, num_classes=3).space == other.space
    ] or [None]
    assert kinds is None or {dim.kind for dim in other.dims} >= kinds
    least, most = macs(other).predict([other.space.smallest(), other.space.largest()])
    assert least < 0.6 * most


def test_extracted_subnets_give_the_same(other: Supernet) -> None:
    rng = np.random.default_rng(0)
    for arch in [other.space.smallest(), *other.space.to_archs(other.space.sample_population(3, rng))]:
        inputs = torch.randn(2, *other.input_shape(arch), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(other.extract(arch)(inputs), other(inputs, arch), atol=1e-5, rtol=1e-4)


def test_recordings_may_be_of_other_lengths() -> None:
    supernet = create_supernet("keyword_net", num_classes=5, seconds=[0.5, 1.0])
    assert supernet.space["seconds"].values == (0.5, 1) and supernet.input_shape(supernet.space.smallest()) == (40, 50)


@pytest.mark.parametrize(("name", "seconds"), [("keyword_net", [0.5, 1.0]), ("ecapa_tdnn", [0.5, 0.75, 1.0])])
def test_parts_are_of_a_length(name: str, seconds: list[float]) -> None:
    """Blocks of recordings of other lengths are other parts; a classifier behind the mean is the same."""
    supernet = create_supernet(name, num_classes=5, seconds=seconds)
    differ = {}
    for slot in supernet.slots:
        keys = np.moveaxis(slot.keys, slot.dims.index("seconds"), 0)
        differ[slot.name] = bool((keys[0] != keys[1]).any())
    assert sum(differ.values()) >= 5 and (name == "ecapa_tdnn" or not differ[supernet.slots[-1].name]), differ


def test_what_they_do_not_have_is_said() -> None:
    with pytest.raises(UnknownModelError, match=r"preset 'edsr' is not made with .*drop_rate"):
        create_supernet("edsr", num_classes=3, drop_rate=0.2)
