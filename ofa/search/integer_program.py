"""The best architecture within several limits at once: integer programs, with a bound that says how good it can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ofa.cost.cost_model import CostModel
from ofa.search.cells import Cells, cells_of, split_limits
from ofa.search.problem import Constraint, nothing_within
from ofa.space import GENE_DTYPE, Population, SearchSpace

LIMIT = 1e4  # what limits are scaled to: HiGHS lets a row exceed its bound by 1e-6
INFEASIBLE = (2, 4)  # scipy's status; 4 also where a program is infeasible or unbounded, and none here is unbounded

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Best:
    """What :func:`exact_best` found.

    Attributes:
        population: The architecture, shape ``(1, D)``; ``(0, D)`` where ``max_nodes`` were too few to find one.
        value: Of the architecture; infinite without one.
        bound: No architecture within the limits has a lesser value. It is ``value``, up to a millionth of the largest
            cell, where no program needed more than ``max_nodes``.
    """

    population: Population
    value: float
    bound: float


def exact_best(value: CostModel, limits: Sequence[Constraint], *, max_nodes: int | None = None) -> Best:
    """The architecture of least value within limits of any number of costs, each a sum or a maximum of factors.

    One program for each value of the dim that most factors read, the resolution: a binary variable for each cell of a
    factor, one cell of each factor, and equal shares of the values of dims that factors share. The programs' linear
    relaxations say which are worth solving, and in which order.

    Args:
        value: A sum, such as the prediction of a ridge regression.
        limits: Latency, MACs, bytes, peak memory ...
        max_nodes: Of the branch and bound of each program; without, each is solved to the end. Nodes and not seconds,
            so that the answer does not depend on the machine.

    Raises:
        InfeasibleError: If nothing keeps the limits.
        UsageError: If a cost has no factors.

    References:
        Molchanov et al., LANA, arXiv:2107.10624, sec. 3.2, where layers do not share dims; HiGHS solves it.
    """
    space = value.space
    sums, maxima = split_limits(limits)
    everything = cells_of(space, [value, *(limit.cost for limit in sums)], maxima)
    outer = max(range(len(space)), key=lambda column: sum(column in cells.columns for cells in everything))
    programs = [
        _Program(space, [cells.at(outer, gene) for cells in everything], [limit.most for limit in sums])
        for gene in range(space.num_values[outer])
    ]
    relaxed = [program.solve(is_whole=False).bound for program in programs]
    best, least, bounds = None, np.inf, list(relaxed)
    for gene in np.argsort(relaxed, kind="stable"):
        if relaxed[gene] >= least:
            break
        solved = programs[gene].solve(max_nodes=max_nodes)
        bounds[gene] = solved.bound
        if solved.genes is not None and solved.value < least:
            least, best = solved.value, {**solved.genes, outer: gene}
    if min(bounds) == np.inf:
        raise nothing_within(space, limits)
    if best is None:
        return Best(space.to_population([]), np.inf, min(bounds))
    population = np.zeros((1, len(space)), dtype=GENE_DTYPE)
    population[0, list(best)] = list(best.values())
    found = float(value.predict(population)[0])
    return Best(population, found, float(min(*bounds, found)))


class _Solved(NamedTuple):
    """Genes by column, if anything was found; its value, and what no other is below: infinite where nothing is."""

    genes: dict[int, int] | None
    value: float
    bound: float


class _Program:
    """The integer program of some factors.

    Args:
        everything: What cells add to the value, and to each limited cost.
        limits: Of these costs.
    """

    def __init__(self, space: SearchSpace, everything: Sequence[Cells], limits: Sequence[float]) -> None:
        self._sizes = space.num_values
        self._columns = [cells.columns for cells in everything]
        allowed = [np.isfinite(cells.values).all(axis=0) for cells in everything]
        self._genes = [np.argwhere(each) for each in allowed]  # of the cells that are left, (N, number of dims)
        self._added = np.hstack([cells.values[:, each] for cells, each in zip(everything, allowed, strict=True)])
        self._starts = np.cumsum([0, *map(len, self._genes)])
        self._limits = np.array(limits)

    def solve(self, *, is_whole: bool = True, max_nodes: int | None = None) -> _Solved:
        """Its best solution, of the relaxation unless ``is_whole``."""
        from scipy.optimize import milp  # here, as it takes long to load

        if not all(map(len, self._genes)):
            return _Solved(None, np.inf, np.inf)
        values = self._added[0]
        scale = np.abs(values).max() or 1.0
        options = {"mip_rel_gap": 0.0, **({} if max_nodes is None else {"node_limit": max_nodes})}
        result = milp(
            values / scale,
            integrality=np.full(len(values), int(is_whole)),
            bounds=(0, 1),
            constraints=self._constraints,
            options=options,
        )
        if result.x is None:
            if result.status in INFEASIBLE:
                assert "infeasible" in result.message.lower(), result.message
                return _Solved(None, np.inf, np.inf)
            known = result.mip_dual_bound
            return _Solved(None, np.inf, -np.inf if known is None else known * scale)
        if not is_whole:
            return _Solved(None, np.inf, result.fun * scale)
        chosen = np.flatnonzero(result.x > 0.5)
        genes = {
            column: int(gene)
            for columns, cells, cell in zip(self._columns, self._genes, chosen - self._starts[:-1], strict=True)
            for column, gene in zip(columns, cells[cell], strict=True)
        }
        return _Solved(genes, float(values[chosen].sum()), result.mip_dual_bound * scale)

    @cached_property
    def _constraints(self) -> Any:
        """Limits; one cell of each factor; equal shares of what factors share."""
        from scipy.optimize import LinearConstraint
        from scipy.sparse import csr_array, vstack

        scale = LIMIT / np.where(self._limits > 0, self._limits, 1.0)
        tables = np.repeat(np.arange(len(self._genes)), np.diff(self._starts))
        rows = [
            csr_array(self._added[1:] * scale[:, None]),
            self._ones(tables, np.arange(len(tables)), len(self._genes)),
        ]
        due = [np.full(len(self._limits), -np.inf), np.ones(len(self._genes))]
        most = [self._limits * scale, np.ones(len(self._genes))]
        for shared in sorted({tuple(sorted({*a} & {*b})) for a, b in combinations(self._columns, 2)} - {()}):
            shares = self._shares(shared)
            rows += [share - shares[0] for share in shares[1:]]
            due += [np.zeros(share.shape[0]) for share in shares[1:]]
            most += [np.zeros(share.shape[0]) for share in shares[1:]]
        return LinearConstraint(vstack(rows), np.concatenate(due), np.concatenate(most))

    def _shares(self, shared: tuple[int, ...]) -> list[Any]:
        """For each factor that reads some dims: which of its cells have which combination of their values."""
        sizes = tuple(self._sizes[list(shared)])
        found = []
        for columns, cells, start in zip(self._columns, self._genes, self._starts[:-1], strict=True):
            if set(shared) <= {*columns}:
                genes = cells[:, [columns.index(column) for column in shared]]
                rows = np.ravel_multi_index(tuple(genes.T), sizes)
                found.append(self._ones(rows, start + np.arange(len(cells)), math.prod(sizes)))
        return found

    def _ones(self, rows: npt.NDArray[np.intp], cells: npt.NDArray[np.intp], num_rows: int) -> Any:
        from scipy.sparse import csr_array

        return csr_array((np.ones(len(rows)), (rows, cells)), shape=(num_rows, self._starts[-1]))
