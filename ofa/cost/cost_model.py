"""A cost is a sum (or a maximum) of factors, each a dense array over the few dims that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ofa.errors import unknown_name_message
from ofa.setting import Setting
from ofa.space import Arch, Population, SearchSpace

FP32_BYTES = 4
MAX_JOINT_VALUES = 1 << 15  # 256 KiB: stays in a core's cache
CHUNK_ROWS = 1 << 13
BYTES = {
    "fp32": {"weights": 4, "biases": 4},
    "fp16": {"weights": 2, "biases": 2},
    "bf16": {"weights": 2, "biases": 2},
    "int8": {"weights": 1, "biases": 8},
}
ACTIVATION_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
MORE_BYTES = {"fp32": {"layers": 560}, "fp16": {"layers": 600}, "bf16": {"layers": 600}, "int8": {"layers": 1800}}
"""Of a graph: its nodes and names, for each convolution or product with what belongs to it (activation, sum, Q/DQ)."""
MORE_BYTES_OF = {
    "openvino": {"fp32": {"layers": 2750}, "fp16": {"layers": 2800}, "int8": {"layers": 11000}},  # XML
    "executorch": {"fp32": {"layers": 1000}, "int8": {"layers": 1700}},
    # Scales of four bytes and zero points of eight, of each channel, for weights and for biases.
    "litert": {"fp32": {"layers": 1850}, "int8": {"layers": 1300, "biases": 28}},
}
"""The same where the file is no ONNX graph, by runtime."""
INT8_BIAS_BYTES = {"biases": 9}  # more of each channel in an ONNX file: zero points, and a scale of the bias


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
        reduce: Literal["sum", "max"] = "sum",
    ) -> None:
        self.space, self.name, self.reduce = space, name, reduce
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

    @cached_property
    def _compiled(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...], npt.NDArray[np.float64]], ...]:
        """Fewer, larger factors of the same meaning: columns, lengths of the axes, and flat values.

        Each gather costs about the same however many dims decide it, as long as its array stays in the cache.
        """
        groups: list[Factor] = []
        for factor in sorted(self.factors, key=lambda factor: [self.space.column(dim) for dim in factor.dims]):
            for position, group in enumerate(groups):
                joint = self._join(group, factor)
                if joint is not None:
                    groups[position] = joint
                    break
            else:
                groups.append(factor)
        return tuple(
            (tuple(map(self.space.column, group.dims)), group.array.shape, np.ascontiguousarray(group.array).ravel())
            for group in groups
        )

    def _join(self, first: Factor, second: Factor) -> Factor | None:
        """Both in one; ``None`` if that would be too large."""
        dims = tuple(sorted({*first.dims, *second.dims}, key=self.space.column))
        if np.prod([len(self.space[dim].values) for dim in dims], dtype=float) > MAX_JOINT_VALUES:
            return None
        arrays = []
        for factor in (first, second):
            ordered = tuple(sorted(factor.dims, key=self.space.column))
            array = factor.array.transpose([factor.dims.index(dim) for dim in ordered])
            arrays.append(array.reshape([len(self.space[dim].values) if dim in ordered else 1 for dim in dims]))
        return Factor(dims, self._combine(*arrays))

    def predict(self, archs: Arch | Sequence[Arch] | Population) -> npt.NDArray[np.float64]:
        """Costs, shape ``(N,)``.

        Args:
            archs: One architecture, a list of them, or a population ``(N, D)``.

        Raises:
            SpaceError: If they do not fit the space.
        """
        population = self.space.to_population(archs)
        total = np.empty(len(population))
        for start in range(0, len(population), CHUNK_ROWS):
            total[start : start + CHUNK_ROWS] = self._predict(population[start : start + CHUNK_ROWS])
        return total

    def _predict(self, population: Population) -> npt.NDArray[np.float64]:
        columns = np.ascontiguousarray(population.T, dtype=np.int32)
        total: npt.NDArray[np.float64] | None = None
        for axes, lengths, values in self._compiled:
            index = np.zeros(len(population), dtype=np.int32)
            for column, length in zip(axes, lengths, strict=True):
                index *= length
                index += columns[column]
            gathered = np.take(values, index)
            total = gathered if total is None else self._combine(total, gathered, out=total)
        assert total is not None
        return total


class HasFactors(Protocol):
    """What is needed of a supernet."""

    @property
    def space(self) -> SearchSpace: ...

    def factors(self, cost: str) -> Sequence[tuple[tuple[str, ...], npt.NDArray[Any]]]:
        """``(dims, array)`` of each place."""


def macs(supernet: HasFactors) -> CostModel:
    """Multiply-accumulates of one image."""
    return _of_supernet(supernet, "macs", {"macs": 1})


def params(supernet: HasFactors) -> CostModel:
    """Number of parameters."""
    return _of_supernet(supernet, "params", {"params": 1})


def model_bytes(supernet: HasFactors, *, precision: str = "fp32") -> CostModel:
    """Bytes of the weights in a deployed file, where batch normalisation is folded into the convolution before it.

    A file has a graph too: see :func:`file_bytes`.

    Args:
        precision: ``fp32``, ``fp16``, or ``int8``, which keeps biases in four bytes and adds a scale per channel.

    Raises:
        ValueError: If the precision is unknown.
    """
    if precision not in BYTES:
        raise ValueError(unknown_name_message("precision", precision, BYTES))
    return _of_supernet(supernet, "model_bytes", BYTES[precision])


def file_bytes(supernet: HasFactors, *, runtime: str = "onnxruntime", precision: str = "fp32") -> CostModel:
    """Bytes of a deployed file: its weights, and its graph, which is a quarter of a small network's in INT8.

    The graph is taken to hold so much for each layer; what that is worth, says a table in ``docs/devices.md``.

    Args:
        runtime: That the file is for; those of ``MORE_BYTES_OF`` have a format of their own, others take ONNX.

    Raises:
        ValueError: If the precision is unknown.
    """
    if precision not in BYTES:
        raise ValueError(unknown_name_message("precision", precision, BYTES))
    graph = MORE_BYTES_OF.get(runtime, MORE_BYTES).get(precision, MORE_BYTES[precision])
    more = INT8_BIAS_BYTES if precision == "int8" and runtime not in MORE_BYTES_OF else {}
    weights = {kind: size + more.get(kind, 0) for kind, size in BYTES[precision].items()}
    return _of_supernet(supernet, "model_bytes", {**weights, **graph})


def peak_activation_bytes(supernet: HasFactors, *, bytes_per_activation: int = 4) -> CostModel:
    """Most memory that the activations of one image need at once: the largest factor, not the sum.

    That is the lower bound of an arena for the exported subnet, which a plan (``tests/cost/memory_plan.py``) reaches
    for nearly all networks. It holds for networks whose blocks hand on one tensor each. Where a block also reads what
    much earlier ones made (DenseNet), that is taken at its full width, so the cost is an upper bound; so is that of a
    network that takes more steps with larger images (LSTM).

    Args:
        bytes_per_activation: 4 in fp32, 2 in fp16, 1 in INT8.
    """
    share = {"peak_activation_bytes": bytes_per_activation / FP32_BYTES}
    return _of_supernet(supernet, "peak_activation_bytes", share, reduce="max")


def bytes_on(supernet: HasFactors, setting: Setting) -> dict[str, CostModel]:
    """Costs in bytes, by name, as they are in a setting."""
    activation = ACTIVATION_BYTES[setting.precision]
    return {
        "model_bytes": file_bytes(supernet, runtime=setting.runtime, precision=setting.precision),
        "peak_activation_bytes": peak_activation_bytes(supernet, bytes_per_activation=activation),
    }


def _of_supernet(
    supernet: HasFactors, name: str, weights: Mapping[str, float], *, reduce: Literal["sum", "max"] = "sum"
) -> CostModel:
    """What several kinds of factors make together; each counts with its weight."""
    factors = [
        Factor(dims, array * weight) for kind, weight in weights.items() for dims, array in supernet.factors(kind)
    ]
    return CostModel(supernet.space, factors, name=name, reduce=reduce)
