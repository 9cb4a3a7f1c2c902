from __future__ import annotations

import json

import pytest

from ofa.config import ConfigError
from ofa.hardware import UnknownDeviceError, list_devices, load_device
from ofa.hardware.runtimes import RUNTIMES
from ofa.setting import Setting

GOOD = "runtime: onnxruntime\nthreads: 2\n"


def write(tmp_path, text, name="board.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(list_devices()))
def test_shipped_devices_load_and_say_what_they_are_for(name):
    device = load_device(name)
    assert device.name == name
    assert device.setting.runtime in RUNTIMES
    assert device.description
    assert list_devices()[name].read_text().startswith("#")


def test_cpu_devices_are_shipped():
    assert {load_device(name).setting.threads for name in ("cpu-1t", "cpu-2t")} == {1, 2}


def test_a_path_is_taken_too(tmp_path):
    device = load_device(write(tmp_path, GOOD))
    assert (device.name, device.setting) == ("board", Setting(runtime="onnxruntime", threads=2))


def test_json_is_flat_and_in_the_old_order(tmp_path):
    found = load_device(write(tmp_path, GOOD)).to_json()
    assert list(found.items()) == [
        ("name", "board"),
        ("runtime", "onnxruntime"),
        ("precision", "fp32"),
        ("batch", 1),
        ("threads", 2),
        ("host", {"name": "local"}),
        ("cool_below_c", None),
        ("cold", False),
        ("description", ""),
    ]


def test_devices_of_the_current_directory_come_first(tmp_path, monkeypatch):
    (tmp_path / "devices").mkdir()
    write(tmp_path / "devices", GOOD)
    write(tmp_path / "devices", GOOD + "description: mine\n", "cpu-1t.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_device("board").name == "board"
    assert load_device("cpu-1t").description == "mine"
    assert load_device("cpu-2t").description != "mine"


def test_unknown_device_lists_the_known_ones():
    with pytest.raises(
        UnknownDeviceError, match=r"unknown device 'cpu-1'; did you mean 'cpu-1t'\? known: .*cpu-1t, cpu-2t"
    ):
        load_device("cpu-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runtime: tensorrt\ncold: true\n", r"cold is for runtimes that our own process runs on a CPU"),
        (GOOD + "thread: 1\n", r"unknown key 'thread'; did you mean 'threads'"),
        ("threads: 1\n", "key 'runtime' is missing"),
        ("runtime: onnxruntme\n", "unknown runtime 'onnxruntme'; did you mean 'onnxruntime'"),
        ("runtime: onnxruntime\nthreads: 0\n", "threads must be at least 1, not 0"),
        ("runtime: onnxruntime\nbatch: many\n", "batch must be a whole number, not 'many'"),
        ("runtime: onnxruntime\nprecision: fp8\n", "precision cannot be 'fp8'; choices: fp32"),
        ("runtime: litert\nprecision: fp16\n", "'fp16' with runtime 'litert'; choices: fp32"),
        ("runtime: onnxruntime\nhost: moon\n", "unknown name 'moon'"),
        ("- a list\n", "must be a mapping"),
        ("runtime: [\n", "not valid YAML"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_device(write(tmp_path, text))


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no device at"):
        load_device(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["../../outside", "a/b", ".hidden", "-o", "", "x" * 65, "a\nb"])
def test_a_name_that_no_file_may_have_is_refused(tmp_path, name):
    path = write(tmp_path, f"name: {json.dumps(name)}\nruntime: onnxruntime\n")
    with pytest.raises(ConfigError, match=r"must be up to 64 letters, digits, '_', '-' or '\.'; choose another"):
        load_device(path)
