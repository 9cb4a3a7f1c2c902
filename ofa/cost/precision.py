"""Precision as a dim: INT8 or fp32 for each block, or for the whole network, and what that costs.

A *place* is what has one precision: a block, and stem, head and what stands at the entry of a stage as a whole, however
many slots these are. A search over the extended space chooses architecture and quantization policy together.

References:
    Sridhar et al., SimQ-NAS, arXiv:2312.13301: one search over architectures and quantization policies. Here a policy
    chooses by blocks, because these are what latency tables measure.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from ofa.cost.correction import Floats
from ofa.cost.cost_model import CostModel, Factor
from ofa.cost.held_out import held_out_errors
from ofa.cost.latency_table import LatencyTable, SlotLike, stage_of
from ofa.errors import UsageError, unknown_name_message
from ofa.space import Arch, Dim, Population, SearchSpace, SpaceError

Per: TypeAlias = Literal["network", "block"]
_FourSums: TypeAlias = tuple[list[Factor], list[Factor], list[Factor], list[Factor]]

PRECISIONS = ("int8", "fp32")  # the fewest bits first, which is not always the fastest
PRECISION = "precision"
MIN_MIXED = 8
_INT8, _FP32 = range(2)
_OUTSIDE_BLOCKS = re.compile(r"(stem|head)(\.\d+)?|(stage\d+\.entry)\d*")
_SAME_MACHINE = ("cpu", "cores", "machine", "system", "governor", "runtime", "batch", "threads")


# -- the space ---------------------------------------------------------------------------------------------------------


def place_of(slot_name: str) -> str:
    """The place that a slot belongs to: blocks are their own, ``stem.1`` is of ``stem``, ``stage2.entry1`` of
    ``stage2.entry``."""
    match = _OUTSIDE_BLOCKS.fullmatch(slot_name)
    return slot_name if match is None else match[1] or match[3]


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
    dims = [Dim(f"{place.name}.{PRECISION}", PRECISIONS, place.requires(space)) for place in _places(slots)]
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


def split_precision(space: SearchSpace, slots: Sequence[SlotLike], arch: Arch) -> tuple[Arch, frozenset[str]]:
    """Architecture and quantization policy of an architecture of the extended space.

    Args:
        space: The extended one.

    Returns:
        The architecture in the plain space, and the names of the slots that stand in it and stay in fp32.

    Raises:
        SpaceError: If the space has no precision, or if ``arch`` does not fit it.
    """
    _granularity(space)
    arch = space.arch(arch)
    plain = Arch({name: value for name, value in arch.items() if not _is_precision(name)})
    network = arch.get(PRECISION)
    names = standing_slots(space, slots, plain)
    return plain, frozenset(n for n in names if (network or arch[f"{place_of(n)}.{PRECISION}"]) == "fp32")


def join_precision(
    space: SearchSpace, slots: Sequence[SlotLike], plain: Arch, float_slots: frozenset[str] | set[str]
) -> Arch:
    """The inverse of :func:`split_precision`.

    Args:
        space: The extended one.
        plain: Of the plain space.
        float_slots: Slots that stay in fp32; the others are INT8.

    Raises:
        SpaceError: If one of them does not stand in this architecture, or if the space cannot tell it from others that
            are INT8.
    """
    standing = standing_slots(space, slots, plain)
    unknown = sorted(set(float_slots) - set(standing))
    if unknown:
        raise SpaceError(unknown_name_message("or absent slot", unknown[0], standing))
    granularity = _granularity(space)
    chosen: dict[str, set[str]] = {}
    for name in standing:
        dim = PRECISION if granularity == "network" else f"{place_of(name)}.{PRECISION}"
        chosen.setdefault(dim, set()).add("fp32" if name in float_slots else "int8")
    for dim, precisions in chosen.items():
        if len(precisions) > 1:
            raise SpaceError(
                f"dim {dim!r} has one precision for several slots, but these are of both; give all or none"
            )
    return space.arch({**plain, **{dim: precisions.pop() for dim, precisions in chosen.items()}})


def _is_precision(name: str) -> bool:
    return name == PRECISION or name.endswith(f".{PRECISION}")


def _granularity(space: SearchSpace) -> Per:
    if not any(map(_is_precision, space.names)):
        raise SpaceError("the space has no dims of precision; make one with ofa.cost.precision.with_precision")
    return "network" if PRECISION in space else "block"


@dataclass(frozen=True)
class _Place:
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
        found: tuple[tuple[str, ...], npt.NDArray[np.bool_]] | None = None
        for slot in self.slots:
            there = slot.keys != ""
            dims, is_there = _without_idle_axes(slot.dims, np.where(there, 1.0, 0.0))
            if not dims:
                return (), np.array(True)
            found = found or (dims, is_there > 0)
        assert found is not None
        return found


def _places(slots: Sequence[SlotLike]) -> list[_Place]:
    grouped: dict[str, list[SlotLike]] = {}
    for slot in slots:
        grouped.setdefault(place_of(slot.name), []).append(slot)
    return [_Place(name, tuple(members)) for name, members in grouped.items()]


def _without_idle_axes(dims: Sequence[str], array: Floats) -> tuple[tuple[str, ...], Floats]:
    """The array without the axes along which it does not change; not-a-number stands for any value."""
    kept: list[str] = []
    for dim in dims:
        axis = len(kept)
        highest = np.where(np.isnan(array), -np.inf, array).max(axis=axis, keepdims=True)
        lowest = np.where(np.isnan(array), np.inf, array).min(axis=axis, keepdims=True)
        if ((highest == lowest) | (highest < lowest)).all():
            array = np.where(highest < lowest, np.nan, highest).squeeze(axis)
        else:
            kept.append(dim)
    return tuple(kept), array


# -- its latency -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BoundaryCost:
    """What it costs to change the precision of a tensor between two blocks.

    Args:
        quantize_ms: Of each change from fp32 to INT8.
        quantize_ms_per_million: And for each million of the tensor's elements.
        dequantize_ms: Of each change from INT8 to fp32.
        dequantize_ms_per_million: And for each million of the tensor's elements.
    """

    quantize_ms: float = 0.0
    quantize_ms_per_million: float = 0.0
    dequantize_ms: float = 0.0
    dequantize_ms_per_million: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedLatency:
    """Latencies over the extended space, from one table in fp32 and one in INT8 of the same plain space and machine.

    A network all in one precision takes exactly what the table of that precision says. In a mixed one each block takes
    what its own precision's table says it adds, and each boundary between blocks of different precision adds a
    :class:`BoundaryCost`, which is to be fitted on mixed networks.

    Args:
        per: As of :func:`with_precision`. A network of one precision has no boundaries.
        boundary: Known or fitted costs; nothing unless given.
        num_elements: Number of elements that the part with this key takes in. By default ``in_channels`` times the
            square of ``resolution`` of the tables, which is right for images ``(C, H, W)`` with ``H = W`` but not for
            tokens; ``lambda key: math.prod(supernet.part(key).input_shape)`` is right for all.

    Raises:
        ValueError: If the tables are of different spaces, slots, or machines, or not of these precisions.
    """

    fp32: LatencyTable
    int8: LatencyTable
    per: Per
    boundary: BoundaryCost = BoundaryCost()
    num_elements: Callable[[str], float] | None = None

    def __post_init__(self) -> None:
        if self.fp32.space != self.int8.space:
            raise UsageError(
                f"the fp32 table is of space {self.fp32.space.fingerprint}, the INT8 table of "
                f"{self.int8.space.fingerprint}; measure both for one space"
            )
        for first, second in zip(self.fp32.slots, self.int8.slots, strict=False):
            if (first.name, first.dims) != (second.name, second.dims) or not np.array_equal(first.keys, second.keys):
                raise UsageError(
                    f"slot {first.name!r} of the fp32 table is not slot {second.name!r} of the INT8 table; measure "
                    "both with one version of the supernet"
                )
        if len(self.fp32.slots) != len(self.int8.slots):
            raise UsageError(f"the tables have {len(self.fp32.slots)} and {len(self.int8.slots)} slots; measure again")
        for wanted, table in zip(PRECISIONS, self._tables, strict=True):
            if table.fingerprint.get(PRECISION, wanted) != wanted:
                raise UsageError(
                    f"the {wanted} table, of device {table.device!r}, was measured in "
                    f"{table.fingerprint[PRECISION]}; swap the tables, or give another"
                )
        for name in _SAME_MACHINE:
            here, there = self.fp32.fingerprint.get(name), self.int8.fingerprint.get(name)
            if here != there and None not in (here, there):
                raise UsageError(
                    f"the tables of {self.fp32.device!r} and {self.int8.device!r} have {name} {here} and {there}; "
                    "measure both on one machine with the same settings"
                )

    @property
    def _tables(self) -> tuple[LatencyTable, LatencyTable]:
        """In the order of :data:`PRECISIONS`."""
        return self.int8, self.fp32

    @cached_property
    def space(self) -> SearchSpace:
        """The extended space."""
        return with_precision(self.fp32.space, self.fp32.slots, per=self.per)

    # -- prediction --------------------------------------------------------------------------------------------------

    @cached_property
    def cost_model(self) -> CostModel:
        """All as a sum of factors; not-a-number where a part was not measured."""
        costs = dataclasses.astuple(self.boundary)
        boundaries = [
            Factor(factor.dims, factor.array * cost)
            for cost, factors in zip(costs, self._boundaries, strict=True)
            for factor in factors
            if cost
        ]
        return CostModel(self.space, [*self._blocks, *boundaries], name="latency", unit="ms")

    def predict_ms(self, archs: Arch | Sequence[Arch] | Population) -> Floats:
        """Predicted latencies (low percentile) in milliseconds, shape ``(N,)``.

        Args:
            archs: One architecture of the extended space, a list of them, or a population ``(N, D)``.

        Raises:
            SpaceError: If they do not fit the space.
            MissingLatencyError: If one of them holds a part that was not measured in its precision; it names the part.
        """
        predicted = self.cost_model.predict(archs)
        if np.isnan(predicted).any():
            missing = self.space.to_archs(self.space.to_population(archs)[np.isnan(predicted)][:1])[0]
            plain, _ = split_precision(self.space, self.fp32.slots, missing)
            for table in self._tables:
                table.predict_ms(plain)  # says which part
        return predicted

    def _precision_dim(self, place: str) -> str:
        return PRECISION if self.per == "network" else f"{place}.{PRECISION}"

    @cached_property
    def _blocks(self) -> list[Factor]:
        """The call, which is of the precision of what comes first, and what stands in each slot."""
        calls = np.array([table.correction.call_overhead_ms for table in self._tables])
        factors = [Factor((self._precision_dim(place_of(self.fp32.slots[0].name)),), calls)]
        for slot in self.fp32.slots:
            both = np.stack([_in_network_ms(table, slot) for table in self._tables], axis=-1)
            factors.append(Factor((*slot.dims, self._precision_dim(place_of(slot.name))), both))
        return factors

    # -- boundaries --------------------------------------------------------------------------------------------------

    @cached_property
    def _boundaries(self) -> _FourSums:
        """For each cost of :class:`BoundaryCost`, in its order: how often it falls due, as factors."""
        result: _FourSums = ([], [], [], [])
        if self.per == "network":
            return result
        places = _places(self.fp32.slots)
        for first, place in enumerate(places):
            between: list[_Place] = []
            for other in places[first + 1 :]:
                self._add_boundary(result, place, between, other)
                between.append(other)
                if not other.presence[0]:
                    break  # always there, so nothing behind it follows the first
        return result

    def _add_boundary(self, result: _FourSums, first: _Place, between: Sequence[_Place], second: _Place) -> None:
        """The boundary that is there if both places are, and none of those between."""
        arrays = [first.presence, second.presence]
        for place in between:
            own, is_there = place.presence
            arrays.append((own, ~is_there))
        size_dims, million = self._million_elements(second.slots[0])
        dims = tuple(sorted({*size_dims, *(dim for own, _ in arrays for dim in own)}, key=self.space.column))
        num = np.ones([len(self.space[dim].values) for dim in dims])
        for own, array in arrays:
            num = num * self._spread(dims, own, array)
        if not num.any():
            return
        elements = np.where(num > 0, num * self._spread(dims, size_dims, million), 0.0)
        dims = (*dims, self._precision_dim(first.name), self._precision_dim(second.name))
        for offset, (before, after) in ((0, (_FP32, _INT8)), (2, (_INT8, _FP32))):
            is_change = np.zeros((2, 2))
            is_change[before, after] = 1.0
            result[offset].append(Factor(dims, num[..., None, None] * is_change))
            # Sizes of parts that were not measured are not known.
            sizes = np.where(is_change > 0, elements[..., None, None], 0.0)
            result[offset + 1].append(Factor(dims, sizes))

    def _spread(self, dims: Sequence[str], own: Sequence[str], array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array over its own dims so that it broadcasts over others."""
        ordered = sorted(own, key=dims.index)
        shape = [len(self.space[dim].values) if dim in own else 1 for dim in dims]
        return array.transpose([own.index(dim) for dim in ordered]).reshape(shape)

    def _million_elements(self, slot: SlotLike) -> tuple[tuple[str, ...], Floats]:
        """Millions of elements that a slot takes in, over the dims that matter."""
        keys = slot.keys.ravel().tolist()
        known = {key: self._num_elements_of(key) / 1e6 for key in dict.fromkeys(keys) if key}
        millions = np.array([known.get(key, np.nan) for key in keys]).reshape(slot.keys.shape)
        return _without_idle_axes(slot.dims, millions)

    def _num_elements_of(self, key: str) -> float:
        if self.num_elements is not None:
            return float(self.num_elements(key))
        if key not in self._sizes:
            return np.nan
        channels, side = self._sizes[key]
        if not np.isfinite(channels * side):
            raise UsageError(
                f"the tables do not say how many elements part {key!r} takes in; give num_elements to MixedLatency"
            )
        return channels * side**2

    @cached_property
    def _sizes(self) -> dict[str, tuple[float, float]]:
        """Channels and side of what each part takes in."""
        found: dict[str, tuple[float, float]] = {}
        for table in self._tables:
            columns = table.entries.reindex(columns=["in_channels", "resolution"])
            sizes = columns.to_numpy(dtype=np.float64, na_value=np.nan)
            found |= {key: (c, r) for key, (c, r) in zip(table.entries["key"], sizes.tolist(), strict=True)}
        return found

    def boundary_counts(self, archs: Arch | Sequence[Arch] | Population) -> Floats:
        """What the four costs of :class:`BoundaryCost` are multiplied by, shape ``(N, 4)``.

        The number of changes to INT8, the millions of elements that are changed, and the same of changes to fp32.
        """
        population = self.space.to_population(archs)
        columns = [
            CostModel(self.space, factors, name="boundaries", unit="1").predict(population)
            if factors
            else np.zeros(len(population))
            for factors in self._boundaries
        ]
        return np.stack(columns, axis=1)

    # -- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, archs: Sequence[Arch] | Population, measured_ms: Sequence[float] | Floats) -> MixedLatency:
        """The same with boundary costs from whole mixed networks, by non-negative least squares on relative errors.

        Args:
            archs: ``N`` architectures of the extended space; those of one precision say nothing here.
            measured_ms: Their latencies, shape ``(N,)``.

        Raises:
            ValueError: If precision is of whole networks, if fewer than 8 of them have boundaries, or if a latency is
                not a positive number.
        """
        if self.per == "network":
            raise UsageError("networks of one precision have no boundaries; there is nothing to fit with per='network'")
        population, measured = self._checked(archs, measured_ms)
        counts = self.boundary_counts(population)
        num_mixed = int((counts.sum(axis=1) > 0).sum())
        if num_mixed < MIN_MIXED:
            raise UsageError(
                f"boundary costs need at least {MIN_MIXED} networks that mix precisions, not {num_mixed}; measure more"
            )
        without = dataclasses.replace(self, boundary=BoundaryCost())
        missing = (measured - without.predict_ms(population)) / measured
        costs, _ = nnls(counts / measured[:, None], missing)
        names = [field.name for field in dataclasses.fields(BoundaryCost)]
        return dataclasses.replace(self, boundary=BoundaryCost(**dict(zip(names, costs.tolist(), strict=True))))

    def held_out(self, archs: Sequence[Arch] | Population, measured_ms: Sequence[float] | Floats) -> dict[str, Any]:
        """Errors on networks that had no part in tables or fit, as of :func:`ofa.cost.held_out.held_out_errors`.

        ``without_boundaries_mape_percent`` is the error if boundaries were free.
        """
        population, measured = self._checked(archs, measured_ms)
        result = held_out_errors(self.predict_ms(population), measured, baselines={}, fit_ms=np.empty(0))
        without = dataclasses.replace(self, boundary=BoundaryCost()).predict_ms(population)
        return result | {"without_boundaries_mape_percent": float(np.abs(without / measured - 1).mean() * 100)}

    def _checked(
        self, archs: Sequence[Arch] | Population, measured_ms: Sequence[float] | Floats
    ) -> tuple[Population, Floats]:
        population, measured = self.space.to_population(archs), np.asarray(measured_ms, dtype=np.float64)
        if measured.shape != (len(population),):
            raise UsageError(f"{len(population)} architectures need as many latencies, not shape {measured.shape}")
        wrong = np.flatnonzero(~(np.isfinite(measured) & (measured > 0)))
        if len(wrong):
            raise UsageError(f"latency {wrong[0]} is {measured[wrong[0]]} ms; latencies are positive numbers")
        return population, measured


def _in_network_ms(table: LatencyTable, slot: SlotLike) -> Floats:
    """What a slot's parts add to a network, correction included; 0 where nothing stands, not-a-number if unknown."""
    part_ms = dict(zip(table.entries["key"], table.entries["latency_ms_p10"].astype(float), strict=True))
    ms = np.array([part_ms.get(key, np.nan) for key in slot.keys.ravel().tolist()]).reshape(slot.keys.shape)
    return np.where(slot.keys == "", 0.0, table.correction.part_in_network_ms(stage_of(slot), ms))
