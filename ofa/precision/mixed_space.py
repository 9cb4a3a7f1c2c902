"""Precision as a dim: INT8 or fp32 for each block, or for the whole network.

A *place* is what has one precision: a block, and stem, head and what stands at the entry of a stage as a whole, however
many slots these are. A search over the extended space chooses architecture and quantization policy together.

References:
    Sridhar et al., SimQ-NAS, arXiv:2312.13301: one search over architectures and quantization policies. Here a policy
    chooses by blocks, because these are what latency tables measure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ofa.cost.latency_table import SlotLike
from ofa.errors import UsageError, unknown_name_message
from ofa.space import Arch, Dim, SearchSpace, SpaceError

Floats = npt.NDArray[np.float64]
Per: TypeAlias = Literal["network", "block"]

PRECISIONS = ("int8", "fp32")  # the fewest bits first, which is not always the fastest
PRECISION = "precision"
_OUTSIDE_BLOCKS = re.compile(r"(stem|head)(\.\d+)?|(stage\d+\.entry)\d*")


def place_of(slot_name: str) -> str:
    """The place that a slot belongs to: blocks are their own, ``stem.1`` is of ``stem``, ``stage2.entry1`` of
    ``stage2.entry``."""
    match = _OUTSIDE_BLOCKS.fullmatch(slot_name)
    return slot_name if match is None else match[1] or match[3]


def precision_dim(slot_name: str, per: Per) -> str:
    """The dim that says in which precision a slot or a place is."""
    return PRECISION if per == "network" else f"{place_of(slot_name)}.{PRECISION}"


def with_precision(space: SearchSpace, slots: Sequence[SlotLike], *, per: Per) -> SearchSpace:
    """The space with precision as further dims, behind its own.

    Args:
        slots: Of the supernet or of a latency table of this space, in the order of the network.
        per: ``network`` appends one dim ``precision``. ``block`` appends one for each place, such as
            ``stage2.block1.precision``, active exactly where the block is there; ``stem.precision`` and the like are
            always active.

    Raises:
        SpaceError: If the space has such dims already, or if more than one dim decides whether a block is there.
        ValueError: If ``per`` is neither.
    """
    taken = [name for name in space.names if _is_precision(name)]
    if taken:
        raise SpaceError(f"the space has a dim {taken[0]!r} already; give the space without precision")
    if per == "network":
        return SearchSpace((*space.dims, Dim(PRECISION, PRECISIONS)))
    if per != "block":
        raise UsageError(unknown_name_message("granularity of precision", per, ("network", "block")))
    dims = [Dim(precision_dim(place.name, per), PRECISIONS, place.requires(space)) for place in places_of(slots)]
    return SearchSpace((*space.dims, *dims))


def standing_slots(space: SearchSpace, slots: Sequence[SlotLike], arch: Arch) -> list[str]:
    """Names of the slots in which something stands.

    Args:
        space: The plain or the extended one, as the architecture.
    """
    # A dim that is inactive has no say, or the slot is empty at its first value.
    return [
        slot.name
        for slot in slots
        if slot.keys[tuple(space[dim].index(arch[dim]) if dim in arch else 0 for dim in slot.dims)]
    ]


def split_precision(space: SearchSpace, slots: Sequence[SlotLike], arch: Arch) -> tuple[Arch, dict[str, str]]:
    """Architecture and quantization policy of an architecture of the extended space.

    Args:
        space: The extended one.

    Returns:
        The architecture in the plain space, and the precision of each slot that stands in it.

    Raises:
        SpaceError: If the space has no precision, or if ``arch`` does not fit it.
    """
    if not any(map(_is_precision, space.names)):
        raise SpaceError("the space has no dims of precision; make one with ofa.precision.with_precision")
    per: Per = "network" if PRECISION in space else "block"
    arch = space.arch(arch)
    plain = Arch({name: value for name, value in arch.items() if not _is_precision(name)})
    return plain, {name: str(arch[precision_dim(name, per)]) for name in standing_slots(space, slots, plain)}


def _is_precision(name: str) -> bool:
    return name == PRECISION or name.endswith(f".{PRECISION}")


@dataclass(frozen=True)
class Place:
    """Slots that have one precision, in the order of the network."""

    name: str
    slots: tuple[SlotLike, ...]

    def requires(self, space: SearchSpace) -> tuple[str, tuple[Any, ...]] | None:
        """Dim and values with which it is there; ``None`` if it always is."""
        dims, is_there = self.presence
        if not dims:
            return None
        if len(dims) > 1:
            raise SpaceError(
                f"whether {self.name!r} is there depends on {', '.join(dims)}; precision per block needs it to depend "
                "on one dim, use per='network'"
            )
        return dims[0], tuple(value for value, there in zip(space[dims[0]].values, is_there, strict=True) if there)

    @cached_property
    def presence(self) -> tuple[tuple[str, ...], npt.NDArray[np.bool_]]:
        """The dims that decide whether anything stands here, and whether it does for each of their values."""
        found = [without_idle_axes(slot.dims, (slot.keys != "").astype(float)) for slot in self.slots]
        dims, _ = next((one for one in found if not one[0]), found[0])  # one slot that is always there is enough
        return dims, np.logical_or.reduce([is_there > 0 for others, is_there in found if others == dims])


def places_of(slots: Sequence[SlotLike]) -> list[Place]:
    """In the order of the network."""
    grouped: dict[str, list[SlotLike]] = {}
    for slot in slots:
        grouped.setdefault(place_of(slot.name), []).append(slot)
    return [Place(name, tuple(members)) for name, members in grouped.items()]


def without_idle_axes(dims: Sequence[str], array: Floats) -> tuple[tuple[str, ...], Floats]:
    """The array without the axes along which it does not change; not-a-number stands for any value."""
    kept: list[str] = []
    for dim in dims:
        axis = len(kept)
        highest, lowest = np.fmax.reduce(array, axis), np.fmin.reduce(array, axis)  # not-a-number if all are
        if np.array_equal(highest, lowest, equal_nan=True):
            array = highest
        else:
            kept.append(dim)
    return tuple(kept), array
