"""Building a latency table: time every part of a space and some whole subnets, correct, and check on others."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.cost import CostModel, LatencyTable, macs
from ofa.cost.correction import Correction, fit_correction
from ofa.cost.held_out import held_out_errors
from ofa.cost.latency_table import SlotLike
from ofa.hardware.device import Device
from ofa.hardware.fingerprint import conditions, fingerprint
from ofa.hardware.journal import Journal
from ofa.hardware.measure import Progress, runnable, time_on_device
from ofa.hardware.onnx_export import empty_graph, export_for_timing
from ofa.hardware.timing import Block, Run, TimingResult
from ofa.space import Arch, Population, SearchSpace

if TYPE_CHECKING:
    from torch import nn

MAX_REPEATABILITY_PERCENT = 3.0
CALL = "(call)"  # the empty graph, measured like a part

Floats = npt.NDArray[np.float64]


class PartLike(Protocol):
    """A piece of network that runs on its own; ``fields`` is the readable form of its key."""

    @property
    def fields(self) -> Mapping[str, Any]: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...


class Profilable(Protocol):
    """What is needed of a supernet."""

    @property
    def space(self) -> SearchSpace: ...
    @property
    def slots(self) -> Sequence[SlotLike]: ...

    def part(self, key: str) -> PartLike: ...
    def extract(self, arch: Arch) -> nn.Module: ...
    def input_shape(self, arch: Arch) -> tuple[int, int, int]: ...
    def factors(self, cost: str) -> Sequence[tuple[tuple[str, ...], npt.NDArray[Any]]]: ...


def profile(
    supernet: Profilable,
    device: Device,
    *,
    csv_path: Path | str,
    rng: np.random.Generator,
    num_fit: int = 30,
    num_held_out: int = 50,
    resolutions: Sequence[int] | None = None,
    rounds: int = 6,
    block_seconds: float = 0.01,
    force: bool = False,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure a latency table and write it to ``csv_path`` and the ``.json`` beside it.

    Parts (each different one once) and random whole subnets are timed together, see :mod:`ofa.hardware.timing`. The
    first ``num_fit`` subnets fit the correction, the others only judge the table. If all this repeats worse than 3 %,
    as many rounds again are measured; if it then still does, the table is written but marked as refused.

    An interrupted call leaves ``<csv_path>.partial.jsonl``; the same call afterwards measures only what is missing.

    Args:
        supernet: A supernet, trained or not: latency does not depend on the weights.
        rng: Draws subnets, inputs and the order of measurements.
        num_fit: Whole subnets behind the correction; 0 leaves the sum of parts uncorrected.
        num_held_out: Further subnets, at least 2, that the errors are reported on.
        resolutions: Measure these only; architectures of other resolutions stay unknown to the table.
        rounds: Blocks of each model.
        force: Do not mark the table as refused, however badly it repeats.
        progress: Called with steps done, steps in all, and what is being done.

    Returns:
        The table, also if it is refused.

    Raises:
        SpaceError: If the space has no such resolution.
        ValueError: If ``num_fit`` or ``num_held_out`` is too small, or greater than the space.
    """
    if num_fit < 0 or num_held_out < 2:
        raise ValueError(f"num_fit must be at least 0 and num_held_out at least 2, not {num_fit} and {num_held_out}")
    csv_path, space = Path(csv_path), supernet.space
    population = _sample_distinct(space, num_fit + num_held_out, resolutions, rng)
    archs = {arch.to_json(): arch for arch in space.to_archs(population)}
    keys = _part_keys(supernet.slots, space, resolutions)
    machine = fingerprint(device)
    journal = Journal(
        csv_path.with_name(f"{csv_path.name}.partial.jsonl"),
        {"device": device.name, "fingerprint": machine["id"], "block_seconds": block_seconds},
    )
    try:
        fields, runs = _prepare(supernet, device, keys, archs, rng, progress)
        for num_rounds in (rounds, 2 * rounds):
            result = _time(runs, device, rng, num_rounds, block_seconds, journal, progress)
            repeatability = {
                "subnets": float(result.repeatability_percent(list(archs)).mean()),
                "parts": float(result.repeatability_percent(keys).mean()),
            }
            if max(repeatability.values()) <= MAX_REPEATABILITY_PERCENT:
                break
    finally:
        journal.close()

    latencies = result.latencies_ms(runs).set_index("name", drop=False)
    p10_ms = latencies["latency_ms_p10"]
    table = LatencyTable(
        space=space,
        slots=tuple(supernet.slots),
        entries=_entries(latencies.loc[keys], fields, device),
        correction=Correction(float(p10_ms[CALL])),
        device=device.name,
        fingerprint=machine,
        repeatability_percent=repeatability["subnets"],
        refused=max(repeatability.values()) > MAX_REPEATABILITY_PERCENT and not force,
        details={
            "repeatability_percent": repeatability,
            "rounds": num_rounds,
            "block_seconds": block_seconds,
            **result.facts(),
            "conditions_after": conditions(),
        },
    )
    table = _corrected(table, population, p10_ms[list(archs)].to_numpy(), num_fit, macs(supernet))
    table.save(csv_path)
    journal.remove()
    return table


def _sample_distinct(
    space: SearchSpace, num: int, resolutions: Sequence[int] | None, rng: np.random.Generator
) -> Population:
    """Different random architectures, shape ``(num, D)``."""
    draws = space.sample_population(20 * num, rng)
    if resolutions is not None:
        choices = np.array([space["resolution"].index(value) for value in resolutions])
        draws[:, space.column("resolution")] = rng.choice(choices, len(draws))
    _, first = np.unique(space.row_keys(draws), return_index=True)
    if len(first) < num:
        raise ValueError(f"num_fit and num_held_out need {num} different subnets, but there are about {len(first)}")
    return draws[np.sort(first)[:num]]


def _part_keys(slots: Sequence[SlotLike], space: SearchSpace, resolutions: Sequence[int] | None) -> list[str]:
    """Keys of all parts at these resolutions, each once."""
    keys: dict[str, None] = {}
    for slot in slots:
        choices = [
            [space["resolution"].index(value) for value in resolutions]
            if dim == "resolution" and resolutions is not None
            else range(len(space[dim].values))
            for dim in slot.dims
        ]
        keys |= dict.fromkeys(slot.keys[np.ix_(*choices)].ravel().tolist())
    return [key for key in keys if key]


def _prepare(
    supernet: Profilable,
    device: Device,
    keys: Sequence[str],
    archs: Mapping[str, Arch],
    rng: np.random.Generator,
    progress: Progress | None,
) -> tuple[dict[str, Mapping[str, Any]], dict[str, Run]]:
    """Export and load the empty graph, the parts and the subnets; also the fields of each part."""
    step = _counter(progress, len(keys) + len(archs), f"exporting for {device.name}")
    runs = {CALL: runnable(empty_graph(), device, rng)}
    fields = {}
    for key in keys:
        part = supernet.part(key)
        fields[key] = part.fields
        runs[key] = runnable(export_for_timing(part.module, part.input_shape, device.batch), device, rng)
        step()
    for name, arch in archs.items():
        exported = export_for_timing(supernet.extract(arch), supernet.input_shape(arch), device.batch)
        runs[name] = runnable(exported, device, rng)
        step()
    return fields, runs


def _time(
    runs: Mapping[str, Run],
    device: Device,
    rng: np.random.Generator,
    rounds: int,
    block_seconds: float,
    journal: Journal,
    progress: Progress | None,
) -> TimingResult:
    """Time what the journal does not hold yet."""
    done = [block for block in journal.blocks if block.name in runs and block.round < rounds]
    step = _counter(progress, len(runs) * rounds - len(done), f"measuring on {device.name}")

    def keep(block: Block) -> None:
        journal.append(block)
        step()

    return time_on_device(runs, device, rng=rng, rounds=rounds, block_seconds=block_seconds, done=done, on_block=keep)


def _counter(progress: Progress | None, total: int, what: str) -> Callable[[], None]:
    """A function that reports one more step."""
    count = itertools.count(1)
    return lambda: progress(next(count), total, what) if progress is not None else None


def _entries(latencies: pd.DataFrame, fields: Mapping[str, Mapping[str, Any]], device: Device) -> pd.DataFrame:
    """The rows of the CSV file."""
    readable = pd.DataFrame([fields[key] for key in latencies["name"]]).convert_dtypes()  # whole numbers may be missing
    entries = latencies.rename(columns={"name": "key"}).reset_index(drop=True)
    return pd.concat([entries, readable], axis=1).assign(precision=device.precision)


def _corrected(
    table: LatencyTable, population: Population, measured_ms: Floats, num_fit: int, macs_model: CostModel
) -> LatencyTable:
    """The table with a correction from the first ``num_fit`` subnets, and its errors on the others."""
    stage_ms, stage_parts = table.stage_sums(population)
    correction = fit_correction(
        table.stages,
        stage_ms[:num_fit],
        stage_parts[:num_fit],
        measured_ms[:num_fit],
        call_overhead_ms=table.correction.call_overhead_ms,
    )
    table = dataclasses.replace(table, correction=correction)
    held_out = held_out_errors(
        table.predict_ms(population[num_fit:]),
        measured_ms[num_fit:],
        baselines={"macs_only": macs_model.predict(population), "depth_only": stage_parts.sum(axis=1)},
        fit_ms=measured_ms[:num_fit],
    )
    return dataclasses.replace(table, held_out=held_out)
