"""Latencies of whole models, with the same care as those of parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ofa.hardware.device import Device
from ofa.hardware.onnx_export import anchor_graph
from ofa.hardware.runtimes import RUNTIMES
from ofa.hardware.timing import Block, Run, SystemClock, TimingResult, time_models

Progress = Callable[[int, int, str], None]


def measure(
    models: Mapping[str, bytes | Path | str],
    device: Device,
    *,
    rng: np.random.Generator,
    rounds: int = 10,
    block_seconds: float = 0.02,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Time ONNX models against each other on a device.

    Args:
        models: Bytes or path of each model.
        rng: Draws inputs and the order of measurements.
        progress: Called with blocks done, blocks in all, and what is being done.

    Returns:
        One row per model, in the given order and with its name as index: ``latency_ms_p10``, ``latency_ms_p50``,
        ``latency_ms_p90``, ``num_runs``, ``repeatability_percent``. ``attrs["timing"]`` tells how it went.

    Raises:
        ModelError: If a model cannot be loaded, or if its inputs have no fixed size.
    """
    runs = {name: runnable(model, device, rng) for name, model in models.items()}
    count = iter(range(1, len(runs) * rounds + 1))

    def on_block(block: Block) -> None:
        if progress is not None:
            progress(next(count), len(runs) * rounds, f"measuring on {device.name}")

    result = time_on_device(runs, device, rng=rng, rounds=rounds, block_seconds=block_seconds, on_block=on_block)
    table = result.latencies_ms(runs).set_index("name")
    table["repeatability_percent"] = result.repeatability_percent(list(runs))
    table.attrs["timing"] = result.facts()
    return table


def runnable(model: bytes | Path | str, device: Device, rng: np.random.Generator) -> Run:
    """A model, loaded and with random inputs, to be called without arguments."""
    session = RUNTIMES[device.runtime]().prepare(model, device)
    return partial(session.run, session.random_inputs(rng))


def time_on_device(
    runs: Mapping[str, Run],
    device: Device,
    *,
    rng: np.random.Generator,
    rounds: int,
    block_seconds: float,
    done: Iterable[Block] = (),
    on_block: Callable[[Block], None] | None = None,
) -> TimingResult:
    """:func:`~ofa.hardware.timing.time_models` with the clock and the anchor of a device."""
    return time_models(
        runs,
        anchor=runnable(anchor_graph(), device, rng),
        rng=rng,
        rounds=rounds,
        block_seconds=block_seconds,
        clock=SystemClock(device.threads),
        done=done,
        on_block=on_block,
    )
