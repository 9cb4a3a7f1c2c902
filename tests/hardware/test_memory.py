from __future__ import annotations

import numpy as np
import pytest

import ofa
from ofa.cost import peak_activation_bytes
from ofa.cost.memory_plan import plan_onnx
from ofa.hardware.memory import arena_bytes
from ofa.hardware.onnx_export import export_for_timing


@pytest.mark.parametrize("name", ["ofa_mobilenetv3_tiny", "vit_tiny"])
def test_parts_tell_what_the_whole_needs(name):
    supernet = ofa.create_supernet(name, **({} if name == "vit_tiny" else {"resolution": [32]})).eval()
    steps = []
    cost = arena_bytes(supernet, progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] == len(steps)
    archs = supernet.space.to_archs(supernet.space.sample_population(6, np.random.default_rng(0)))
    whole = [
        plan_onnx(export_for_timing(supernet.extract(arch), supernet.input_shape(arch))).arena_bytes for arch in archs
    ]
    shares = cost.predict(archs) / whole
    # A plan of the whole may have to place around what two neighbouring parts hold.
    assert ((shares > 0.8) & (shares <= 1.001)).all()
    assert np.median(shares) > 0.85
    assert (cost.predict(archs) >= peak_activation_bytes(supernet).predict(archs)).all()


def test_bytes_per_element():
    supernet = ofa.create_supernet("ofa_mobilenetv3_tiny", resolution=[20]).eval()
    archs = [supernet.space.smallest(), supernet.space.largest()]
    fp32, int8 = (arena_bytes(supernet, bytes_per_element=size).predict(archs) for size in (4, 1))
    np.testing.assert_array_equal(fp32, 4 * int8)
