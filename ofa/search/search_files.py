"""What a search left in its folder, ``front.csv`` and ``selected.json``, read as if anybody had written it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofa.config import ConfigError, Record, check_record, from_mapping
from ofa.cost.latency_table import LATENCIES
from ofa.files import FileFormatError, read_csv, read_json
from ofa.metrics import Metric, metric_of
from ofa.search.pick import FROM_MS, INTERVAL
from ofa.space import Arch, SpaceError
from ofa.states import Speed

COSTS = ("macs", "params")
REMEDY = "search again with `ofa search`"


def read_front(path: Path, metric: Metric, *, remedy: str = REMEDY, whole: bool = True) -> pd.DataFrame:
    """A ``front.csv``; columns that earlier versions did not write are not-a-number.

    Args:
        whole: It must have all that a search writes; otherwise architectures, what each is worth and its predicted
            latency will do.

    Raises:
        FileFormatError: If it is missing, lacks a column, or holds what none can hold.
    """
    measured, predicted = metric.of("measured"), metric.of("predicted")
    more = ["measured_latency_ms", predicted, *COSTS] if whole else []
    percentiles = [LATENCIES[0], LATENCIES[2], "latency_ms_p99"]
    promises = [metric.of("promised"), *INTERVAL, FROM_MS]
    later = ["measured_latency_ms", *percentiles, *metric.columns[1:], *promises]
    table = read_csv(
        path,
        text=["arch", "origin"] if whole else ["arch"],
        numbers=["predicted_latency_ms", measured, *more],
        optional=[column for column in later if column not in more],
        kind="front",
        remedy=remedy,
    )
    above_0 = ("predicted_latency_ms", "measured_latency_ms", *percentiles, FROM_MS)
    limits = {name: (np.nextafter(0, 1), np.inf) for name in above_0}
    limits["num_images"] = (1, np.inf)
    if metric.interval_by == "share":
        limits[measured] = limits[metric.of("promised")] = (0, 100)
    for column, (least, most) in limits.items():
        wrong = table[column].notna() & ~table[column].between(least, most)
        if wrong.any():
            raise FileFormatError(f"front {path} has {table[column][wrong].iloc[0]} as {column}; {remedy}")
    return table


def archs_of(table: pd.DataFrame, path: Path, *, remedy: str = REMEDY) -> pd.Series[Any]:
    """The architectures of a front, of whatever space; :class:`FileFormatError` if one is none."""
    try:
        return table["arch"].map(Arch.from_json)
    except SpaceError as error:
        raise FileFormatError(f"front {path}: {error}; {remedy}") from None


@dataclass(frozen=True, kw_only=True)
class Percentiles(Record):
    """Of a latency, in milliseconds."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True, kw_only=True)
class _Choice(Record):
    dim: str
    value: str | float
    instead: str | float
    change: float
    change_latency_ms: float
    gain_per_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class _ClassLoss(Record):
    pick: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class _Pick(Record):
    budget_ms: float
    arch: dict[str, Any]
    predicted_latency_ms: float
    measured_latency_ms: float
    latency_ms: Percentiles
    macs: float
    params: float
    score: float
    promise: float | None = None
    promised_interval: tuple[float, ...] = ()
    choices: tuple[_Choice, ...] = ()
    class_losses: tuple[_ClassLoss, ...] = ()

    def __post_init__(self) -> None:
        if len(self.promised_interval) not in (0, 2):
            raise ConfigError(f"promised_interval must be two numbers, not {self.promised_interval}")
        if not min(self.budget_ms, self.measured_latency_ms) > 0:
            raise ConfigError(f"budget_ms and measured_latency_ms must be above 0, not {self.budget_ms}")


@dataclass(frozen=True, kw_only=True)
class _Predictor(Record):
    name: str = ""
    kendall_tau: float | None = None
    num_samples: int = 0


@dataclass(frozen=True, kw_only=True)
class _Bounds(Record):
    front: float = 0.0
    random: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Curve(Record):
    num_evaluations: tuple[float, ...] = ()
    front: tuple[float, ...] = ()
    random: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.num_evaluations) == len(self.front) == len(self.random):
            raise ConfigError("num_evaluations, front and random must be of one length")


@dataclass(frozen=True, kw_only=True)
class _Selected(Record):
    picks: tuple[_Pick, ...]
    seed: int = 0
    num_evaluations: int = 0
    headroom_percent: float = 0.0
    interval_percent: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)
    predictor: _Predictor = field(default_factory=_Predictor)
    hypervolume: _Bounds = field(default_factory=_Bounds)
    hypervolume_num_evaluations: _Bounds = field(default_factory=_Bounds)
    hypervolume_curve: _Curve = field(default_factory=_Curve)


def read_selected(path: Path, *, remedy: str = REMEDY) -> dict[str, Any]:
    """A ``selected.json``; what an earlier version did not write is not in it.

    Raises:
        FileFormatError: If it is missing or damaged, or lacks what every search writes.
    """
    data = read_json(path, kind="search result", remedy=remedy)
    names, named = {"score": "measured", "promise": "promised"}, dict(data)
    scores = {key: metric_of(data).of(what) for key, what in names.items()}
    if isinstance(picks := data.get("picks"), list):
        named["picks"] = [
            {**pick, **{key: pick.get(name) for key, name in scores.items()}} if isinstance(pick, dict) else pick
            for pick in picks
        ]
    record = check_record(_Selected, named, where=f"search result {path}", remedy=remedy)
    return {"seed": record.seed, "num_evaluations": record.num_evaluations, **data}


def speed_of(selected: Mapping[str, Any]) -> Speed:
    """The speed that the latencies of a search are stated at."""
    return from_mapping(Speed, selected.get("speed", {}), where="speed")
