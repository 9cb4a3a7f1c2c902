"""Peak activation memory as a cost: a real memory plan of every part of a space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofa.cost import CostModel, Factor
from ofa.cost.memory_plan import plan_onnx
from ofa.hardware.onnx_export import export_for_timing
from ofa.hardware.profiler import Profilable

Progress = Callable[[int, int, str], None]


def arena_bytes(supernet: Profilable, *, bytes_per_element: int = 4, progress: Progress | None = None) -> CostModel:
    """Size of the arena that holds the activations of one image: the greatest of the parts' own.

    Parts follow each other and hand over one tensor, which both plans hold, so that the network needs what its
    neediest part needs. :func:`ofa.cost.peak_activation_bytes` needs no export and counts only what convolutions and
    products read and write: it is the least that any plan can do with for networks of convolutions, and too little for
    transformers, whose exported graphs keep more.

    Args:
        bytes_per_element: 4 in fp32, 2 in fp16, 1 in INT8.
        progress: Called with parts done, parts in all, and what is being done.
    """
    keys = sorted({key for slot in supernet.slots for key in slot.keys.ravel().tolist() if key})
    found = {"": 0}
    for number, key in enumerate(keys, start=1):
        part = supernet.part(key)
        plan = plan_onnx(export_for_timing(part.module, part.input_shape), bytes_per_element=bytes_per_element)
        found[key] = plan.arena_bytes
        if progress is not None:
            progress(number, len(keys), "planning memory")
    factors = [
        Factor(slot.dims, np.array([found[key] for key in slot.keys.ravel().tolist()]).reshape(slot.keys.shape))
        for slot in supernet.slots
    ]
    return CostModel(supernet.space, factors, name="arena", unit="byte", reduce="max")
