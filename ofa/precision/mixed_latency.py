"""Latency of networks that mix INT8 and fp32: two tables, and what changing between precisions costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ofa.cost.correction import Floats
from ofa.cost.cost_model import CostModel, Factor
from ofa.cost.held_out import held_out_errors
from ofa.cost.latency_table import LatencyTable, SlotLike
from ofa.errors import UsageError
from ofa.precision.mixed_space import (
    PRECISION,
    PRECISIONS,
    Per,
    Place,
    places_of,
    precision_dim,
    split_precision,
    with_precision,
    without_idle_axes,
)
from ofa.space import Arch, Population, SearchSpace

MIN_MIXED = 8
_INT8, _FP32 = range(2)
_SAME_MACHINE = ("cpu", "cores", "machine", "system", "governor", "runtime", "batch", "threads")


@dataclass(frozen=True)
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
        num_elements: Number of elements that the part with this key takes in:
            ``lambda key: math.prod(supernet.part(key).input_shape)``.
        boundary: Known or fitted costs; nothing unless given.

    Raises:
        ValueError: If the tables are of different spaces, slots, or machines, or not of these precisions.
    """

    fp32: LatencyTable
    int8: LatencyTable
    per: Per
    num_elements: Callable[[str], float]
    boundary: BoundaryCost = BoundaryCost()

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
        return CostModel(self.space, [*self._blocks, *boundaries], name="latency")

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

    @cached_property
    def _blocks(self) -> list[Factor]:
        """The call, which is of the precision of what comes first, and what stands in each slot."""
        calls = np.array([table.correction.call_overhead_ms for table in self._tables])
        factors = [Factor((precision_dim(self.fp32.slots[0].name, self.per),), calls)]
        for slot in self.fp32.slots:
            both = np.stack([_in_network_ms(table, slot) for table in self._tables], axis=-1)
            factors.append(Factor((*slot.dims, precision_dim(slot.name, self.per)), both))
        return factors

    # -- boundaries --------------------------------------------------------------------------------------------------

    @cached_property
    def _boundaries(self) -> list[list[Factor]]:
        """For each cost of :class:`BoundaryCost`, in its order: how often it falls due, as factors."""
        result: list[list[Factor]] = [[] for _ in dataclasses.fields(BoundaryCost)]
        if self.per == "network":
            return result
        places = places_of(self.fp32.slots)
        for first, place in enumerate(places):
            between: list[Place] = []
            for other in places[first + 1 :]:
                self._add_boundary(result, place, between, other)
                between.append(other)
                if not other.presence[0]:
                    break  # always there, so nothing behind it follows the first
        return result

    def _add_boundary(self, result: list[list[Factor]], first: Place, between: Sequence[Place], second: Place) -> None:
        """The boundary that is there if both places are, and none of those between."""
        arrays = [first.presence, second.presence]
        arrays += [(own, ~is_there) for own, is_there in (place.presence for place in between)]
        size_dims, million = self._million_elements(second.slots[0])
        dims = tuple(sorted({*size_dims, *(dim for own, _ in arrays for dim in own)}, key=self.space.column))

        def product(last: Floats) -> Floats:
            factors = [*arrays, (size_dims, last)]
            words = [word for own, array in factors for word in (array.astype(float), [dims.index(dim) for dim in own])]
            return np.asarray(np.einsum(*words, list(range(len(dims)))))

        num = product(np.ones_like(million))
        if not num.any():
            return
        elements = np.where(num > 0, product(million), 0.0)
        dims = (*dims, precision_dim(first.name, self.per), precision_dim(second.name, self.per))
        for offset, (before, after) in ((0, (_FP32, _INT8)), (2, (_INT8, _FP32))):
            is_change = np.zeros((2, 2))
            is_change[before, after] = 1.0
            result[offset].append(Factor(dims, num[..., None, None] * is_change))
            # Sizes of slots in which nothing stands are not known.
            sizes = np.where(is_change > 0, elements[..., None, None], 0.0)
            result[offset + 1].append(Factor(dims, sizes))

    def _million_elements(self, slot: SlotLike) -> tuple[tuple[str, ...], Floats]:
        """Millions of elements that a slot takes in, over the dims that matter."""
        keys = slot.keys.ravel().tolist()
        known = {key: self.num_elements(key) / 1e6 for key in dict.fromkeys(keys) if key}
        millions = np.array([known.get(key, np.nan) for key in keys]).reshape(slot.keys.shape)
        return without_idle_axes(slot.dims, millions)

    def boundary_counts(self, archs: Arch | Sequence[Arch] | Population) -> Floats:
        """What the four costs of :class:`BoundaryCost` are multiplied by, shape ``(N, 4)``.

        The number of changes to INT8, the millions of elements that are changed, and the same of changes to fp32.
        """
        population = self.space.to_population(archs)
        nothing = Factor((), np.zeros(()))  # a sum needs a factor
        sums = [CostModel(self.space, [nothing, *each], name="boundaries") for each in self._boundaries]
        return np.stack([each.predict(population) for each in sums], axis=1)

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
        return dataclasses.replace(self, boundary=BoundaryCost(*costs.tolist()))

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
    return np.where(slot.keys == "", 0.0, table.in_network_ms(slot))
