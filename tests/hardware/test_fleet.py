"""Many devices: who works at the same time, who waits, and what becomes of those that fail."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ofa.hardware
import ofa.hardware.timed_models
from ofa import workflow
from ofa.cost import LatencyTable
from ofa.errors import OfaError, UsageError
from ofa.hardware import Device, load_device
from ofa.hardware.fleet import on_each
from ofa.hardware.transports import Host, HostError
from ofa.setting import Setting

from .fakes import FakeSupernet

SECONDS = 0.3


@dataclass(frozen=True)
class Elsewhere(Host):
    """A machine by its name."""

    box: str

    @property
    def machine(self) -> object:
        return self.box


def device(name: str, machine: str | None = None) -> Device:
    here = Device(name=name, setting=Setting(runtime="onnxruntime"))
    return here if machine is None else dataclasses.replace(here, host=Elsewhere(machine))


def spans(devices: list[Device], fails: str = "") -> tuple[dict[str, tuple[float, float]], list[Any], list[Any]]:
    """When each was at work, what was found, and what was reported."""
    found: dict[str, tuple[float, float]] = {}
    said: list[Any] = []

    def work(device: Device, progress: Any) -> str:
        started = time.monotonic()
        progress(1, 2, f"measuring on {device.name}")
        time.sleep(SECONDS)
        if device.name == fails:
            raise HostError(f"{device.name} does not answer; plug it in")
        progress(0, 0, "a word")
        progress(2, 2, f"measuring on {device.name}")
        found[device.name] = (started, time.monotonic())
        return device.name.upper()

    return found, on_each(devices, work, lambda *report: said.append(report)), said


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_machines_work_side_by_side_and_those_of_one_in_turn() -> None:
    devices = [device("here"), device("a1", "a"), device("b", "b"), device("a2", "a")]
    at, found, _ = spans(devices)
    assert found == ["HERE", "A1", "B", "A2"]
    assert overlap(at["a1"], at["b"]) and not overlap(at["a1"], at["a2"])
    assert all(at["here"][0] >= at[name][1] for name in ("a1", "a2", "b"))  # alone, when the others are done


def test_ten_machines_take_hardly_longer_than_one() -> None:
    started = time.monotonic()
    spans([device("one", "a")])
    alone = time.monotonic() - started
    started = time.monotonic()
    spans([device(f"d{number}", f"m{number}") for number in range(10)])
    assert time.monotonic() - started < 1.2 * alone + 0.25  # the latter is how often it is looked


def test_one_that_fails_does_not_stop_the_others() -> None:
    at, found, said = spans([device("a1", "a"), device("a2", "a"), device("b", "b")], fails="a1")
    assert isinstance(found[0], HostError) and found[1:] == ["A2", "B"] and set(at) == {"a2", "b"}
    assert (0, 0, "a1: a1 does not answer; plug it in") in said


def test_all_of_them_are_one_account() -> None:
    _, _, said = spans([device("a", "a"), device("b", "b")])
    assert said[-1][:2] == (2, 2) and all(done <= total for done, total, _ in said)
    assert any("2 devices: " in what and "50 %" in what for _, _, what in said)
    assert (0, 0, "a: a word") in said
    _, _, alone = spans([device("a", "a")])
    assert (0, 1, "measuring on a") in alone


def test_a_fault_of_ours_is_raised() -> None:
    def wrong(device: Device, progress: Any) -> None:
        raise ZeroDivisionError

    for where in ("a", None):
        with pytest.raises(ZeroDivisionError):
            on_each([device("x", where)], wrong)


def test_hosts_tell_machines_apart() -> None:
    from ofa.hardware.transports import Adb, Local, Ssh

    assert Local().machine == Local().machine
    assert Ssh(address="pi@one").machine == Ssh(address="root@one", python="python4").machine
    assert Ssh(address="pi@one").machine != Ssh(address="pi@one", port=2222).machine != Ssh(address="pi@two").machine
    assert Adb(program="x", serial="1").machine != Adb(program="x", serial="2").machine


def test_exports_of_several_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters keep global state; each model is exported once for all devices."""
    exported: list[str] = []
    export = ofa.hardware.timed_models.export_model
    monkeypatch.setattr(
        ofa.hardware.timed_models, "export_model", lambda *args: (exported.append(""), export(*args))[1]
    )

    def time_there(self: Host, job: Any) -> Any:
        assert all(Path(model).exists() for name, model in job.models.items() if isinstance(model, Path))
        raise HostError("enough; this is all that was wanted")

    monkeypatch.setattr(Elsewhere, "time", time_there, raising=False)
    monkeypatch.setattr(Elsewhere, "fingerprint", lambda self, setting: {"id": "x"}, raising=False)

    def profile_one(device: Device, progress: Any) -> Any:
        path = tmp_path / device.name / "table.csv"
        settings: Any = {"num_fit": 2, "num_held_out": 2, "models_dir": tmp_path / "models", "progress": progress}
        return ofa.hardware.profile(FakeSupernet(), device, csv_path=path, rng=np.random.default_rng(0), **settings)

    found = on_each([device(f"d{number}", f"m{number}") for number in range(3)], profile_one)
    assert [str(each) for each in found] == ["enough; this is all that was wanted"] * 3
    files = list((tmp_path / "models").glob("*.onnx"))
    assert len(exported) == len(files) + 3 * 2  # besides, for each device, the empty graph and the anchor


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of three devices on two machines, of which nothing is measured; one of them does not answer."""
    folder = tmp_path / "boards"
    folder.mkdir()
    for name, address in (("pi-a", "pi@one"), ("pi-b", "pi@two"), ("pi-a-2t", "pi@one")):
        (folder / f"{name}.yaml").write_text(f"runtime: onnxruntime\nhost: {{name: ssh, address: {address}}}\n")
    shipped = LatencyTable.load(Path(__file__).parents[2] / "latency_tables" / "cpu-1t" / "ofa_mobilenetv3_w1.0.csv")
    asked: list[Any] = []

    def profile(supernet: Any, target: Device, *, csv_path: Path, models_dir: Path | None, **_: Any) -> LatencyTable:
        asked.append((target.name, models_dir))
        if target.name == "pi-b" and len(asked) <= 3:
            raise HostError("pi@two does not answer; see whether it is on")
        if csv_path.exists():
            return LatencyTable.load(csv_path)
        table = dataclasses.replace(shipped, device=target.name)
        table.save(csv_path)
        return table

    monkeypatch.setattr(ofa.hardware, "profile", profile)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_pattern_of_files_is_a_fleet(boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ofa.cli

    words = ["profile", "--run", "ofa_mobilenetv3_w1.0", "--device", "boards/*.yaml", "--out", "tables"]

    def run() -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["ofa", *words])
            try:
                ofa.cli.main()
                status = 0
            except SystemExit as error:
                status = int(error.code or 0)
        captured = capsys.readouterr()
        return status, " ".join((captured.out + captured.err).split())

    status, text = run()
    assert status == 1
    assert "pi-b: pi@two does not answer; see whether it is on" in text
    assert "the same command measures what is missing" in text
    assert sorted(path.parent.name for path in Path("tables").glob("*/*.csv")) == ["pi-a", "pi-a-2t"]
    status, text = run()
    assert status == 0 and text.count("there already") == 2 and "pi-b" in text
    assert sorted(path.parent.name for path in Path("tables").glob("*/*.csv")) == ["pi-a", "pi-a-2t", "pi-b"]


def test_results_of_a_fleet(boards: Path) -> None:
    result = workflow.profile("ofa_mobilenetv3_w1.0", ["boards/pi-a.yaml", "boards/pi-b.yaml"], out="tables")
    assert isinstance(result, workflow.ProfiledFleet) and not result.ok
    assert [each.device for each in result.profiled] == ["pi-a"] and set(result.failed) == {"pi-b"}
    assert set(result.to_json()) == {"profiled", "failed"}
    one = workflow.profile("ofa_mobilenetv3_w1.0", "boards/pi-a.yaml", out="tables")
    assert isinstance(one, workflow.Profiled) and not one.is_new
    assert isinstance(
        workflow.profile("ofa_mobilenetv3_w1.0", ["boards/pi-a.ya*"], out="tables"), workflow.ProfiledFleet
    )


def test_devices_that_make_no_sense(boards: Path) -> None:
    for names, message in (
        (["nowhere/*.yaml"], r"--device nowhere/\*\.yaml matches no file"),
        ([], "names no device"),
        (["boards/pi-a.yaml", str(boards / "pi-a.yaml")], "two of the devices are called pi-a"),
    ):
        with pytest.raises(UsageError, match=message):
            workflow.profile("ofa_mobilenetv3_w1.0", names, out="tables")
    with pytest.raises(OfaError, match="unknown device 'pi-c'"):
        workflow.profile("ofa_mobilenetv3_w1.0", ["pi-c"], out="tables")
    assert load_device("boards/pi-a.yaml").name == "pi-a"
