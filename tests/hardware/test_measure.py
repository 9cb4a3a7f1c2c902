from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from ofa.formats.onnx import export_for_timing
from ofa.hardware import Device, fingerprint, load_device, measure, runner
from ofa.hardware.runtimes import ModelError, ShapedModule
from ofa.hardware.timing import TimedBlock, TimingResult
from ofa.hardware.transports import Local
from ofa.setting import Setting
from ofa.states import Speed, States


def test_one_row_per_model_in_the_given_order(tmp_path):
    large = tmp_path / "large.onnx"
    large.write_bytes(export_for_timing(nn.Conv2d(16, 64, 5).eval(), (16, 48, 48)))
    small = export_for_timing(nn.Conv2d(3, 4, 1).eval(), (3, 4, 4))
    steps = []
    table = measure(
        {"large": large, "small": small},
        load_device("cpu-1t"),
        rng=np.random.default_rng(0),
        rounds=2,
        block_seconds=0.002,
        progress=lambda *step: steps.append(step),
    )
    assert list(table.index) == ["large", "small"]
    assert (table["latency_ms_p10"] <= table["latency_ms_p50"]).all()
    assert (table["latency_ms_p50"] <= table["latency_ms_p90"]).all()
    assert (table["num_runs"] >= 10).all()
    assert (table["repeatability_percent"] >= 0).all()
    assert steps[:4] == [(done, 4, "measuring on cpu-1t") for done in (1, 2, 3, 4)]
    assert len(steps) == table.attrs["timing"]["num_blocks"] >= 4


def test_no_models_give_no_rows():
    assert measure({}, load_device("cpu-1t"), rng=np.random.default_rng(0)).empty


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"none\.onnx"):
        measure({"none": tmp_path / "none.onnx"}, load_device("cpu-1t"), rng=np.random.default_rng(0))


def test_it_waits_until_the_machine_is_cool(monkeypatch):
    readings, slept = iter([61.0, 60.5, 59.0, 59.0, 59.0]), []  # the last two before and after it measures
    monkeypatch.setattr(runner, "conditions", lambda accelerator: {"temperature_c": next(readings)})
    monkeypatch.setattr(runner.time, "sleep", slept.append)
    device = Device(name="warm", setting=Setting(runtime="onnxruntime", cool_below_c=60))
    model = export_for_timing(nn.Conv2d(3, 4, 1).eval(), (3, 4, 4))
    measure({"model": model}, device, rng=np.random.default_rng(0), rounds=2, block_seconds=0.001)
    assert slept == [1, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda-torch-b1", "cuda-graph-b1"])
def test_modules_on_a_gpu(name, cuda):
    # Apart by enough that other processes on the card do not matter.
    small, large = nn.Conv2d(3, 4, 1).eval(), nn.Sequential(*(nn.Conv2d(256, 256, 5) for _ in range(8))).eval()
    models = {"large": ShapedModule(large, (1, 256, 64, 64)), "small": ShapedModule(small, (1, 3, 4, 4))}
    table = measure(models, load_device(name), rng=np.random.default_rng(0), rounds=2, block_seconds=0.002)
    assert list(table.index) == ["large", "small"] and (table["latency_ms_p10"] > 0).all()
    assert table["latency_ms_p50"]["large"] > table["latency_ms_p50"]["small"]
    assert table.attrs["timing"]["num_blocks"] == 4


def test_a_machine_without_a_thermometer_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "TEMPERATURE", tmp_path / "none")
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: pytest.fail("waits"))
    device = Device(name="untold", setting=Setting(runtime="onnxruntime", cool_below_c=60))
    model = export_for_timing(nn.Conv2d(3, 4, 1).eval(), (3, 4, 4))
    assert len(measure({"model": model}, device, rng=np.random.default_rng(0), rounds=2, block_seconds=0.001)) == 1


@pytest.mark.parametrize(
    ("slope", "state", "expected_ms"),
    [
        # By hand: 1 ms where the anchor takes 0.1 ms; the table's anchor took 0.08 ms, and 0.112 ms when slow.
        (1.0, "typical", 0.8),
        (1.0, "slow", 1.12),
        (1.0, "fast", 0.8),
        # Slow as then, 0.112 ms, and a little faster besides; from slow to fast models change less than the anchor.
        (0.5, "slow", 1.12**0.75),
        (0.5, "typical", 1.12**0.75 / 1.4**0.5),
        (None, "slow", 1.12),
    ],
)
def test_latencies_are_stated_at_the_speed_of_a_table(slope, state, expected_ms, monkeypatch):
    around = (100_000, 100_000)
    blocks = [TimedBlock("model", number, (1_000_000,) * 5, (), *around, float(number)) for number in range(10)]
    monkeypatch.setattr(Local, "time", lambda host, job: TimingResult(blocks=blocks))
    states = States("two speeds", 0.08, 0.08, 0.112, slope=slope)
    device = load_device("cpu-1t")
    table = measure({"model": b""}, device, rng=np.random.default_rng(0), speed=Speed(state=state, states=states))
    assert table["latency_ms_p50"].item() == pytest.approx(expected_ms)
    assert table.attrs["times_as_long"] == pytest.approx(1 / expected_ms)
    assert table.attrs["quantiles_ms"]["model"][10] == pytest.approx(expected_ms, abs=1e-6)
    own = measure({"model": b""}, device, rng=np.random.default_rng(0), speed=Speed(state=state))
    assert own["latency_ms_p99"].item() == pytest.approx(1.0) and own.attrs["times_as_long"] == 1
