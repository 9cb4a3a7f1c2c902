"""A busy moment of the machine is not held against a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ofa.deploy.export as export
from ofa.hardware import load_device


def test_the_quietest_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = iter([(2.0, 4.0, 5.0), (1.0, 1.1, 9.0), (1.2, 1.3, 1.4)])

    def measure(models: object, *args: object, **kwargs: object) -> pd.DataFrame:
        return pd.DataFrame([next(passes)], columns=["latency_ms_p10", "latency_ms_p50", "latency_ms_p90"])

    monkeypatch.setattr(export, "measure", measure)
    measure_ms = export.measure_on(load_device("cpu-1t"), rng=np.random.default_rng(0), pause_seconds=0)
    assert measure_ms(Path("model.onnx")) == {"p10": 1.0, "p50": 1.1, "p90": 9.0}
    assert next(passes, None) is None
