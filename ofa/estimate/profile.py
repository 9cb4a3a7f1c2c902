"""Measuring what kernels take on a device: samples drawn at random, denser where they are predicted badly."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ofa.errors import UsageError
from ofa.estimate.fit import NOISE_MS, Observed, fit
from ofa.estimate.kernels import Kernel, Kernels, check_readable, read_kernels
from ofa.estimate.operators import FAR_PERCENT, OperatorTable, from_texts, held_out_errors, to_texts
from ofa.estimate.samples import BLOCKS, build, draw, draw_near, is_small, parse
from ofa.files import parse_json
from ofa.hardware.device import Device
from ofa.hardware.fingerprint import differences
from ofa.hardware.journal import Journal
from ofa.hardware.rounds import measured_seconds
from ofa.hardware.runner import AnotherMachineError, Job
from ofa.hardware.runtimes import Model
from ofa.hardware.timed_models import Source, anchor_model, export_all, export_model
from ofa.hardware.timing import LOW, MEDIAN, TimedBlock, TimingResult
from ofa.progress import Progress, notice

BATCH = 60  # samples that are timed in turn; their sessions are all in memory
FIRST_SAMPLES = 300  # before errors say where more belong
MAX_SAMPLES = 4000  # the work of fitting grows with the cube
GROWTH = 1.5  # of the samples, from one fit to the next
LEAST_WEIGHT = 0.3  # of a block all samples of which are predicted well


def check_device(device: Device) -> None:
    """:class:`UsageError` unless the kernels of a device can be measured."""
    check_readable(device.setting)
    if device.setting.precision != "fp32":
        raise UsageError(f"operators are measured in fp32, not {device.setting.precision}; choose another device")
    if device.host.name != "local":
        raise UsageError(f"operators are measured on this machine, not on a host {device.host.name!r}; run ofa there")


def profile_operators(
    device: Device,
    *,
    csv_path: Path,
    networks: Mapping[str, Source],
    rng: np.random.Generator,
    rounds: int = 4,
    max_minutes: float = 30.0,
    block_seconds: float = 0.01,
    fresh: bool = False,
    progress: Progress | None = None,
) -> OperatorTable:
    """Measure samples and some whole networks, and write them to ``csv_path`` and the ``.json`` beside it.

    Whole networks come first. Then samples are drawn in batches; after the first of them, blocks are drawn more often
    the more of their samples are predicted with an error above 10 %, and half of a batch lies near such samples
    (nn-Meter, MobiSys 2021, sec. 4.3, samples around the configurations that are predicted worst).

    A table of this machine that is there is returned as it is. An interrupted call leaves ``<csv_path>.partial/``; the
    same call afterwards goes on.

    Args:
        networks: Whole networks, by name; what they scatter by is what intervals are made of.
        rng: Draws samples, inputs and the order of measurements.
        rounds: Good blocks of each.
        max_minutes: Of all this, all starts of an interrupted call together; whole networks and a first batch of
            samples are always measured.
        fresh: Measure anew, whatever is there.
        progress: Called with seconds so far, seconds in all, and what is being done.

    Raises:
        UsageError, KernelError: If the device's kernels cannot be measured.
        AnotherMachineError: If the table that is there was measured elsewhere.
        ModelError, NotInstalledError: See :meth:`ofa.hardware.transports.Host.time`.
    """
    check_device(device)
    machine = device.host.fingerprint(device.setting)
    if csv_path.exists() and not fresh:
        table = OperatorTable.load(csv_path)
        check_machine(table, machine, csv_path)
        return table
    workspace = csv_path.with_name(f"{csv_path.name}.partial")
    identity = {"device": device.name, "fingerprint": machine["id"], "block_seconds": block_seconds, "rounds": rounds}
    with contextlib.closing(Journal(workspace / "blocks.jsonl", identity)) as journal:
        measuring = _Measuring(device, rng, journal, workspace, rounds, block_seconds, 60 * max_minutes, progress)
        measuring.time_networks(networks)
        measuring.time_unfinished()
        while measuring.has_time:
            measuring.time_samples(measuring.choose())
        result, observed = measuring.result, measuring.observed()
    posterior = fit(list(observed.values()))
    table = OperatorTable(
        networks=observed,
        device=device.name,
        fingerprint=machine,
        held_out=held_out_errors(list(observed), posterior),
        details={
            "num_samples": len(measuring.samples),
            "minutes": round(measuring.seconds / 60, 2),
            "block_seconds": block_seconds,
            **result.facts(measuring.samples),
        },
        strengths=posterior.strengths,
    )
    table.save(csv_path)
    shutil.rmtree(workspace)
    return table


def check_machine(table: OperatorTable, machine: Mapping[str, Any], path: Path) -> None:
    """:class:`AnotherMachineError` if a table was measured elsewhere or with other software; it names what differs."""
    if differs := differences(table.fingerprint, machine):
        raise AnotherMachineError(
            f"{path} was measured elsewhere or with other software ({differs}); measure it here with "
            f"`ofa profile --operators --device {table.device} --fresh`"
        )


@dataclass
class _Measuring:
    """What was measured so far; all of it is on disk, too."""

    device: Device
    rng: np.random.Generator
    journal: Journal
    workspace: Path
    rounds: int
    block_seconds: float
    max_seconds: float
    progress: Progress | None
    whole: list[str] = field(default_factory=list)
    _weights: dict[str, float] | None = None
    _bad: Sequence[str] = ()
    _num_fitted: int = 0

    def __post_init__(self) -> None:
        self._before = measured_seconds(TimingResult(blocks=self.journal.blocks))
        self._started = time.monotonic()
        self._kernels_path = self.workspace / "kernels.jsonl"
        if not self.journal.blocks:  # begun anew, perhaps with other software, which makes other kernels
            self._kernels_path.unlink(missing_ok=True)
        self.kernels = _read_kernels_file(self._kernels_path)

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    @property
    def samples(self) -> list[str]:
        """Those that were measured."""
        tried = Counter(block.name for block in self.journal.blocks)
        return [name for name in self.kernels if tried[name] >= self.rounds and name not in self.whole]

    @property
    def has_time(self) -> bool:
        num = len(self.samples)
        return num < min(BATCH, MAX_SAMPLES) or (num < MAX_SAMPLES and self.seconds < self.max_seconds)

    @property
    def result(self) -> TimingResult:
        return TimingResult(blocks=list(self.journal.blocks))

    def time_networks(self, networks: Mapping[str, Source]) -> None:
        step = partial(self._say, "exporting whole networks")
        models = export_all(networks, self.device.setting, self.workspace / "models", step=step)
        self.whole = list(models)
        for name, model in models.items():
            self._know(name, model)
        self._time(models)

    def time_unfinished(self) -> None:
        """Samples that an interrupted call had begun."""
        begun = {block.name for block in self.journal.blocks}
        self.time_samples([name for name in self.kernels if name in begun - set(self.samples) - set(self.whole)])

    def time_samples(self, names: Sequence[str]) -> None:
        models: dict[str, Model] = {}
        for name in names:
            models[name] = export_model(*build(name), self.device.setting)
            self._know(name, models[name])
        self._time(models)

    def choose(self) -> list[str]:
        """Samples to measure next."""
        num = len(self.samples)
        if num >= FIRST_SAMPLES and num >= GROWTH * self._num_fitted:
            self._learn()
            self._num_fitted = num
        chosen: dict[str, None] = {}
        while len(chosen) < BATCH:
            is_near = len(self._bad) and len(chosen) < BATCH // 2
            bad = self._bad[int(self.rng.integers(len(self._bad)))] if is_near else ""
            name = draw_near(bad, self.rng) if is_near else draw(self.rng, self._weights)
            if name not in self.kernels and is_small(name):
                chosen[name] = None
        return list(chosen)

    def _learn(self) -> None:
        """Where errors are too large, noise aside."""
        observed = self.observed()
        errors, _ = fit(list(observed.values())).left_out
        far = {
            name: abs(error) > FAR_PERCENT / 100 and abs(error) * each.latency_ms > 3 * NOISE_MS
            for (name, each), error in zip(observed.items(), errors, strict=True)
            if not each.is_whole
        }
        self._bad = [name for name, is_far in far.items() if is_far]
        num_of, bad_of = (Counter(parse(name)[0] for name in names) for names in (far, self._bad))
        self._weights = {
            block: BLOCKS[block].weight * (LEAST_WEIGHT + bad_of[block] / max(num_of[block], 1)) for block in BLOCKS
        }

    def observed(self) -> dict[str, Observed]:
        """All that was measured; of samples the low percentile counts, of networks the median."""
        result, found = self.result, dict[str, Observed]()
        for names, by in ((self.whole, MEDIAN), (self.samples, LOW)):
            latencies_ms = result.latencies_ms(names, by)[f"latency_ms_p{by}"]
            errors = result.error_percent(names, by) / 100
            for name, latency_ms, error in zip(names, latencies_ms, errors, strict=True):
                found[name] = Observed(self.kernels[name], float(latency_ms), float(error), by == MEDIAN)
        return found

    def _know(self, name: str, model: Model) -> None:
        """Read the kernels of a model, unless they are known."""
        if name in self.kernels:
            return
        self.kernels[name] = read_kernels(model, self.device.setting)
        line = [[count, to_texts(kernel)] for kernel, count in self.kernels[name].items()]
        with self._kernels_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, line]) + "\n")

    def _time(self, models: Mapping[str, Model]) -> None:
        if not models:
            return
        job = Job(
            models=models,
            setting=self.device.setting,
            anchor=anchor_model(self.device.setting),
            rng=self.rng,
            num_blocks=dict.fromkeys(models, self.rounds),
            block_seconds=self.block_seconds,
            done=[block for block in self.journal.blocks if block.name in models],
            on_block=self._keep,
            notice=partial(notice, self.progress),
        )
        self.device.host.time(job)

    def _keep(self, block: TimedBlock) -> None:
        self.journal.append(block)
        self._say(f"measuring operators on {self.device.name}, {len(self.kernels)} samples")

    def _say(self, what: str) -> None:
        if self.progress is not None:
            total = max(1, round(self.max_seconds))
            self.progress(min(round(self.seconds), total), total, what)


def _read_kernels_file(path: Path) -> dict[str, Kernels]:
    """Kernels by the name of the network; lines that a killed process left half-written are read again."""
    found: dict[str, Kernels] = {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            name, kernels = parse_json(line)
            found[name] = Counter[Kernel]({from_texts(texts): count for count, texts in kernels})
    return found
