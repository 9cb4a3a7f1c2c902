"""Building a latency table: time every part of a space and some whole subnets, correct, and check on others."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from torch import nn

from ofa.cost import CostModel, LatencyTable, macs
from ofa.cost.correction import Correction, Floats, fit_correction
from ofa.cost.cost_model import HasFactors
from ofa.cost.energy import with_energy
from ofa.cost.held_out import held_out_errors
from ofa.cost.latency_table import ENERGY, NUM_PARAMS, SlotLike
from ofa.cost.resolutions import interpolate_resolutions, spread_resolutions
from ofa.errors import UsageError
from ofa.files import FileFormatError, write_csv_atomic
from ofa.hardware.device import Device
from ofa.hardware.energy import counter_for, measure_energies
from ofa.hardware.fingerprint import differences
from ofa.hardware.journal import Journal
from ofa.hardware.measure import counted, say_cost
from ofa.hardware.rounds import look_ahead, measured_seconds
from ofa.hardware.runner import AnotherMachineError, Job
from ofa.hardware.runtimes import Model
from ofa.hardware.timed_models import Source, anchor_model, empty_model, export_all
from ofa.hardware.timing import LOW, MEDIAN, TimedBlock, TimingResult
from ofa.inputs import Inputs
from ofa.progress import Progress, notice
from ofa.space import Arch, Population, SearchSpace

MAX_INTERVAL_PERCENT = 10.0
MIN_SHARE = 0.95  # of a network's MACs, that its parts must have
NUM_SUBNETS = (36, 24)  # to fit and to judge by
NUM_SUBNETS_OF_ONE_RESOLUTION = (24, 16)
NUM_TYPICAL = 500  # subnets that tell which parts matter
CALL = "(call)"  # the empty graph, measured like a part
EXPORTING = threading.Lock()
"""Exporters keep global state; and whoever needs the same files then finds them."""


class PartLike(Protocol):
    """A piece of network that runs on its own; ``fields`` is the readable form of its key."""

    @property
    def fields(self) -> Mapping[str, Any]: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def inputs(self) -> tuple[int, ...] | Inputs: ...


class Profilable(HasFactors, Protocol):
    """What is needed of a supernet."""

    @property
    def slots(self) -> Sequence[SlotLike]: ...
    @property
    def measurable_share(self) -> float: ...

    def part(self, key: str) -> PartLike: ...
    def extract(self, arch: Arch) -> nn.Module: ...
    def timed_inputs(self, arch: Arch) -> tuple[int, ...] | Inputs: ...


def profile(
    supernet: Profilable,
    device: Device,
    *,
    csv_path: Path | str,
    rng: np.random.Generator,
    num_fit: int | None = None,
    num_held_out: int | None = None,
    resolutions: Sequence[int] | None = None,
    num_resolutions: int | None = None,
    rounds: int = 4,
    max_minutes: float = 10.0,
    block_seconds: float = 0.01,
    fresh: bool = False,
    force: bool = False,
    energy: bool = False,
    models_dir: Path | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure a latency table and write it to ``csv_path`` and the ``.json`` beside it.

    Parts (each different one once) and random whole subnets are timed together, see :mod:`ofa.hardware.timing`. The
    first ``num_fit`` subnets fit the correction, the others only judge the table. Then blocks are added where they
    reduce its error most (:mod:`ofa.hardware.rounds`), as long as that is worth while. A table whose 90 % interval for
    a subnet is wider than 10 % to either side is written but marked as refused.

    A table that is there already is completed: only parts that it lacks are measured. An interrupted call leaves
    ``<csv_path>.partial/``; the same call afterwards exports and measures only what is missing.

    Args:
        supernet: A supernet, trained or not: latency does not depend on the weights.
        rng: Draws subnets, inputs and the order of measurements.
        num_fit: Whole subnets behind the correction, 36 or at one resolution 24, of a small space three fifths of all;
            0 leaves the sum of parts uncorrected.
        num_held_out: Further subnets, at least 2, that the errors are reported on: 24, at one resolution 16.
        resolutions: Measure these only; architectures of other resolutions stay unknown to the table.
        num_resolutions: Measure parts at so many resolutions only, from the lowest to the highest, and interpolate
            those between; the subnets that the table is judged on are of all resolutions.
        rounds: Good blocks of each model, before any are added. None are where a host is a queue: what was said to be
            the cost is the cost.
        max_minutes: Of measuring, all starts of an interrupted one together; the first rounds are always measured.
        fresh: Measure everything, whatever is there.
        force: Do not mark the table as refused, however wide its interval is, nor refuse a network most of which no
            part can stand for.
        energy: Measure the energy of parts and subnets too, in as many rounds; a table that is there without energies
            is measured anew.
        models_dir: Where exported parts and subnets are kept, for other devices of one runtime; by default they go with
            what was measured.
        progress: Called with steps done, steps in all, and what is being done.

    Returns:
        The table, also if it is refused.

    Raises:
        SpaceError: If the space has no such resolution.
        UsageError: If parts have less than 95 % of the network's MACs; if measuring would cost more than the device's
            file allows. Before anything is exported.
        ValueError: If ``num_fit`` or ``num_held_out`` is too small, or greater than the space; if the table that is
            there is of another space.
        AnotherMachineError: If it has another fingerprint.
        EnergyError: If no energy counter can be read, before anything is measured.
        ModelError, NotInstalledError, HostError: See :meth:`ofa.hardware.transports.Host.time`.
    """
    csv_path, space = Path(csv_path), supernet.space
    num_fit, num_held_out = _num_subnets(space, resolutions, num_fit, num_held_out)
    _check(supernet, num_fit, num_held_out, force=force)
    machine = _fingerprint(device, progress)
    known = None if fresh else _read_known(csv_path, space, machine, device)
    if known is not None and energy != (ENERGY in known.entries):
        energy, known = True, None if energy else known
    measured_resolutions = [int(value) for value in resolutions or _values(space, "resolution")]
    if num_resolutions is not None:
        measured_resolutions = spread_resolutions(space, num_resolutions)
    keys = _part_keys(supernet.slots, space, measured_resolutions)
    missing = [key for key in keys if known is None or key not in known.measured_keys]
    if known is not None and not missing:
        return known
    if energy:
        counter_for(device).close()  # says so now if there is none

    population = _sample_distinct(space, num_fit + num_held_out, resolutions, rng)
    archs = {arch.to_json(): arch for arch in space.to_archs(population)}
    say_cost(device, dict.fromkeys((CALL, *missing, *archs), rounds), progress)
    workspace = _partial(csv_path)
    models, fields, anchor = _export(supernet, device, missing, archs, models_dir or workspace / "models", progress)
    job = Job(
        models=models,
        setting=device.setting,
        anchor=anchor,
        rng=rng,
        num_blocks=dict.fromkeys(models, rounds),
        block_seconds=block_seconds,
    )
    if known is not None:
        measured_resolutions = sorted({*measured_resolutions, *known.details.get("measured_resolutions", ())})
    profiled = _Profile(
        supernet=supernet,
        device=device,
        machine=machine,
        known=known,
        missing=missing,
        fields=fields,
        population=population,
        archs=list(archs),
        num_fit=num_fit,
        resolutions=measured_resolutions,
        interpolates=num_resolutions is not None,
        rng=rng,
    )
    identity = {"device": device.name, "fingerprint": machine["id"], "block_seconds": block_seconds}
    with contextlib.closing(Journal(workspace / "blocks.jsonl", identity)) as journal:
        job, result, table = profiled.measure(job, journal, max_minutes, progress)
    if energy:
        path, step = workspace / f"energies-{machine['id']}.jsonl", f"measuring energy on {device.name}"
        counting = counted(progress, len(models) * rounds, step)
        measured_mj = measure_energies(models, device, rng=rng, rounds=rounds, path=path, step=counting)
        table = _replace_details(profiled.table(result, job, measured_mj.median()), table.details)
        table = _with_energies(table, measured_mj, population, list(archs), num_fit)
    table = dataclasses.replace(table, refused=table.interval_percent > MAX_INTERVAL_PERCENT and not force)
    _write_subnets(csv_path, result.latencies_ms(archs), num_fit)
    table.save(csv_path)
    shutil.rmtree(workspace)
    return table


@dataclasses.dataclass(frozen=True)
class _Profile:
    """What a table is built from, however often it is built: with every measurement, until it is good enough."""

    supernet: Profilable
    device: Device
    machine: Mapping[str, Any]
    known: LatencyTable | None
    missing: Sequence[str]
    fields: Mapping[str, Mapping[str, Any]]
    population: Population
    archs: Sequence[str]
    num_fit: int
    resolutions: Sequence[int]
    interpolates: bool
    rng: np.random.Generator

    def measure(
        self, job: Job, journal: Journal, max_minutes: float, progress: Progress | None
    ) -> tuple[Job, TimingResult, LatencyTable]:
        """Time until more of it would hardly help, or for so long; with the job as it was in the end."""
        typical = _sample(self.supernet.space, NUM_TYPICAL, self.resolutions, self.rng)
        step = f"measuring on {self.device.name}"
        while True:
            result = _time(job, self.device, journal, step, progress)
            table = self.table(result, job)
            outlook = look_ahead(
                table,
                result,
                num_blocks=job.num_blocks,
                held_out=self.population[self.num_fit :],
                held_out_names=self.archs[self.num_fit :],
                typical=typical,
            )
            facts = {key: round(value, 3) for key, value in dataclasses.asdict(outlook).items() if key != "num_blocks"}
            minutes = measured_seconds(result) / 60
            table = _replace_details(table, {**table.details, "minutes": round(minutes, 2), "outlook": facts})
            if self.device.host.is_queue or not outlook.pays or minutes + outlook.seconds / 60 > max_minutes:
                return job, result, table
            job = dataclasses.replace(job, num_blocks=outlook.num_blocks)
            step = (
                f"measuring on {self.device.name}: error {outlook.error_percent:.1f} %, "
                f"{outlook.better_percent:.1f} % after {outlook.seconds:.0f} s more"
            )

    def table(self, result: TimingResult, job: Job, energies_mj: pd.Series | None = None) -> LatencyTable:
        """The table that follows from what was timed, and from the energies of parts if they were measured."""
        parts = result.latencies_ms([CALL, *self.missing], LOW)
        latencies = pd.concat([parts, result.latencies_ms(self.archs)])
        latencies = latencies.set_index("name", drop=False).drop(columns="latency_ms_p99")
        if energies_mj is not None:
            latencies[ENERGY] = energies_mj.round(6)
        entries = _entries(latencies.loc[list(self.missing)], self.fields, self.device)
        entries = _completed(entries, self.known, self.supernet, self.resolutions, interpolates=self.interpolates)
        groups = {"subnets": (self.archs, MEDIAN), "parts": (self.missing, LOW)}
        repeatability = {
            group: float(result.repeatability_percent(names, by).mean())
            for group, (names, by) in groups.items()
            if names
        }
        table = LatencyTable(
            space=self.supernet.space,
            slots=tuple(self.supernet.slots),
            entries=entries,
            correction=Correction(float(latencies["latency_ms_p10"][CALL])),
            device=self.device.name,
            fingerprint=self.machine,
            repeatability_percent=repeatability["subnets"],
            details={
                "repeatability_percent": repeatability,
                "blocks_of_a_model": [min(job.num_blocks.values()), max(job.num_blocks.values())],
                "block_seconds": job.block_seconds,
                "measured_resolutions": list(self.resolutions),
                "macs_percent": round(100 * self.supernet.measurable_share, 2),
                **result.facts(self.archs),
                "course": result.course(),
            },
        )
        measured_ms = latencies["latency_ms_p50"][list(self.archs)].to_numpy()
        return _corrected(table, self.population, measured_ms, self.num_fit, macs(self.supernet))


def _replace_details(table: LatencyTable, details: Mapping[str, Any]) -> LatencyTable:
    return dataclasses.replace(table, details=details)


def _with_energies(
    table: LatencyTable, measured_mj: pd.DataFrame, population: Population, archs: list[str], num_fit: int
) -> LatencyTable:
    """The table with what predicts the energy of subnets, and how well that repeats and predicts."""
    even, odd = (measured_mj[archs].iloc[first::2].median() for first in (0, 1))
    differences = (even - odd).abs() / ((even + odd) / 2) * 100
    median_mj = measured_mj.median()
    return with_energy(
        table,
        median_mj[archs].to_numpy(),
        population,
        num_fit=num_fit,
        call_mj=float(median_mj[CALL]),
        facts={"counter": measured_mj.attrs["counter"], "repeatability_percent": float(differences.mean())},
    )


def _fingerprint(device: Device, progress: Progress | None) -> dict[str, Any]:
    say_cost(device, {}, progress)
    return device.host.fingerprint(device.setting)


def _partial(csv_path: Path) -> Path:
    """Where there is what was measured so far."""
    return csv_path.with_name(f"{csv_path.name}.partial")


def _read_known(csv_path: Path, space: SearchSpace, machine: Mapping[str, Any], device: Device) -> LatencyTable | None:
    """The table that is there, if it can be completed; one that is refused is measured anew."""
    if not csv_path.exists():
        return None
    try:
        table = LatencyTable.load(csv_path, force=True)
    except FileFormatError:
        if _partial(csv_path).exists():  # killed between the files of the table; what was measured is in there
            return None
        raise
    if table.refused:
        return None
    if table.space != space:
        raise UsageError(
            f"{csv_path} is of space {table.space.fingerprint}, this one is {space.fingerprint}; name another place "
            "with --out, or replace it with --fresh"
        )
    check_machine(table, machine, device, csv_path)
    return table


def check_machine(table: LatencyTable, machine: Mapping[str, Any], device: Device, path: Path) -> None:
    """See to it that a table speaks of the machine and the software that are there now.

    Args:
        machine: Fingerprint of now.

    Raises:
        AnotherMachineError: If not; it names what differs.
    """
    if differs := differences(table.fingerprint, machine):
        raise AnotherMachineError(
            f"latency table {path} was measured elsewhere or with other software ({differs}); measure it on "
            f"{device.name} with `ofa profile --fresh`"
        )


def _sample_distinct(
    space: SearchSpace, num: int, resolutions: Sequence[int] | None, rng: np.random.Generator
) -> Population:
    """Different random architectures, shape ``(num, D)``."""
    draws = _sample(space, 20 * num, resolutions, rng)
    _, first = np.unique(space.row_keys(draws), return_index=True)
    if len(first) < num:
        raise UsageError(f"num_fit and num_held_out need {num} different subnets, but there are about {len(first)}")
    return draws[np.sort(first)[:num]]


def _sample(space: SearchSpace, num: int, resolutions: Sequence[int] | None, rng: np.random.Generator) -> Population:
    draws = space.sample_population(num, rng)
    if resolutions:
        choices = np.array([space["resolution"].index(value) for value in resolutions])
        draws[:, space.column("resolution")] = rng.choice(choices, len(draws))
    return draws


def _num_subnets(space: SearchSpace, resolutions: Sequence[int] | None, *given: int | None) -> tuple[int, int]:
    of_one = len(resolutions or _values(space, "resolution")) == 1
    to_fit, to_judge = NUM_SUBNETS_OF_ONE_RESOLUTION if of_one else NUM_SUBNETS
    share = min(1.0, space.num_archs / (to_fit + to_judge))
    defaults = int(share * to_fit), max(2, int(share * to_judge))
    num_fit, num_held_out = (
        default if number is None else number for number, default in zip(given, defaults, strict=True)
    )
    return num_fit, num_held_out


def _check(supernet: Profilable, num_fit: int, num_held_out: int, *, force: bool) -> None:
    if num_fit < 0 or num_held_out < 2:
        raise UsageError(f"num_fit must be at least 0 and num_held_out at least 2, not {num_fit} and {num_held_out}")
    if supernet.measurable_share < MIN_SHARE and not force:
        raise UsageError(
            f"parts that can be measured have {100 * supernet.measurable_share:.0f} % of this network's MACs, and a "
            "table would not know of the rest, which is in modules that are called several times or with several "
            "tensors; measure whole subnets instead (ofa.hardware.measure), or take the table with --force"
        )


def _values(space: SearchSpace, name: str) -> Sequence[Any]:
    """Of a dim, if the space has it."""
    return space[name].values if name in space.names else ()


def _part_keys(slots: Sequence[SlotLike], space: SearchSpace, resolutions: Sequence[int]) -> list[str]:
    """Keys of all parts at these resolutions, each once."""
    keys: dict[str, None] = {}
    for slot in slots:
        choices = [
            [space["resolution"].index(value) for value in resolutions]
            if dim == "resolution"
            else range(len(space[dim].values))
            for dim in slot.dims
        ]
        keys |= dict.fromkeys(slot.keys[np.ix_(*choices)].ravel().tolist())
    return [key for key in keys if key]


def _export(
    supernet: Profilable,
    device: Device,
    keys: Sequence[str],
    archs: Mapping[str, Arch],
    folder: Path,
    progress: Progress | None,
) -> tuple[dict[str, Model], dict[str, Mapping[str, Any]], Model]:
    """Export the empty graph, the parts and the subnets; also the fields of each part, and the anchor."""
    step = counted(progress, len(keys) + len(archs), f"exporting for {device.name}")
    fields: dict[str, Mapping[str, Any]] = {}

    def part(key: str) -> tuple[nn.Module, tuple[int, ...] | Inputs]:
        found = supernet.part(key)
        fields[key] = _fields(found)
        return found.module, found.inputs

    def subnet(arch: Arch) -> tuple[nn.Module, tuple[int, ...] | Inputs]:
        return supernet.extract(arch), supernet.timed_inputs(arch)

    sources: dict[str, Source] = {key: partial(part, key) for key in keys}
    sources |= {name: partial(subnet, arch) for name, arch in archs.items()}
    with EXPORTING:
        models = {CALL: empty_model(device.setting), **export_all(sources, device.setting, folder, step=step)}
        fields = {key: fields.get(key) or _fields(supernet.part(key)) for key in keys}
        return models, fields, anchor_model(device.setting)


def _fields(part: PartLike) -> dict[str, Any]:
    return {**part.fields, NUM_PARAMS: sum(parameter.numel() for parameter in part.module.parameters())}


def _time(job: Job, device: Device, journal: Journal, what: str, progress: Progress | None) -> TimingResult:
    """Time what the journal does not hold yet."""
    done = [block for block in journal.blocks if block.name in job.models]
    again = f" ({journal.num_damaged} damaged lines of the journal again)" if journal.num_damaged else ""
    known = TimingResult(blocks=done).num_good()
    num_left = sum(max(0, number - known[name]) for name, number in job.num_blocks.items())
    step = counted(progress, num_left, what + again)

    def keep(block: TimedBlock) -> None:
        journal.append(block)
        step()

    say = partial(notice, progress)
    return device.host.time(dataclasses.replace(job, done=done, on_block=keep, notice=say))


def _entries(latencies: pd.DataFrame, fields: Mapping[str, Mapping[str, Any]], device: Device) -> pd.DataFrame:
    """The rows of the CSV file."""
    readable = pd.DataFrame([fields[key] for key in latencies["name"]]).convert_dtypes()  # whole numbers may be missing
    entries = latencies.rename(columns={"name": "key"}).reset_index(drop=True)
    return pd.concat([entries, readable], axis=1).assign(precision=device.setting.precision)


def _completed(
    entries: pd.DataFrame,
    known: LatencyTable | None,
    supernet: Profilable,
    measured_resolutions: Sequence[int],
    *,
    interpolates: bool,
) -> pd.DataFrame:
    """New entries behind those that were measured before, and the interpolated ones."""
    if known is not None:
        kept = known.entries[known.entries["key"].isin(known.measured_keys)]
        entries = pd.concat([kept, entries], ignore_index=True)
        interpolates |= len(kept) < len(known.entries)
    if not interpolates:
        return entries
    return interpolate_resolutions(
        entries, supernet.slots, supernet.space, measured_resolutions, fields=lambda key: _fields(supernet.part(key))
    )


def _write_subnets(csv_path: Path, latencies: pd.DataFrame, num_fit: int) -> None:
    """The whole subnets that were measured, for whoever wants to fit or judge something else by them."""
    table = latencies[["name", "latency_ms_p50", "latency_ms_p10"]].set_axis(
        ["arch", "latency_ms", "latency_ms_p10"], axis=1
    )
    table["role"] = np.where(np.arange(len(table)) < num_fit, "fit", "held out")
    write_csv_atomic(csv_path.with_suffix(".subnets.csv"), table)


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
        num_params=table.num_params(population[:num_fit]),
    )
    table = dataclasses.replace(table, correction=correction)
    held_out = held_out_errors(
        table.predict_ms(population[num_fit:]),
        measured_ms[num_fit:],
        baselines={"macs_only": macs_model.predict(population), "depth_only": stage_parts.sum(axis=1)},
        fit_ms=measured_ms[:num_fit],
    )
    resolutions = table.details["measured_resolutions"]
    measured_resolutions = [table.space["resolution"].index(value) for value in resolutions]
    columns = [table.space.column("resolution")] if resolutions else []
    between = (~np.isin(population[num_fit:, columns], measured_resolutions)).any(axis=1)
    if between.any():
        errors = np.abs(np.array(held_out["predicted_ms"]) / measured_ms[num_fit:] - 1) * 100
        held_out |= {
            "interpolated_num": int(between.sum()),
            "interpolated_mape_percent": float(errors[between].mean()),
        }
    return dataclasses.replace(table, held_out=held_out)
