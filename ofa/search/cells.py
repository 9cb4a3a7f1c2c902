"""What each combination of a few dims' values adds to several sums: all that exact search needs to know of a space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ofa.cost.cost_model import CostModel
from ofa.errors import UsageError
from ofa.search.problem import Constraint, Dearest
from ofa.space import GENE_DTYPE, SearchSpace, SpaceError

Floats = npt.NDArray[np.float64]


class Limit(NamedTuple):
    """A constraint whose cost is a sum or a maximum of factors."""

    name: str
    cost: CostModel
    most: float


@dataclass(frozen=True)
class Cells:
    """One cell for each combination of the values of some dims.

    Args:
        columns: Of these dims in a population, ascending.
        values: What a cell adds to each of ``K`` sums, shape ``(K, V1, V2, ...)``; infinite where no architecture that
            is wanted has this combination.
    """

    columns: tuple[int, ...]
    values: Floats

    def spread(self, columns: Sequence[int]) -> Floats:
        """The values with an axis of length 1 for each of further ``columns``, to be added to theirs."""
        shape = [self.values.shape[1 + self.columns.index(c)] if c in self.columns else 1 for c in columns]
        return self.values.reshape(len(self.values), *shape)

    def at(self, column: int, gene: int) -> Cells:
        """Those in which a dim has one of its values."""
        if column not in self.columns:
            return self
        axis = self.columns.index(column)
        values = np.asarray(self.values.take(gene, axis=1 + axis))
        return Cells(self.columns[:axis] + self.columns[axis + 1 :], values)


def cells_of(space: SearchSpace, sums: Sequence[CostModel], maxima: Sequence[Limit] = ()) -> list[Cells]:
    """All factors of ``K`` sums, each within one that reads no fewer dims if there is such a one.

    An architecture is one cell of each, with the same value of every dim that they share. Cells go where a dim that is
    inactive has a value, where a dim does not follow the one that it follows, where a part was not measured, and where
    a cost that is a maximum exceeds its limit.

    Args:
        sums: Costs of this space, each a sum.
        maxima: Limits of costs that are maxima.

    Raises:
        SpaceError: If a cost is of another space.
        UsageError: If one of ``sums`` is a maximum.
    """
    for model in (*sums, *(limit.cost for limit in maxima)):
        if model.space != space:
            raise SpaceError(f"cost {model.name!r} is of another space than the others; take all of one supernet")
    for model in sums:
        if model.reduce != "sum":
            raise UsageError(f"cost {model.name!r} is a maximum, not a sum; give it as a limit")
    found: list[Cells] = []
    parts = [*_contributions(space, sums), *_canonical(space, len(sums)), *_within(space, maxima, len(sums))]
    for part in sorted(parts, key=lambda part: -len(part.columns)):
        for position, whole in enumerate(found):
            if set(part.columns) <= set(whole.columns):
                found[position] = Cells(whole.columns, whole.values + part.spread(whole.columns))
                break
        else:
            found.append(part)
    return found


def has_factors(constraint: Constraint) -> bool:
    """Whether its cost is a sum or a maximum of factors, or several of these, of which the dearest counts."""
    return all(isinstance(cost, CostModel) for cost in _costs_of(constraint))


def _costs_of(constraint: Constraint) -> Sequence[Any]:
    return constraint.cost.costs if isinstance(constraint.cost, Dearest) else [constraint.cost]


def split_limits(constraints: Sequence[Constraint]) -> tuple[list[Limit], list[Limit]]:
    """Limits of sums, and those of maxima; one that holds on several devices as one for each.

    Raises:
        UsageError: If a cost is neither.
    """
    sums: list[Limit] = []
    maxima: list[Limit] = []
    for constraint in constraints:
        if not has_factors(constraint):
            raise UsageError(
                f"the limit of {constraint.name} is of no sum or maximum of factors, so nothing exact is known of it; "
                "give it as a CostModel"
            )
        for cost in _costs_of(constraint):
            (sums if cost.reduce == "sum" else maxima).append(Limit(constraint.name, cost, constraint.limit))
    return sums, maxima


def _contributions(space: SearchSpace, sums: Sequence[CostModel]) -> Iterator[Cells]:
    for number, model in enumerate(sums):
        for factor in model.factors:
            own = _ordered(space, factor.dims, np.where(np.isnan(factor.array), np.inf, factor.array))
            values = np.zeros((len(sums), *own.values.shape[1:]))
            values[number] = own.values[0]
            yield Cells(own.columns, values)


def _within(space: SearchSpace, maxima: Sequence[Limit], num: int) -> Iterator[Cells]:
    for limit in maxima:
        for factor in limit.cost.factors:
            yield _allowed(_ordered(space, factor.dims, factor.array <= limit.most), num)


def _canonical(space: SearchSpace, num: int) -> Iterator[Cells]:
    """For each dim that is no free choice everywhere: where its value is that of canonical architectures."""
    for column, dim in enumerate(space.dims):
        columns = {column}
        if dim.follows is not None:
            columns.add(space.column(dim.follows))
        above = dim
        while above.requires is not None:
            above = space[above.requires[0]]
            columns.add(space.column(above.name))
        if len(columns) > 1:
            read = sorted(columns)
            shape = tuple(space.num_values[read].tolist())
            rows = np.zeros((math.prod(shape), len(space)), dtype=GENE_DTYPE)
            rows[:, read] = np.indices(shape).reshape(len(read), -1).T
            is_canonical = space.canonical(rows)[:, column] == rows[:, column]
            yield _allowed(Cells(tuple(read), is_canonical.reshape(1, *shape)), num)


def _allowed(marked: Cells, num: int) -> Cells:
    return Cells(marked.columns, np.repeat(np.where(marked.values, 0.0, np.inf), num, axis=0))


def _ordered(space: SearchSpace, dims: Sequence[str], array: npt.NDArray[np.generic]) -> Cells:
    columns = [space.column(dim) for dim in dims]
    order = np.argsort(columns)
    return Cells(tuple(sorted(columns)), array.transpose(order)[None])  # type: ignore[arg-type]
