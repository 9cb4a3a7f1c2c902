"""Pareto fronts and their hypervolume; every objective is minimised."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import find_non_dominated

from ofa.space import Population


class Evaluations(NamedTuple):
    """Every architecture that a search evaluated, ``(N, D)``, and its objectives, ``(N, M)``, in order."""

    population: Population
    values: npt.NDArray[np.float64]

    def front(self) -> Evaluations:
        """The non-dominated ones."""
        mask = non_dominated(self.values)
        return Evaluations(self.population[mask], self.values[mask])


def non_dominated(values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mark the points that no other point dominates; equal points do not dominate each other.

    Args:
        values: Shape ``(N, M)``. For ``M`` of 2 or 3 the cost is ``O(N log N)``.

    Raises:
        ValueError: If ``values`` is not two-dimensional or holds NaN.
    """
    points = _points(values)
    mask = np.zeros(len(points), dtype=np.bool_)
    mask[find_non_dominated(points)] = True
    return mask


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
    return float(HV(ref_point=corner)(points)) if len(points) else 0.0


def _points(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"objective values have shape (N, M), not {points.shape}")
    if np.isnan(points).any():
        raise ValueError(f"objective values hold NaN in rows {np.flatnonzero(np.isnan(points).any(axis=1)).tolist()}")
    return points
