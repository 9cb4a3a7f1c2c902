"""What a search is asked: a space, how many values to minimise, which of them are free to know, and what must hold."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ofa.cost.cost_model import CostModel
from ofa.errors import OfaError, UsageError
from ofa.search.pareto import Evaluations
from ofa.search.sampling import MAX_ROUNDS, sample_distinct, spread, take_unseen
from ofa.space import Population, SearchSpace

Values: TypeAlias = npt.NDArray[np.float64]
Evaluate: TypeAlias = Callable[[Population], Values]
Proposals: TypeAlias = Generator[Population, Evaluations, None]
"""A search method at work: yields architectures to evaluate, ``(N, D)``, and is sent what they turned out to be (at the
end perhaps of the first of them only); it returns when it knows nothing new."""

MAX_DRAWS = 1 << 16
DRAWS_PER_ARCH = 4
DESCENDING_FROM = 10_000


class Cost(Protocol):
    """What the search needs of a :class:`ofa.cost.CostModel`."""

    def predict(self, archs: Population) -> npt.NDArray[np.float64]:
        """Costs of ``(N, D)`` architectures, shape ``(N,)``."""


@dataclass(frozen=True)
class Dearest:
    """What an architecture costs where it costs most: what has a limit of it, keeps it everywhere.

    Args:
        costs: The same, of several devices.
    """

    costs: Sequence[Cost]

    def predict(self, archs: Population) -> npt.NDArray[np.float64]:
        """See :class:`Cost`."""
        most: npt.NDArray[np.float64] = np.max([cost.predict(archs) for cost in self.costs], axis=0)
        return most


class InfeasibleError(OfaError, ValueError):
    """No architecture satisfies the constraints, as far as a search for one could find.

    Attributes:
        nearest: Name of each constraint -> its value for the architecture that comes nearest.
    """

    def __init__(self, constraints: Sequence[Constraint], nearest: Sequence[float]) -> None:
        self.nearest = {constraint.name: value for constraint, value in zip(constraints, nearest, strict=True)}
        wanted = ", ".join(f"{constraint.name} <= {constraint.limit:.6g}" for constraint in constraints)
        found = ", ".join(f"{name} = {value:.6g}" for name, value in self.nearest.items())
        super().__init__(f"no architecture has {wanted}; the nearest has {found}; ask for at least that")


@dataclass(frozen=True)
class Constraint:
    """``cost(architecture) <= limit``, for a cost that is free to compute: MACs, bytes, a latency table.

    Args:
        limit: In the unit of the cost.
    """

    name: str
    cost: Cost
    limit: float

    @classmethod
    def of(cls, space: SearchSpace, name: str, cost: Cost, limit: float | str) -> Constraint:
        """A constraint from what a user writes.

        Args:
            limit: A number, or a share of what the largest architecture costs, such as ``"60%"``.

        Raises:
            ValueError: If it is neither.
        """
        try:
            if isinstance(limit, str) and limit.strip().endswith("%"):
                share = float(limit.strip()[:-1]) / 100
                limit = share * float(cost.predict(space.to_population(space.largest()))[0])
            value = float(limit)
        except ValueError:
            value = np.nan
        if not 0 < value < np.inf:
            raise UsageError(
                f"the limit of {name} is a positive number, or a share of the largest architecture such as '60%', "
                f"not {limit!r}"
            )
        return cls(name, cost, value)


@dataclass(frozen=True)
class Problem:
    """A search problem as its methods see it.

    Args:
        num_objectives: Values per architecture, all to be minimised.
        free: Column of the values -> a function that gives it for ``(N, D)`` architectures at no cost, such as MACs or
            the prediction of a latency table. Methods need not learn those.
        constraints: Hold for every architecture that is proposed.
        predictor: What methods learn costly columns with: one of :data:`ofa.search.predictors.PREDICTORS`, or ``auto``.
        sums: Those of the free columns that are sums of factors, as such: their front can be found exactly.
        statistics: Positive and free like ``free``; not minimised, but known to tell of what is: MACs, parameters.
        noise: Column -> a function that gives, of evaluated architectures, how much of their values is chance of their
            own, as a variance; without it values are what they are.
    """

    space: SearchSpace
    num_objectives: int
    free: Mapping[int, Callable[[Population], Values]] = field(default_factory=dict)
    constraints: Sequence[Constraint] = ()
    predictor: str = "auto"
    statistics: Sequence[Callable[[Population], Values]] = ()
    sums: Mapping[int, CostModel] = field(default_factory=dict)
    noise: Mapping[int, Callable[[Population], Values]] = field(default_factory=dict)

    def violation(self, population: Population) -> Values:
        """By what share the limits are exceeded, summed over the constraints, shape ``(N,)``; 0 where all hold."""
        total = np.zeros(len(population))
        for constraint in self.constraints:
            total += np.maximum(constraint.cost.predict(population) / constraint.limit - 1, 0)
        return total

    def is_feasible(self, population: Population) -> npt.NDArray[np.bool_]:
        return self.violation(population) == 0

    def sample(self, num: int, rng: np.random.Generator, seen: set[bytes]) -> Population:
        """Feasible random architectures that are not in ``seen``, which they are added to.

        Where random draws are hardly ever feasible, those that come nearest are mutated until they are (a filter in
        the spirit of EEEA-Net, arXiv:2108.06156).

        Returns:
            At most ``num``: fewer where no more are found; none where all that is feasible has been seen.

        Raises:
            InfeasibleError: If nothing is feasible.
        """
        if not self.constraints:
            return sample_distinct(self.space, num, rng, seen)
        found = self.space.to_population([])
        parents = found
        for _ in range(MAX_ROUNDS):
            if len(found) >= num:
                break
            num_draws = min(MAX_DRAWS, 64 + DRAWS_PER_ARCH * num)
            drawn = self.space.sample_population(num_draws, rng)
            if len(parents):
                mutated = self.space.mutate(parents[rng.integers(len(parents), size=num_draws)], rng, probability=0.15)
                drawn = np.concatenate([drawn, mutated])
            violation = self.violation(drawn)
            found = np.concatenate([found, take_unseen(self.space, drawn[violation == 0], seen)])
            parents = drawn[np.argsort(violation, kind="stable")[: max(num_draws // 8, 1)]]
        if not len(found):
            nearest, violated = descend(self.space, self.violation, rng)
            if violated:
                raise _infeasible(self.constraints, nearest)
            found = take_unseen(self.space, nearest, seen)
        seen.difference_update(self.space.row_keys(found[num:]).tolist())
        return found[:num]

    def spread_sample(self, num: int, rng: np.random.Generator, seen: set[bytes]) -> Population:
        """Feasible architectures, the cheapest and the dearest known ones among them, evenly spread over their size.

        Random genes alone give architectures that nearly all cost the same.
        """
        pool_seen = set(seen)
        ends = self.space.to_population([self.space.smallest(), self.space.largest()])
        ends = take_unseen(self.space, ends, pool_seen)
        pool = np.concatenate([ends[self.is_feasible(ends)], self.sample(8 * num, rng, pool_seen)])
        chosen = pool[spread(self.size(pool), num)]
        return take_unseen(self.space, chosen, seen)

    def size(self, population: Population) -> Values:
        """What initial architectures are spread over: the first free objective, the first constraint, or the genes that
        have an order."""
        if self.free:
            return np.log(np.maximum(self.free[min(self.free)](population), 1e-12))
        if self.constraints:
            return self.constraints[0].cost.predict(population)
        return (population / np.maximum(self.space.num_values - 1, 1))[:, self.space.is_ordered].sum(axis=1)


def nothing_within(space: SearchSpace, constraints: Sequence[Constraint]) -> OfaError:
    """The error about constraints that nothing satisfies, where that is known already."""
    if not constraints:
        return UsageError("every architecture of this space holds a part that was not measured; measure all of them")
    nearest, _ = descend(space, Problem(space, 1, constraints=constraints).violation, np.random.default_rng(0))
    return _infeasible(constraints, nearest)


def _infeasible(constraints: Sequence[Constraint], nearest: Population) -> InfeasibleError:
    return InfeasibleError(constraints, [float(constraint.cost.predict(nearest)[0]) for constraint in constraints])


def carry_out(proposals: Proposals, evaluate: Evaluate, num: int) -> list[Evaluations]:
    """Evaluate what a method proposes, at most ``num`` architectures; what was evaluated, call by call."""
    done: list[Evaluations] = []
    batch = next(proposals, None)
    while batch is not None and num > 0:
        batch = batch[:num]
        done.append(Evaluations(batch, evaluate(batch)))
        num -= len(batch)
        try:
            batch = proposals.send(done[-1]) if num else None
        except StopIteration:
            break
    proposals.close()
    return done


def descend(
    space: SearchSpace, cost: Callable[[Population], Values], rng: np.random.Generator
) -> tuple[Population, float]:
    """The architecture of least cost: the best of many random ones and the smallest, then improved dim by dim.

    The smallest is not always the fastest: runtimes prefer some shapes.

    Returns:
        Shape ``(1, D)``, and its cost.
    """
    candidates = np.concatenate([space.to_population(space.smallest()), space.sample_population(DESCENDING_FROM, rng)])
    best, least = candidates[:1], np.inf
    for _ in range(100):
        costs = cost(candidates)
        if costs.min() >= least:
            break
        best, least = candidates[[costs.argmin()]], float(costs.min())
        candidates = np.concatenate([best, space.neighbours(best)])
    return best, least
