"""What measures, on whatever machine: here within the process, elsewhere as a program of its own.

Elsewhere it gets a folder with ``job.json`` and leaves ``result.json`` there, whole or not at all; what it has measured
is in ``blocks.jsonl`` after every block, so that the same job, started again, goes on. With this file travel only
modules that need nothing but Python, numpy and the runtime (see :mod:`ofa.hardware.transports.bundle`).
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ofa.errors import OfaError
from ofa.files import FORMAT, write_json_atomic
from ofa.hardware.accelerator import NONE, find_accelerator
from ofa.hardware.fingerprint import conditions, differences, fingerprint
from ofa.hardware.journal import Journal
from ofa.hardware.runtimes import RUNTIMES, Model, ModelError, NotInstalledError
from ofa.hardware.runtimes.session import Run, naming
from ofa.hardware.timing import SystemClock, TimedBlock, TimingResult, cache_user, time_models
from ofa.setting import Setting

MAX_COOLING_SECONDS = 300.0
ANCHOR = "(anchor)"


class AnotherMachineError(OfaError, ValueError):
    """What is there was measured on another machine, or with other software."""


ERRORS = {error.__name__: error for error in (AnotherMachineError, ModelError, NotInstalledError)}
"""What is the user's to mend; it travels by name and message."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Models to be timed against each other.

    Args:
        models: Of the runtime's format; by name.
        anchor: A small model, always the same.
        rng: Draws inputs and the order of measurements.
        num_blocks: Good blocks that each model needs.
        done: Blocks that are there already.
        on_block: Called with each new block.
        notice: Called with what whoever waits should know.
        loaded: What was loaded in this process, for further calls with more blocks.
    """

    models: Mapping[str, Model]
    setting: Setting
    anchor: Model
    rng: np.random.Generator
    num_blocks: Mapping[str, int]
    block_seconds: float
    done: Sequence[TimedBlock] = ()
    on_block: Callable[[TimedBlock], None] = lambda block: None
    notice: Callable[[str], None] = lambda text: None
    loaded: dict[str, Run] = field(default_factory=dict)


def time_on_device(job: Job) -> TimingResult:
    """Load models on this machine, let it cool down, time them in turn: :func:`~ofa.hardware.timing.time_models`.

    Raises:
        ModelError: If one cannot be run; it names it.
        NotInstalledError: If the runtime is not there.
    """
    runtime = RUNTIMES[job.setting.runtime]()
    accelerator = NONE if runtime.on_cpu else find_accelerator()

    def load(name: str, model: Model) -> Run:
        with naming(name):
            session = runtime.prepare(model, job.setting)
            return session.prepared(session.random_inputs(job.rng))

    return time_in_turn(
        job,
        load,
        clock=SystemClock(job.setting.threads, runtime.on_cpu, accelerator.clock_mhz),
        conditions=partial(conditions, accelerator),
        look_seconds=1,
    )


def time_in_turn(
    job: Job,
    load: Callable[[str, Model], Run],
    *,
    clock: SystemClock,
    conditions: Callable[[], Mapping[str, Any]],
    look_seconds: float,
) -> TimingResult:
    """Load models, wait for a while until the machine is as cool as the setting says, time them in turn.

    Args:
        clock: Of this machine, or of what does the work.
        conditions: Those of the machine at this moment.
        look_seconds: Between two looks at them.
    """
    wanted = {**job.models, ANCHOR: job.anchor}
    # In any order: what is loaded later lies elsewhere in memory, and takes another time for it, a percent or so.
    for name in job.rng.permutation(list(wanted)).tolist():
        if name not in job.loaded:
            job.loaded[name] = load(name, wanted[name])
    below_c, patience = job.setting.cool_below_c, time.monotonic() + MAX_COOLING_SECONDS
    while below_c is not None and (conditions()["temperature_c"] or 0) > below_c and time.monotonic() <= patience:
        time.sleep(look_seconds)
    before = conditions()
    result = time_models(
        {name: job.loaded[name] for name in job.models},
        anchor=job.loaded[ANCHOR],
        rng=job.rng,
        num_blocks=job.num_blocks,
        block_seconds=job.block_seconds,
        clock=clock,
        done=job.done,
        on_block=job.on_block,
        before_run=cache_user() if job.setting.cold else None,
    )
    return dataclasses.replace(result, conditions=(before, conditions()))


def run_job(folder: Path) -> None:
    """Do the job of a folder.

    ``job.json`` holds ``setting``, ``models`` (name -> path, from the folder on), ``anchor``, ``seed``,
    ``num_blocks`` (by name), ``block_seconds`` and ``done``, blocks that were measured before; one without models asks
    for the fingerprint only. One with ``machine``, a fingerprint, is not done on another machine.
    """
    request = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    setting = Setting(**request["setting"])
    try:
        result: dict[str, Any] = {"fingerprint": fingerprint(setting)}
        if differs := differences(request.get("machine") or result["fingerprint"], result["fingerprint"]):
            raise AnotherMachineError(f"{platform.node()} is not the machine that was asked for ({differs})")
        if request.get("models"):
            result |= _measure(folder, request, setting)
    except tuple(ERRORS.values()) as error:
        result = {"error": {"type": type(error).__name__, "message": str(error)}}
    write_json_atomic(folder / "result.json", {"format": FORMAT, **result}, indent=None)


def _measure(folder: Path, request: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    done = [TimedBlock.from_json(block) for block in request.get("done", [])]
    with closing(Journal(folder / "blocks.jsonl", {"fingerprint": fingerprint(setting)["id"]})) as journal:
        own = {(block.name, block.number) for block in journal.blocks}
        elsewhere = [block for block in done if (block.name, block.number) not in own]
        job = Job(
            models={name: folder / path for name, path in request["models"].items()},
            setting=setting,
            anchor=folder / request["anchor"],
            rng=np.random.default_rng(request["seed"]),
            num_blocks=request["num_blocks"],
            block_seconds=request["block_seconds"],
            done=[*elsewhere, *journal.blocks],
            on_block=journal.append,
        )
        result = time_on_device(job)
    return {"blocks": journal.blocks, "conditions": list(result.conditions)}
