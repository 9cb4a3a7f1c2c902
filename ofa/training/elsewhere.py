"""Subnets of a run, evaluated wherever an engine works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ofa.engine import Engine
from ofa.space import Arch
from ofa.training.evaluation import SubnetEvaluator
from ofa.training.run import Run

Race: TypeAlias = Callable[[list[Arch], npt.NDArray[np.float64]], npt.NDArray[np.float64]]


class RunSource(NamedTuple):
    """Where a process finds a run and its data."""

    path: Path
    trust_code: bool = False
    data_root: str | None = None


@lru_cache(maxsize=1)
def evaluator_of(source: RunSource) -> SubnetEvaluator:
    """One per process."""
    run = Run.open(source.path, trust_code=source.trust_code)
    return SubnetEvaluator(run.supernet(), run.data(root=source.data_root), run.task)


def race_by(engine: Engine, source: RunSource, here: SubnetEvaluator) -> Race:
    """What :meth:`SubnetEvaluator.race` gives, from the workers of an engine.

    Args:
        here: Of the same run; evaluates where there is one worker, this process.
    """
    if engine.num_workers == 1:
        return here.race

    def race(archs: list[Arch], floors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # Subnets that share a pass over the samples stay together, as far as there is work for all.
        size = min(here.num_together, -(-len(archs) // engine.num_workers))
        parts = [slice(start, start + size) for start in range(0, len(archs), size)]
        if len(parts) == 1:
            return here.race(archs, floors)
        asked = [_Part([dict(arch) for arch in archs[part]], floors[part]) for part in parts]
        return np.concatenate(list(engine.map(partial(_race, source), asked)))

    return race


class _Part(NamedTuple):
    archs: list[Mapping[str, Any]]
    floors: npt.NDArray[np.float64]


def _race(source: RunSource, part: _Part) -> npt.NDArray[np.float64]:
    evaluator = evaluator_of(source)
    return evaluator.race([evaluator.supernet.space.arch(arch) for arch in part.archs], part.floors)
