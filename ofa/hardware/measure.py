"""Latencies of whole models, with the same care as those of parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from ofa.hardware.device import Device
from ofa.hardware.runner import Job
from ofa.hardware.runtimes import Model
from ofa.hardware.timed_models import anchor_model
from ofa.hardware.timing import PERCENTILES
from ofa.progress import Progress, notice
from ofa.states import Speed

QUANTILES = range(0, 101, 5)
LATENCIES = [f"latency_ms_p{percentile}" for percentile in PERCENTILES]
TYPICAL = Speed(state="typical")


def measure(
    models: Mapping[str, Model],
    device: Device,
    *,
    rng: np.random.Generator,
    rounds: int = 10,
    block_seconds: float = 0.02,
    speed: Speed = TYPICAL,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Time models against each other on a device.

    Args:
        models: Bytes or path of each, or a shaped module, as the device's runtime takes it.
        rng: Draws inputs and the order of measurements.
        speed: What latencies are stated at: the machine's as it is now, and as it was when its table was made, follow
            from the anchor of both.
        progress: Called with blocks done, blocks in all, and what is being done.

    Returns:
        One row per model, in the given order and with its name as index: ``latency_ms_p10``, ``latency_ms_p50``,
        ``latency_ms_p90``, ``latency_ms_p99``, ``num_runs``, ``repeatability_percent``. ``attrs["timing"]`` tells how
        it went, ``attrs["quantiles_ms"]`` the distribution of each model's latency at 0, 5 ... 100 %,
        ``attrs["times_as_long"]`` how many times as long models take now as at the speed that they are stated at.

    Raises:
        ModelError: If a model cannot be loaded, or if its inputs have no fixed size.
        NotInstalledError: If the runtime is not there.
        HostError: If the device cannot be reached.
        UsageError: If measuring would cost more than the device's file allows.
    """
    num_blocks = dict.fromkeys(models, rounds)
    say_cost(device, num_blocks, progress)
    step = counted(progress, len(models) * rounds, f"measuring on {device.name}")
    job = Job(
        models=models,
        setting=device.setting,
        anchor=anchor_model(device.setting),
        rng=rng,
        num_blocks=num_blocks,
        block_seconds=block_seconds,
        on_block=lambda block: step(),
        notice=partial(notice, progress),
    )
    result = device.host.time(job)
    table = result.latencies_ms(models).set_index("name")
    found = result.states_for(models)
    states = speed.states or found
    factor = states.times_as_long(speed.state) / found.times_as_long_as(states)
    table[LATENCIES] *= factor
    table["repeatability_percent"] = result.repeatability_percent(list(models))
    table.attrs["timing"] = result.facts(models)
    table.attrs["quantiles_ms"] = {
        name: (np.percentile(runs_ms, QUANTILES) * factor).round(6).tolist()
        for name, runs_ms in result.runs_ms(models).items()
    }
    table.attrs["times_as_long"] = 1 / factor
    return table


def say_cost(device: Device, num_blocks: Mapping[str, int], progress: Progress | None) -> None:
    """Say what a measurement costs, see :meth:`ofa.hardware.transports.Host.cost_text`."""
    if text := device.host.cost_text(device.setting, num_blocks):
        notice(progress, text)


def counted(progress: Progress | None, total: int, what: str) -> Callable[[], None]:
    """A function that reports one more step; those beyond the total, of what has to be done again, change nothing."""
    count = itertools.count(1)
    return lambda: progress(min(next(count), total), total, what) if progress is not None else None
