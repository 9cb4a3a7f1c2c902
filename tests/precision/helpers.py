from __future__ import annotations

from collections.abc import Collection, Sequence

from ofa.cost.latency_table import SlotLike
from ofa.precision import place_of, standing_slots
from ofa.space import Arch, SearchSpace


def join_precision(
    space: SearchSpace, slots: Sequence[SlotLike], plain: Arch, float_slots: Collection[str] = ()
) -> Arch:
    """The architecture whose slots are in INT8, but for these; whole places only, as the space has no other."""
    chosen = {}
    for name in standing_slots(space, slots, plain):
        dim = "precision" if "precision" in space else f"{place_of(name)}.precision"
        precision = "fp32" if name in float_slots else "int8"
        assert chosen.setdefault(dim, precision) == precision
    return space.arch({**plain, **chosen})
