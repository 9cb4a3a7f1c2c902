"""A busy moment of the machine is not held against a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ofa.deploy.walk_down as export
from ofa.hardware import Device, load_device
from ofa.hardware.transports import QaiHub
from ofa.progress import Progress


def test_the_quietest_pass_counts_for_each_file(monkeypatch: pytest.MonkeyPatch) -> None:
    first_ms, second_ms = [(2, 4, 5), (1, 1.1, 9), (1.2, 1.3, 1.4), (1, 2, 3)], [(each,) * 3 for each in (3, 4, 5, 7)]
    passes = iter(zip(first_ms, second_ms, strict=True))
    cold: list[bool] = []

    def measure(models: object, device: Device, **kwargs: object) -> pd.DataFrame:
        cold.append(device.setting.cold)
        columns = ["latency_ms_p10", "latency_ms_p50", "latency_ms_p90"]
        table = pd.DataFrame(next(passes), columns=columns, index=["a.onnx", "b.onnx"])
        table["latency_ms_p99"] = 9.9
        table["num_runs"], table["repeatability_percent"] = 50, 0.5
        table.attrs["times_as_long"] = 1.2
        table.attrs["quantiles_ms"] = {name: [row["latency_ms_p50"]] for name, row in table.iterrows()}
        return table

    monkeypatch.setattr(export, "measure", measure)
    monkeypatch.setattr(export, "PAUSE_SECONDS", 0)
    measure_files = export.measure_on(load_device("cpu-1t"), rng=np.random.default_rng(0))
    first, second = measure_files([Path("a.onnx"), Path("b.onnx")])
    assert (first.p10, first.p50, first.p90, first.quantiles) == (1.0, 1.1, 9.0, (1.1,))
    assert (first.p99, first.times_as_long) == (9.9, 1.2)
    assert second.p50 == 3
    assert (first.cold_p50, second.cold_p50) == (2, 7) and cold == [False, False, False, True]
    assert next(passes, None) is None


def test_whoever_waits_in_a_queue_has_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def measure(models: object, device: Device, *, progress: Progress, **kwargs: object) -> pd.DataFrame:
        asked.append(models)
        progress(0, 0, "8 jobs")
        progress(1, 9, "measuring")
        columns = ["latency_ms_p10", "latency_ms_p50", "latency_ms_p90", "latency_ms_p99"]
        table = pd.DataFrame([[1, 2, 3, 4]], columns=columns, index=["a.onnx"])
        table["num_runs"], table["repeatability_percent"] = 50, 0.5
        table.attrs |= {"times_as_long": 1.0, "quantiles_ms": {"a.onnx": [2.0]}}
        return table

    monkeypatch.setattr(export, "measure", measure)
    device, said = replace(load_device("cpu-1t"), host=QaiHub(device="x")), []
    rng = np.random.default_rng(0)
    (found,) = export.measure_on(device, rng=rng, progress=lambda *step: said.append(step))([Path("a.onnx")])
    assert found.p50 == 2 and found.cold_p50 is None and len(asked) == 1
    assert said == [(0, 0, "8 jobs")]  # steps are those of whoever exports
