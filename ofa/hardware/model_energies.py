"""Energies of models on this machine, in turn as their latencies are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

from ofa.errors import UsageError
from ofa.hardware.device import Device
from ofa.hardware.energy import EnergyCounter, EnergyError, find_counter, joules_of_run
from ofa.hardware.runtimes import RUNTIMES, Model
from ofa.hardware.timing import Burst
from ofa.hardware.transports import Local

STEPS = 20  # of the counter in one measurement: it is exact to a twentieth
MIN_SECONDS = 0.05


def counter_for(device: Device) -> EnergyCounter:
    """What counts the energy of a device.

    Raises:
        UsageError: If it is another machine.
        EnergyError: If there is no counter here, or one that may not be read.
    """
    if not isinstance(device.host, Local):
        raise UsageError(
            f"device {device.name} is reached by {device.host.name}, but energy is measured on this machine only; run "
            "there, or leave energy out"
        )
    return find_counter()


def measure_energies(
    models: Mapping[str, Model],
    device: Device,
    *,
    rng: np.random.Generator,
    rounds: int,
    path: Path,
    step: Callable[[], None],
) -> pd.DataFrame:
    """Millijoules of one image, a row per round and a column per model; ``attrs["counter"]`` says what counted them.

    All models in turn, in a new random order each round.

    Args:
        path: File that keeps what was measured; a second call goes on there.
        step: Called after each measurement.

    Raises:
        UsageError: See :func:`counter_for`.
        EnergyError: So too; or if the counter does not move, or if the models run in a program of its own.
    """
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    found: dict[str, list[float]] = {name: [] for name in models}
    for name, energy_mj in map(json.loads, lines):
        if name in found:
            found[name].append(energy_mj)
    setting, runtime = device.setting, RUNTIMES[device.setting.runtime]()
    runs = {}
    for name, model in models.items():
        session = runtime.prepare(model, setting)
        runs[name] = session.prepared(session.random_inputs(rng))
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(counter_for(device)) as counter, path.open("a", encoding="utf-8") as file:
        for number in range(rounds):
            waiting = [name for name in models if len(found[name]) <= number]
            for index in rng.permutation(len(waiting)):
                name = waiting[index]
                run = runs[name]
                if isinstance(run, Burst):
                    raise EnergyError(f"{setting.runtime} runs models in a program of its own; leave energy out")
                run()  # the first one loads and allocates
                joules = joules_of_run(run, counter, max(STEPS * counter.step_seconds, MIN_SECONDS))
                found[name].append(round(1000 * joules / setting.batch, 6))
                file.write(json.dumps([name, found[name][-1]]) + "\n")
                file.flush()
                step()
    result = pd.DataFrame({name: values[:rounds] for name, values in found.items()})
    result.attrs["counter"] = counter.name
    return result
