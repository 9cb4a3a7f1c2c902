"""The whole Pareto front of two sums of factors, for every budget at once: exact, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ofa.cost.cost_model import CostModel
from ofa.errors import OfaError, UsageError
from ofa.search.cells import Cells, cells_of, split_limits
from ofa.search.pareto import Evaluations, hypervolume, non_dominated
from ofa.search.problem import Constraint, nothing_within
from ofa.space import GENE_DTYPE, SearchSpace

MAX_CELLS = 20_000
ROUNDING = 1e-12  # of the greatest value: what is better by less, differs in the order of its sum
TIE = 1e-9  # costs that differ by less are one: sums of equal parts in another order

Floats = npt.NDArray[np.float64]


class TooWideError(OfaError, ValueError):
    """Factors share so many dims that eliminating them one after the other leads to tables that are too large."""


@dataclass(frozen=True)
class _Table:
    """Of some dims: for each combination of their values, what the dims that are settled can still lead to.

    Args:
        columns: Of these dims, ascending.
        fronts: By the dims' value indices: undominated choices for the settled dims (0 for all others), shape
            ``(N, D)``, and their two sums so far, shape ``(N, 2)``, costs ascending.
    """

    columns: tuple[int, ...]
    fronts: dict[tuple[int, ...], Evaluations]

    def at(self, genes: dict[int, int]) -> Evaluations | None:
        return self.fronts.get(tuple(genes[column] for column in self.columns))


class Gap(NamedTuple):
    """How far a front is from a better one, at the same values.

    Attributes:
        hypervolume_percent: What the front has of the other's hypervolume, up to the worst of both.
        largest: By how much the other is better, at most, within what a point of the front costs; in the value's unit.
        mean: The same on average over the front's points.
    """

    hypervolume_percent: float
    largest: float
    mean: float


def gap(found: Floats, exact: Floats) -> Gap:
    """How far what was found is from the exact front.

    Args:
        found: Costs and values, shape ``(N, 2)``; what is dominated does not count.
        exact: Those of :func:`exact_front`, shape ``(M, 2)``, or of any front that holds all of ``found`` or better.
    """
    found = found[non_dominated(found)]
    exact = exact[_undominated(*exact.T)]
    worst = np.maximum(found.max(axis=0), exact.max(axis=0))
    whole = hypervolume(exact, worst)
    share = 100 * hypervolume(found, worst) / whole if whole else 100.0
    within = np.searchsorted(exact[:, 0], found[:, 0] * (1 + TIE) + TIE, side="right") - 1
    better = np.maximum(found[:, 1] - exact[np.maximum(within, 0), 1], 0.0)
    return Gap(min(share, 100.0), float(better.max()), float(better.mean()))


def exact_front(cost: CostModel, value: CostModel, *, constraints: Sequence[Constraint] = ()) -> Evaluations:
    """All architectures that no other beats in both of two sums of factors, such as a latency and a predicted error.

    Dims are eliminated one after the other, the one whose factors read the fewest combinations first. Whatever was
    settled so far is kept for each combination of the dims that it shares with the rest (depth within a stage, width
    between stages, resolution with everything), as the undominated pairs of the two sums. What is dominated there is
    so in every whole architecture, so nothing is lost.

    Args:
        cost: A latency table's ``cost_model``, MACs, bytes; its correction belongs to its parts, so it stays a sum.
        value: What is to be minimised within each budget, such as :attr:`ofa.search.predictors.RidgePredictor.as_sum`.
        constraints: Of costs that are maxima, such as peak memory. For further sums see
            :func:`ofa.search.integer_program.exact_best`.

    Returns:
        One architecture for each point of the front, shape ``(N, D)``, and the two sums, shape ``(N, 2)``, costs
        ascending; up to rounding of the sums.

    Raises:
        InfeasibleError: If nothing keeps the limits.
        SpaceError: If the costs are of different spaces.
        TooWideError: If factors share too many dims; :func:`~ofa.search.integer_program.exact_best` is for these too.
        UsageError: If a constraint is of a sum, or of no factors.

    References:
        Dechter 1999, Bucket elimination, with pairs in the place of numbers. LANA (arXiv:2107.10624) and Puzzle
        (arXiv:2411.19146) solve an integer program for each budget, on scores of layers that do not share dims.
    """
    space = cost.space
    sums, maxima = split_limits(constraints)
    if sums:
        raise UsageError(f"a front within a limit of {sums[0].name}, a sum, is not exact; call exact_best per budget")
    cells = cells_of(space, (cost, value), maxima)
    tables = [_without_own_dims(space, each, cells) for each in cells]
    while columns := sorted({column for table in tables for column in table.columns}):
        sizes = [
            _num_cells(space, [table.columns for table in tables if column in table.columns]) for column in columns
        ]
        if min(sizes) > MAX_CELLS:
            raise TooWideError(
                f"factors of {cost.name} and {value.name} share so many dims that {min(sizes):.3g} combinations would "
                f"be listed at once, of at most {MAX_CELLS}; call exact_best for each budget instead"
            )
        tables = _eliminate(space, tables, columns[int(np.argmin(sizes))])
    front = _sum([table.at({}) for table in tables])
    if front is None:
        raise nothing_within(space, constraints)
    values = np.column_stack([cost.predict(front.population), value.predict(front.population)])
    return Evaluations(front.population, values).take(_undominated(*values.T))


def _num_cells(space: SearchSpace, scopes: Sequence[tuple[int, ...]]) -> float:
    return float(np.prod(space.num_values[sorted({column for scope in scopes for column in scope})], dtype=float))


def _without_own_dims(space: SearchSpace, cells: Cells, everything: Sequence[Cells]) -> _Table:
    """A table of the dims that other factors read too; its own are settled at once."""
    others = {column for each in everything if each is not cells for column in each.columns}
    kept = tuple(column for column in cells.columns if column in others)
    own = [column for column in cells.columns if column not in others]
    axes = [1 + cells.columns.index(column) for column in (*kept, *own)]
    shape = tuple(space.num_values[list(kept)])
    choices = np.zeros((int(space.num_values[own].prod()), len(space)), dtype=GENE_DTYPE)
    choices[:, own] = np.indices(space.num_values[own].tolist()).reshape(len(own), len(choices)).T
    values = cells.values.transpose(0, *axes).reshape(2, *shape, len(choices))
    fronts = {}
    for cell in np.ndindex(shape):
        own_values = values[(slice(None), *cell)].T
        allowed = np.isfinite(own_values).all(axis=1)
        if allowed.any():
            front = Evaluations(choices[allowed], own_values[allowed])
            fronts[cell] = front.take(_undominated(*front.values.T))
    return _Table(kept, fronts)


def _eliminate(space: SearchSpace, tables: Sequence[_Table], column: int) -> list[_Table]:
    """Settle a dim, and what nothing else reads then, for each combination of the dims that others read too."""
    touched = [table for table in tables if column in table.columns]
    others = [table for table in tables if column not in table.columns]
    scope = sorted({column for table in touched for column in table.columns})
    read = {column for table in others for column in table.columns}
    kept = tuple(column for column in scope if column in read)
    gone = [column for column in scope if column not in read]
    fronts = {}
    for cell in np.ndindex(*space.num_values[list(kept)]):
        found = []
        for choice in np.ndindex(*space.num_values[gone]):
            genes = dict(zip((*kept, *gone), (*cell, *choice), strict=True))
            total = _sum([table.at(genes) for table in touched])
            if total is not None:
                total.population[:, gone] = choice
                found.append(total)
        if found:
            union = found[0].and_(*found[1:])
            fronts[cell] = union.take(_undominated(*union.values.T))
    return [*others, _Table(kept, fronts)]


def _sum(fronts: Sequence[Evaluations | None]) -> Evaluations | None:
    """One of each, all ways that no other beats; none if one of them has none."""
    found: list[Evaluations] = []
    for front in fronts:
        if front is None:
            return None
        found.append(front)
    found.sort(key=lambda front: -len(front.values))  # few pairs are added to many last
    total = Evaluations(found[0].population.copy(), found[0].values)
    for front in found[1:]:
        # Costs ascend in both: few long ascending runs are sorted fastest.
        best = _undominated(*(np.add.outer(front.values[:, i], total.values[:, i]).ravel() for i in range(2)))
        others, rows = np.divmod(best, len(total.values))
        more = front.take(others)
        total = Evaluations(total.population[rows] + more.population, total.values[rows] + more.values)
    return total


def _undominated(costs: Floats, values: Floats) -> npt.NDArray[np.intp]:
    """Positions of the pairs that no other beats, costs ascending; of equal ones, one."""
    order = np.argsort(costs, kind="stable")
    least = np.minimum.accumulate(values[order])
    slack = ROUNDING * np.abs(least).max()
    best = order[np.append(True, values[order[1:]] < least[:-1] - slack)]
    return best[np.append(costs[best[1:]] > costs[best[:-1]], True)]  # of those of one cost, the last is the least
