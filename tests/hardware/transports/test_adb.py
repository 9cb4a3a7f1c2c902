"""Against a stand-in for a phone; the shell that gets the commands is a real one."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from ofa.config import ConfigError, from_mapping
from ofa.hardware import runner
from ofa.hardware.device import Device
from ofa.hardware.journal import Journal
from ofa.hardware.runner import Job
from ofa.hardware.runtimes import ModelError, NotInstalledError
from ofa.hardware.timing import TimedBlock
from ofa.hardware.transports import Adb, HostError
from ofa.hardware.transports import adb as module
from ofa.hardware.transports.adb import ExecutorRunner, PerfTest, find_serial
from ofa.setting import Setting
from tests.hardware.fakes import time_with_journal
from tests.hardware.transports.phone import RECORDED, Phone

MODELS = {"small": b"x" * 100, "large 'n' $(touch pwned)": b"y" * 200}  # 1 and 2 ms
ANCHOR = b"z" * 50


@pytest.fixture(autouse=True)
def phone(tmp_path, monkeypatch):
    phone = Phone(tmp_path)
    monkeypatch.setenv("PATH", f"{phone.path}:/usr/bin:/bin")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return phone


@pytest.fixture(params=["executorch", "onnxruntime"])
def device(request, phone):
    return make_device(phone, request.param)


def make_device(phone, runtime, **settings):
    program = phone.executor_runner if runtime == "executorch" else phone.perf_test
    host = Adb(program=str(program), folder=str(phone.home / "phone's folder; touch pwned"), **settings)
    return Device(name="phone", setting=Setting(runtime=runtime), host=host)


def measure(device, models=MODELS, *, journal=None, on_block=None, num_blocks=2):
    job = Job(
        models=models,
        setting=device.setting,
        anchor=ANCHOR,
        rng=np.random.default_rng(0),
        num_blocks=dict.fromkeys(models, num_blocks),
        block_seconds=0.02,
    )
    return time_with_journal(device.host, job, journal, on_block)


def keys(blocks):
    return sorted((block.name, block.number) for block in blocks)


def test_it_measures_every_block_once(device, phone, tmp_path):
    journal, heard = Journal(tmp_path / "blocks.jsonl", {}), []
    result = measure(device, journal=journal, on_block=heard.append)
    journal.close()
    assert keys(result.blocks) == keys(heard) == keys(journal.blocks) == sorted((n, r) for n in MODELS for r in (0, 1))
    latencies = result.latencies_ms(MODELS).set_index("name")["latency_ms_p50"]
    assert latencies.tolist() == pytest.approx([1, 2], rel=0.01)
    small = next(block for block in result.blocks if block.name == "small")
    assert len(small.durations_ns) == pytest.approx(20, abs=1)  # 20 ms of 1 ms each, without the warm-up
    assert all(type(duration) is int for duration in small.durations_ns)
    assert not list(phone.home.rglob("pwned"))
    assert not [path for path in phone.home.rglob("*ofa-*")]  # result files are deleted


def test_a_second_call_sends_nothing_again(device, phone):
    measure(device)
    assert phone.num_calls("push") == 4  # program, two models, anchor
    measure(device)
    assert phone.num_calls("push") == 4


def test_a_damaged_file_is_sent_again(device, phone):
    measure(device)
    model = next(phone.home.glob("phone*/models/*"))
    whole = model.read_bytes()
    model.write_bytes(b"damaged")
    phone.do_wrong("damaged")  # the first push too
    measure(device)
    assert model.read_bytes() == whole
    assert phone.num_calls("push") == 6


def test_blocks_that_the_journal_holds_are_not_measured(device, tmp_path):
    journal = Journal(tmp_path / "blocks.jsonl", {})
    journal.append(TimedBlock("small", 1, (7,) * 5))
    heard = []
    result = measure(device, journal=journal, on_block=heard.append)
    journal.close()
    assert ("small", 1) not in keys(heard)
    assert keys(result.blocks) == sorted([("small", 1), *keys(heard)])


def test_the_fingerprint_tells_phones_and_programs_apart(device, phone):
    first = device.host.fingerprint(device.setting)
    assert first["cpu"].startswith("Tensor G3")
    assert (first["machine"], first["system"], first["model"]) == ("arm64-v8a", "Android 15", "Pixel 8")
    assert first["cores"] >= 1
    assert first["conditions"] == {"battery_percent": 84.0, "temperature_c": 32.6, "charging": True}
    (phone.home / "battery.txt").write_text("Can't find service: battery\n")
    second = device.host.fingerprint(device.setting)
    assert second["id"] == first["id"]
    assert set(second["conditions"].values()) == {None}
    masked = dataclasses.replace(device.host, cpu_mask="f0")
    assert masked.fingerprint(device.setting)["id"] != first["id"]
    for program in (phone.executor_runner, phone.perf_test):
        program.write_text(program.read_text() + "# another build\n")
    assert device.host.fingerprint(device.setting)["runtime"] != first["runtime"]


def test_it_can_run_on_some_cores_only(phone):
    measure(make_device(phone, "onnxruntime", cpu_mask="f0"))
    assert set((phone.home / "taskset").read_text().splitlines()) == {"-p f0"}


def test_a_lost_connection_is_tried_again(device, phone):
    measure(device)
    phone.do_wrong("disconnected")
    assert len(measure(device).blocks) == 4


def test_a_phone_that_stays_away_is_given_up(device, phone):
    phone.do_wrong("gone")
    message = r"emulator-5554 does not answer adb, after 4 tries: adb: device 'emulator-5554' not found; plug it in"
    with pytest.raises(HostError, match=message):
        measure(device)
    assert phone.num_calls("shell") == 4


def test_executorch_that_logs_to_standard_error(phone):
    phone.do_wrong("logs to standard error")
    assert len(measure(make_device(phone, "executorch")).blocks) == 4


def test_a_log_that_loses_a_line_is_made_anew(phone):
    phone.do_wrong("loses a line")
    result = measure(make_device(phone, "executorch"))
    assert all(len(block.durations_ns) >= 10 for block in result.blocks)


def test_lines_of_another_run_are_never_taken(phone):
    phone.do_wrong("log is lost")
    with pytest.raises(
        HostError, match=r"executor runner on emulator-5554 has reported, for .*, no run; build it with"
    ):
        measure(make_device(phone, "executorch"))


def test_an_old_executor_runner_is_told_from_a_new_one(phone):
    phone.do_wrong("reports the sum only")
    with pytest.raises(HostError, match=r"only the sum of all runs; build it from a newer ExecuTorch"):
        measure(make_device(phone, "executorch"))


def test_a_model_that_cannot_be_run_is_named(device):
    with pytest.raises(
        ModelError, match=r"bad: .* fails with status (1|255) \(.*(Failed to parse|failed:Protobuf).*\)"
    ):
        measure(device, {"bad": b"broken"})
    with pytest.raises(ModelError, match=r"missing: no model /nowhere; give the path of a \.(pte|onnx) file"):
        measure(device, {"missing": "/nowhere"})
    with pytest.raises(ModelError, match="module: only files can be sent to a phone"):
        measure(device, {"module": object()})


def test_a_missing_library_is_told(phone):
    phone.do_wrong("lacks a library")
    with pytest.raises(NotInstalledError, match=r'library "libonnxruntime.so" not found.*name the libraries'):
        measure(make_device(phone, "onnxruntime"))
    with pytest.raises(NotInstalledError, match=r"no library /nowhere.so; name those that onnxruntime_perf_test needs"):
        measure(make_device(phone, "onnxruntime", libraries=("/nowhere.so",)))


def test_libraries_are_put_beside_the_program(phone):
    library = phone.home / "libonnxruntime.so"
    library.write_bytes(b"library")
    device = make_device(phone, "onnxruntime", libraries=(str(library),))
    measure(device)
    (program,) = phone.home.glob("phone*/program-*/onnxruntime_perf_test")
    assert program.with_name(library.name).read_bytes() == b"library"


def test_the_program_may_be_on_the_phone(device, phone):
    """Here both have the same disk, so that the program is hidden from one of the two looks."""
    host = dataclasses.replace(device.host, program="/nowhere/program")
    with pytest.raises(NotInstalledError, match="no program /nowhere/program, neither here nor on emulator-5554"):
        measure(dataclasses.replace(device, host=host))


def test_waiting_for_a_cooler_phone_has_an_end(device, monkeypatch):
    asked, now = [], iter(range(0, 100_000, 100))
    degrees = [41.0, 40.0, 20.0, 20.0, 20.0]  # the last two before and after it measures
    monkeypatch.setattr(module.Phone, "conditions", lambda self: {"temperature_c": asked.append(1) or degrees.pop(0)})
    warm = dataclasses.replace(device, setting=dataclasses.replace(device.setting, cool_below_c=30))
    measure(warm)
    assert len(asked) == 3 + 2
    degrees.extend([41.0] * 20)
    measure(device)
    assert len(asked) == 5 + 2
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=lambda seconds: None))
    measure(warm)  # begins at 0 s, looks at 100, 200 and 300, gives up at 400
    assert len(asked) == 7 + 4 + 2


def test_cleaning_leaves_what_is_not_ours(device, phone):
    measure(device)
    (folder,) = phone.home.glob("phone*")
    (folder / "notes.txt").write_text("mine")
    device.host.clean()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("rows", "serial", "message"),
    [
        ([], None, "adb finds no phone; plug it in, and turn on USB debugging"),
        (["A\tdevice", "B\tdevice"], None, "adb finds several phones; name one as `serial`: A, B"),
        (["A\tdevice"], "B", "adb finds no phone 'B', but A; plug it in, or name another `serial`"),
        (["A\tunauthorized"], None, "A does not let this machine in; allow USB debugging on its screen"),
        (["A\toffline"], "A", "A is 'offline'; plug it in again"),
        (["A\tno permissions (verify udev rules); see [x]"], None, r"A is 'no permissions \(verify udev rules\)"),
    ],
)
def test_what_keeps_a_phone_from_being_found_is_said(phone, rows, serial, message):
    phone.devices(*rows)
    with pytest.raises(HostError, match=message):
        find_serial(serial, 10)


def test_one_of_several_phones(phone):
    (phone.home / "devices.txt").write_text((RECORDED / "devices.txt").read_text())
    assert find_serial("emulator-5556", 10) == "emulator-5556"
    with pytest.raises(HostError, match="several phones; name one as `serial`: emulator-5554, emulator-5556, emulator"):
        find_serial(None, 10)


def test_no_adb_on_this_machine(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="no program adb on this machine; install Android's platform-tools"):
        find_serial(None, 10)


def test_recorded_output_is_read():
    recorded = (RECORDED / "executor_runner.txt").read_text()
    assert ExecutorRunner.read_ns(f"{recorded}\ntoken\ntoken\n", 1, "token") == [241944288]
    assert ExecutorRunner.read_ns(f"token\nolder\ntoken\n{recorded}", 1, "token") == [241944288]
    for output in (f"token\n{recorded}", f"token\n{recorded}\ntoken\n"):  # nothing after our line in the log
        with pytest.raises(ValueError, match="no run"):
            ExecutorRunner.read_ns(output, 1, "token")
    with pytest.raises(ValueError, match="1 lines for 2 runs"):
        ExecutorRunner.read_ns(f"{recorded}\ntoken\ntoken\n", 2, "token")
    rows = "models,0.144871,158171136,68,0\nmodels,1e-05,158171136,68,1\n"
    table = f"{(RECORDED / 'perf_test.txt').read_text()}\ntoken\n{rows}"
    assert PerfTest.read_ns(table, 2, "token") == [144871000, 10000]
    for num_runs in (1, 3):
        with pytest.raises(ValueError, match=f"2 lines for {num_runs} runs"):
            PerfTest.read_ns(table, num_runs, "token")


def test_settings_are_checked(phone):
    host = from_mapping(Adb, {"program": "x", "libraries": ["a.so"]}, where="device phone")
    assert host.libraries == ("a.so",)
    with pytest.raises(ConfigError, match="folder must be an absolute path on the phone, not '/'"):
        Adb(program="x", folder="/")
    with pytest.raises(ConfigError, match="cpu_mask must be hexadecimal, such as 'f0', not '0-3'"):
        Adb(program="x", cpu_mask="0-3")
    device = Device(name="phone", setting=Setting(runtime="openvino"), host=Adb(program="x"))
    with pytest.raises(ConfigError, match="runtime 'openvino' cannot be measured over adb; choices: ex"):
        device.host.fingerprint(device.setting)


@pytest.mark.parametrize(("cpu_mask", "expected_mhz"), [("", 2800), ("f", 1800), ("30", 2400), ("100", None)])
def test_how_fast_its_cores_may_run(phone, monkeypatch, cpu_mask, expected_mhz):
    khz = [1_800_000] * 4 + [2_400_000] * 2 + [2_800_000] * 2
    said = "\n".join(f"/sys/devices/system/cpu/cpu{n}/cpufreq/scaling_max_freq:{each}" for n, each in enumerate(khz))
    monkeypatch.setattr(module.Phone, "call", lambda self, command: (0, said + "\ngrep: cpu9: denied"))
    assert module.Phone("serial", 1.0).highest_mhz(cpu_mask) == expected_mhz


def test_blocks_in_which_it_begins_to_throttle_do_not_count(phone, monkeypatch):
    mhz = iter([2800.0] * 9 + [1900.0] * 1000)
    monkeypatch.setattr(module.Phone, "highest_mhz", lambda self, cpu_mask: next(mhz))
    result = measure(make_device(phone, "executorch"), num_blocks=3)
    assert result.causes() == {"clock changed": 1} and min(result.num_good().values()) == 3
