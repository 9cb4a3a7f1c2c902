"""Tables of operators on disk, what they say of networks, and how they are measured."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ofa.errors import UsageError
from ofa.estimate import Estimate, OperatorTable, estimate, profile, profile_operators
from ofa.estimate.fit import Observed
from ofa.estimate.kernels import Kernel, KernelError, Value
from ofa.estimate.operators import from_texts, to_texts
from ofa.files import FileFormatError
from ofa.hardware import Device
from ofa.hardware.runner import AnotherMachineError
from ofa.setting import Setting
from tests.estimate.test_fit import observed, product

DEVICE = Device(name="here", setting=Setting(runtime="onnxruntime"))


def table_of(num: int = 80) -> OperatorTable:
    networks = [*observed(num, 2, 0), *observed(8, 20, 1)]
    return OperatorTable(networks={f"n {index}": each for index, each in enumerate(networks)}, device="here")


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table, path = table_of(20), tmp_path / "here.operators.csv"
    table.save(path)
    again = OperatorTable.load(path)
    assert dict(again.networks) == dict(table.networks)
    kernels = table.networks["n 0"].kernels
    assert again.posterior.predict_ms(kernels) == pytest.approx(table.posterior.predict_ms(kernels))


def test_kernels_as_texts() -> None:
    values = (Value((1, 8, 4, 4)), Value((8, 1, 3, 3), is_weight=True))
    kernel = Kernel("nchwc.Conv", values, (Value((1, 8, 2, 2)),), (("group", "8"), ("strides", "2,2")))
    assert from_texts(to_texts(kernel)) == kernel
    assert to_texts(kernel)["inputs"] == "1x8x4x4 8x1x3x3*"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("network,role", "name,role"), "lacks the columns network"),
        (lambda text: text[: len(text) // 2], "is not the file that|is not a readable|not text|not a finite"),
        (lambda text: text + "more,sample,1.0,0.1,1,Relu,1x2,1x2,\n", "is not the file that"),
    ],
)
def test_damaged_tables_are_told(damage: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "here.operators.csv"
    table_of(10).save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(FileFormatError, match=message):
        OperatorTable.load(path)


def test_a_missing_half_is_told(tmp_path: Path) -> None:
    path = tmp_path / "here.operators.csv"
    with pytest.raises(FileFormatError, match=r"no table of operators at .*; measure it with `ofa profile --operators"):
        OperatorTable.load(path)


def test_an_estimate_is_the_sum_of_its_kernels() -> None:
    table = table_of()
    (whole,) = observed(1, 20, 5)
    found = estimate(whole.kernels, table)
    assert found.latency_ms == pytest.approx(whole.latency_ms, rel=0.06)
    assert found.interval_ms[0] < whole.latency_ms < found.interval_ms[1]
    assert found.latency_ms == pytest.approx(sum(cost.latency_ms for cost in found.costs), rel=0.05)
    assert [cost.latency_ms for cost in found.costs] == sorted((each.latency_ms for each in found.costs), reverse=True)
    assert found.macs == sum(kernel.macs * count for kernel, count in whole.kernels.items())
    assert found.ok and found.unseen_percent == 0
    assert json.loads(json.dumps(found.to_json()))["kernels"][0]["is_known"]


def test_the_share_that_was_never_seen_is_that_of_multiply_accumulates() -> None:
    known, unknown = product(64, 64, 64), product(4096, 4096, 64)
    found = estimate(Counter({known: 2, unknown: 1}), table_of())
    assert found.unseen_percent == pytest.approx(100 * unknown.macs / (2 * known.macs + unknown.macs))
    assert not found.ok
    assert found.unseen_kinds == ["Gemm"]
    assert not next(cost for cost in found.costs if cost.kernel == unknown).is_known


# -- measuring ---------------------------------------------------------------------------------------------------------


def tiny(channels: int) -> tuple[nn.Module, tuple[int, ...]]:
    with torch.random.fork_rng():
        return nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, 8, 1)).eval(), (3, 16, 16)


NETWORKS = {f"tiny{channels}": partial(tiny, channels) for channels in (16, 24)}


def measured(path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> OperatorTable:
    monkeypatch.setattr(profile, "BATCH", 6)
    monkeypatch.setattr(profile, "FIRST_SAMPLES", 6)
    settings = {"rounds": 2, "max_minutes": 0.0, "block_seconds": 0.0005, **settings}
    return profile_operators(DEVICE, csv_path=path, networks=NETWORKS, rng=np.random.default_rng(0), **settings)


def test_operators_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "here.operators.csv"
    table = measured(path, monkeypatch)
    assert {name for name, each in table.networks.items() if each.is_whole} == set(NETWORKS)
    assert len(table.networks) == 6 + 2
    assert set(table.held_out["networks"]) == set(NETWORKS)
    assert sum(each["num"] for each in table.held_out["kinds"].values()) == 6
    assert not list(tmp_path.glob("*.partial"))
    before = path.stat().st_mtime_ns
    again = measured(path, monkeypatch)
    assert path.stat().st_mtime_ns == before and dict(again.networks) == dict(table.networks)


def test_an_interrupted_measurement_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, kept = tmp_path / "here.operators.csv", tmp_path / "kept"
    monkeypatch.setattr(profile, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measured(path, monkeypatch)
    partial_ = tmp_path / "here.operators.csv.partial"
    shutil.copytree(partial_, kept)
    blocks = (kept / "blocks.jsonl").read_text().splitlines()
    (partial_ / "blocks.jsonl").write_text("\n".join(blocks[:-3]) + "\n")
    monkeypatch.undo()
    table = measured(path, monkeypatch)
    assert len(table.networks) == 6 + 2
    begun = {json.loads(line)[0] for line in blocks[1:]}
    assert set(table.networks) == begun


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_table_of_another_machine_is_not_taken_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "here.operators.csv"
    OperatorTable(networks=table_of(5).networks, device="here", fingerprint={"id": "x", "cpu": "another"}).save(path)
    with pytest.raises(
        AnotherMachineError, match=r"cpu another there, .*`ofa profile --operators --device here --fresh`"
    ):
        measured(path, monkeypatch)


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        (Setting(runtime="openvino"), KernelError, "kernels of runtime 'openvino' cannot be told"),
        (Setting(runtime="onnxruntime", precision="int8"), UsageError, "measured in fp32, not int8"),
    ],
)
def test_devices_that_cannot_be_measured(setting: Setting, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        profile.check_device(Device(name="other", setting=setting))


def test_an_estimate_without_multiply_accumulates_goes_by_latency() -> None:
    kernel = Kernel("Erf", (Value((9, 9)),), (Value((9, 9)),))
    found: Estimate = estimate(Counter({kernel: 1}), table_of(20))
    assert found.unseen_percent == 100 and found.macs == 0


def test_observed_networks_compare_by_value() -> None:
    assert Observed(Counter({product(2, 2, 2): 1}), 1.0) == Observed(Counter({product(2, 2, 2): 1}), 1.0)
