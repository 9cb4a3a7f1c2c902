from __future__ import annotations

import json
import os

from ofa.hardware import fingerprint as module
from ofa.hardware.fingerprint import conditions, cpu_model, fingerprint
from ofa.setting import REFERENCE, Setting


def test_it_is_json_and_names_cpu_cores_and_versions():
    data = fingerprint(REFERENCE)
    json.dumps(data, allow_nan=False)
    assert data["cores"] >= 1
    assert data["runtime"]["onnxruntime"]
    assert set(data["conditions"]) == {"load", "clock_mhz", "temperature_c"}


def test_the_id_changes_with_settings_but_not_with_the_load(monkeypatch):
    before = fingerprint(REFERENCE)
    monkeypatch.setattr(module, "conditions", lambda: {"load": 99.0})
    assert fingerprint(REFERENCE)["id"] == before["id"]
    assert fingerprint(Setting(runtime="onnxruntime", threads=2))["id"] != before["id"]
    monkeypatch.setattr(module, "cpu_model", lambda: "Another CPU")
    assert fingerprint(REFERENCE)["id"] != before["id"]


def test_cpu_model_from_cpuinfo(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Example CPU: 2.0 GHz\n")
    assert cpu_model(path) == "Example CPU: 2.0 GHz"
    assert cpu_model(tmp_path / "none")


def test_cpu_model_of_macos(tmp_path, monkeypatch):
    program = tmp_path / "sysctl"
    program.write_text("#!/bin/sh\n[ \"$*\" = '-n machdep.cpu.brand_string' ] && echo Apple M9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(module.platform, "system", lambda: "Darwin")
    assert cpu_model(tmp_path / "none") == "Apple M9"


def test_a_machine_that_tells_nothing_has_a_fingerprint_too(tmp_path, monkeypatch):
    """No /proc and /sys, no affinity, no load: what another system than Linux gives."""
    for name in ("CLOCK_FREQUENCY", "TEMPERATURE", "GOVERNOR"):
        monkeypatch.setattr(module, name, tmp_path / "none")
    monkeypatch.setattr(module, "cpu_model", lambda: "Another CPU")
    monkeypatch.delattr(module.os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(module.os, "getloadavg", raising=False)
    data = fingerprint(REFERENCE)
    assert data["cores"] == os.cpu_count()
    assert data["governor"] is None
    assert data["conditions"] == {"load": None, "clock_mhz": None, "temperature_c": None}


def test_clock_and_temperature_where_readable(tmp_path, monkeypatch):
    (tmp_path / "scaling_cur_freq").write_text("1800000\n")
    (tmp_path / "temp").write_text("45500\n")
    monkeypatch.setattr(module, "CLOCK_FREQUENCY", tmp_path / "scaling_cur_freq")
    monkeypatch.setattr(module, "TEMPERATURE", tmp_path / "temp")
    assert (conditions()["clock_mhz"], conditions()["temperature_c"]) == (1800.0, 45.5)
