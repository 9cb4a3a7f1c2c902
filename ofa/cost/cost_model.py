"""A cost is a sum (or a maximum) of factors, each a dense array over the few dims that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ofa.space import Arch, Population, SearchSpace


@dataclass(frozen=True)
class Factor:
    """What one place of the network contributes.

    Args:
        dims: Names of the dims that decide it.
        array: Contributions, one axis per dim in the order of ``dims``; 0 where nothing stands at this place.
    """

    dims: tuple[str, ...]
    array: npt.NDArray[np.float64]


class CostModel:
    """Predicts the cost of whole populations by a gather and a sum per factor.

    Args:
        name: What is counted: ``macs``, ``latency``.
        unit: In which unit: ``MAC``, ``ms``.
        reduce: ``sum``, or ``max`` for what is needed at one moment only, such as peak memory.

    Raises:
        SpaceError: If a factor reads a dim that is not in ``space``.
        ValueError: If there are no factors, or if an array does not fit its dims.
    """

    def __init__(
        self,
        space: SearchSpace,
        factors: Iterable[Factor],
        *,
        name: str,
        unit: str,
        reduce: Literal["sum", "max"] = "sum",
    ) -> None:
        self.space, self.name, self.unit, self.reduce = space, name, unit, reduce
        self._combine = {"sum": np.add, "max": np.maximum}[reduce]
        merged: dict[tuple[str, ...], npt.NDArray[np.float64]] = {}
        for factor in factors:
            shape = tuple(len(space[dim].values) for dim in factor.dims)
            array = np.asarray(factor.array, dtype=np.float64)
            if array.shape != shape:
                raise ValueError(f"a factor of {name} over {factor.dims} has shape {shape}, not {array.shape}")
            merged[factor.dims] = self._combine(merged[factor.dims], array) if factor.dims in merged else array
        if not merged:
            raise ValueError(f"cost {name!r} has no factors; give at least one")
        self.factors = tuple(Factor(dims, array) for dims, array in merged.items())

    def predict(self, archs: Arch | Sequence[Arch] | Population) -> npt.NDArray[np.float64]:
        """Costs, shape ``(N,)``.

        Args:
            archs: One architecture, a list of them, or a population ``(N, D)``.

        Raises:
            SpaceError: If they do not fit the space.
        """
        population = self.space.to_population(archs)
        columns = np.ascontiguousarray(population.T, dtype=np.int32)
        total: npt.NDArray[np.float64] | None = None
        for factor in self.factors:
            index = np.zeros(len(population), dtype=np.int32)
            for dim, length in zip(factor.dims, factor.array.shape, strict=True):
                index *= length
                index += columns[self.space.column(dim)]
            values = np.take(factor.array, index)  # of the flattened array
            total = values if total is None else self._combine(total, values, out=total)
        assert total is not None
        return total

    def __repr__(self) -> str:
        return f"CostModel({self.name!r}, unit={self.unit!r}, {len(self.factors)} factors, reduce={self.reduce!r})"


class HasFactors(Protocol):
    """What is needed of a supernet."""

    @property
    def space(self) -> SearchSpace: ...

    def factors(self, cost: str) -> Sequence[tuple[tuple[str, ...], npt.NDArray[Any]]]:
        """``(dims, array)`` of each place."""
        ...


def macs(supernet: HasFactors) -> CostModel:
    """Multiply-accumulates of one image."""
    return _of_supernet(supernet, "macs", unit="MAC")


def params(supernet: HasFactors) -> CostModel:
    """Number of parameters."""
    return _of_supernet(supernet, "params", unit="parameter")


def model_bytes(supernet: HasFactors, *, precision: Literal["fp32", "fp16", "int8"] = "fp32") -> CostModel:
    """Bytes of the weights in a deployed file: batch normalisation is folded, which leaves a bias per channel.

    INT8 keeps biases in 32 bits; the scale per channel that it adds is counted with them. The graph itself takes some
    ten to a hundred kilobytes more.
    """
    weight, bias = {"fp32": (4, 4), "fp16": (2, 2), "int8": (1, 8)}[precision]
    factors = [
        Factor(tuple(dims), array * num_bytes)
        for kind, num_bytes in (("weights", weight), ("biases", bias))
        for dims, array in supernet.factors(kind)
    ]
    return CostModel(supernet.space, factors, name="model", unit="byte")


def peak_activation_bytes(supernet: HasFactors) -> CostModel:
    """Most memory that the activations of one image need at once: the largest factor, not the sum.

    It counts what convolutions and products read and write, and shortcuts that wait: the least that any memory plan of
    a network of convolutions can do with. :func:`ofa.hardware.memory.arena_bytes` makes the plan.
    """
    return _of_supernet(supernet, "peak_activation_bytes", unit="byte", reduce="max")


def _of_supernet(supernet: HasFactors, name: str, *, unit: str, reduce: Literal["sum", "max"] = "sum") -> CostModel:
    factors = (Factor(tuple(dims), array) for dims, array in supernet.factors(name))
    return CostModel(supernet.space, factors, name=name, unit=unit, reduce=reduce)
