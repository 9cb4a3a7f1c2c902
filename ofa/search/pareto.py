"""Pareto fronts and their hypervolume; every objective is minimised."""

from __future__ import annotations

from typing import NamedTuple

import moocore
import numpy as np
import numpy.typing as npt

from ofa.space import Population, SearchSpace


class Evaluations(NamedTuple):
    """Evaluated architectures, ``(N, D)``, and their values, ``(N, M)``, in order."""

    population: Population
    values: npt.NDArray[np.float64]

    def front(self) -> Evaluations:
        """The non-dominated ones."""
        return self.take(non_dominated(self.values))

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> Evaluations:
        """Some of them."""
        return Evaluations(self.population[rows], self.values[rows])

    def and_(self, *others: Evaluations) -> Evaluations:
        """These, then those."""
        return Evaluations(*(np.concatenate(arrays) for arrays in zip(self, *others, strict=True)))

    def keys(self, space: SearchSpace) -> set[bytes]:
        """What :func:`ofa.search.sampling.take_unseen` goes by."""
        return set(space.row_keys(self.population).tolist())


def non_dominated(values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mark the points that no other point dominates; equal points do not dominate each other.

    Args:
        values: Shape ``(N, M)``. For ``M`` of 2 or 3 the cost is ``O(N log N)``.

    Raises:
        ValueError: If ``values`` is not two-dimensional or holds NaN.
    """
    mask: npt.NDArray[np.bool_] = moocore.is_nondominated(_points(values), keep_weakly=True)
    return mask


def best_first(values: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """The order of NSGA-II: by rank, and within a rank the loneliest first."""
    points = _points(values)
    if not len(points):
        return np.zeros(0, dtype=np.intp)
    ranks = moocore.pareto_rank(points)
    distance = np.empty(len(points))
    by_rank = np.argsort(ranks, kind="stable")
    for members in np.split(by_rank, np.flatnonzero(np.diff(ranks[by_rank])) + 1):
        distance[members] = crowding(points[members])
    return np.lexsort((-distance, ranks))


def crowding(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distance between a point's two neighbours, summed over the objectives; infinite at the ends (Deb et al. 2002)."""
    order = np.argsort(values, axis=0, kind="stable")
    ascending = np.take_along_axis(values, order, axis=0)
    gaps = np.full(values.shape, np.inf)
    spans = np.maximum(ascending[-1] - ascending[0], 1e-300)
    gaps[1:-1] = (ascending[2:] - ascending[:-2]) / spans
    distance = np.empty(values.shape)
    np.put_along_axis(distance, order, gaps, axis=0)
    return distance.sum(axis=1)


def hypervolume(values: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Volume that the points dominate, up to ``reference``; points that do not dominate it add nothing.

    Args:
        values: Shape ``(N, M)``.
        reference: Shape ``(M,)``.

    Raises:
        ValueError: If the shapes do not fit, or if a value is NaN.
    """
    points, corner = _points(values), np.asarray(reference, dtype=np.float64)
    if corner.shape != points.shape[1:]:
        raise ValueError(f"the reference of points {points.shape} has shape {points.shape[1:]}, not {corner.shape}")
    return float(moocore.hypervolume(points, ref=corner))


def _points(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    points = np.ascontiguousarray(values, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"objective values have shape (N, M), not {points.shape}")
    if np.isnan(points).any():
        raise ValueError(f"objective values hold NaN in rows {np.flatnonzero(np.isnan(points).any(axis=1)).tolist()}")
    return points
