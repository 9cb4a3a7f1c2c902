"""`ofa profile --operators` and `ofa estimate` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ofa import workflow
from ofa.errors import UsageError
from ofa.estimate import networks, profile
from ofa.hardware.timed_models import export_model
from ofa.locks import LockedError
from ofa.setting import Setting
from tests.estimate.test_operators import NETWORKS, tiny
from tests.test_cli import ofa_command
from tests.test_destinations import held

SETTING = Setting(runtime="onnxruntime")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little to measure."""
    monkeypatch.setattr(profile, "BATCH", 4)
    monkeypatch.setattr(networks, "whole_networks", lambda: NETWORKS)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    data = export_model(*tiny(16), SETTING)
    assert isinstance(data, bytes)
    path.write_bytes(data)
    return path


@pytest.mark.usefixtures("small")
def test_operators_are_measured_and_a_network_is_estimated(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--device", "cpu-1t"]
    words = [
        "profile",
        "--operators",
        *where,
        "--out",
        str(tmp_path),
        "--max-minutes",
        "0.001",
        "--rounds",
        "2",
        "--json",
    ]
    status, out, err = ofa_command(capsys, *words)
    assert status == 0, err
    assert json.loads(out)["csv"] == str(tmp_path / "cpu-1t.operators.csv")
    assert "4 samples and 2 networks in" in err
    assert (tmp_path / "cpu-1t.operators.json").exists()
    status, _, err = ofa_command(capsys, *words)
    assert status == 0 and "is there already; --fresh measures it anew" in err

    status, out, err = ofa_command(capsys, "estimate", str(model), *where, "--tables", str(tmp_path), "--json")
    assert status == 0, err
    found = json.loads(out)
    low_ms, high_ms = found["interval_ms"]
    assert low_ms <= found["latency_ms"] <= high_ms
    assert found["unseen_percent"] == 0 and "0.0 % of them in kernels like none that was measured" in err

    larger = tmp_path / "larger.onnx"
    larger.write_bytes(export_model(*tiny(2048), SETTING))
    status, _, err = ofa_command(capsys, "estimate", str(larger), *where, "--tables", str(tmp_path))
    assert (
        status == 1
        and "that is too much to rely on; never measured, or not in such sizes: " in err
        and "never measured" in err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["estimate", "nowhere.onnx", "--device", "cpu-1t"], "no model nowhere.onnx; give the path of an ONNX file"),
        (
            ["estimate", "text.onnx", "--device", "cpu-1t"],
            "no table of operators at latency_tables/cpu-1t.op",
        ),
        (["estimate", "text.onnx", "--device", "cpu-1"], "did you mean 'cpu-1t'?"),
        (["estimate", "text.onnx", "--device", "openvino-1t"], "kernels of runtime 'openvino' cannot be told"),
        (["estimate", "text.onnx", "--device", "cpu-int8-1t"], "operators are measured in fp32, not int8"),
        (["profile", "--operators", "--device", "raspberry-pi"], "not on a host 'ssh'; run ofa there"),
        (["profile", "--operators", "--device", "cpu-1t", "cpu-2t"], "on one device at a time, not on 2"),
        (["profile", "--operators", "--run", "runs/a", "--device", "cpu-1t"], "--run is about the parts of a space"),
        (["profile", "--device", "cpu-1t"], "which space? give --run RUN"),
        (["profile", "--operators"], "--device names no device"),
    ],
)
def test_mistakes(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("no network")
    status, out, err = ofa_command(capsys, *words)
    assert (status, out) == (2, ""), err
    assert message in err and "Traceback" not in err


@pytest.mark.usefixtures("small")
def test_what_is_no_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cpu-1t.operators.csv").write_text("network,role,latency_ms\n")
    path = tmp_path / "text.onnx"
    path.write_text("no network")
    status, _, err = ofa_command(capsys, "estimate", str(path), "--device", "cpu-1t", "--tables", str(tmp_path))
    assert status == 2 and "text.onnx is not a valid ONNX model" in err


@pytest.mark.usefixtures("small")
def test_a_table_of_operators_is_not_written_over_other_files(tmp_path: Path) -> None:
    path = tmp_path / "cpu-1t.operators.csv"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"cpu-1t\.operators\.csv exists and is not a table of operators"):
        workflow.profile(devices=["cpu-1t"], operators=True, out=tmp_path)
    assert path.read_text() == "mine"
    other = tmp_path / "other"
    with (
        held(other / "cpu-1t.operators.csv") as pid,
        pytest.raises(LockedError, match=rf"is being written by process {pid}"),
    ):
        workflow.profile(devices=["cpu-1t"], operators=True, out=other)
