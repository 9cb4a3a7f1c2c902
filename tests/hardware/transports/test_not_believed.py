"""Machines that answer what no machine of ours would, through a program that stands for ``ssh`` or ``adb``."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from ofa.hardware.runner import Job
from ofa.hardware.runtimes import ModelError
from ofa.hardware.transports import Adb, HostError, Ssh, adb, ssh
from ofa.hardware.transports.adb import ExecutorRunner, PerfTest, Phone
from ofa.hardware.transports.listening import listening
from ofa.setting import Setting

SETTING = Setting(runtime="onnxruntime")
PROGRAM = """\
#!{python} -S
import os, sys
sys.stdin.buffer.read()
home = {home!r}
name = sys.argv[-1].split()[-1]
answer = open(home + "/" + name, "rb").read()
complains = name in ("follow", "devices") and os.path.exists(home + "/complains")
out = sys.stderr.buffer if complains else sys.stdout.buffer
out.write(answer)
while name in ("follow", "devices") and os.path.exists(home + "/endless"):
    out.write(answer)
"""
GOOD = {
    "check": b'ofa: {"missing": [], "numpy": true}\n',
    "start": b'ofa: {"state": "started"}\n',
    "follow": b'ofa: {"lines": [], "offset": 0}\nofa: {"state": "finished", "log": ""}\n',
    "result": b'ofa: {"result": {"format": 1, "fingerprint": {"id": "a", "cpu": "b"}}}\n',
    "remove": b'ofa: {"removed": "x"}\n',
}


@pytest.fixture
def there(tmp_path, monkeypatch):
    """What the machine answers to each request, by files."""
    for name in ("ssh", "adb"):
        (tmp_path / name).write_text(PROGRAM.format(python=sys.executable, home=str(tmp_path)))
        (tmp_path / name).chmod(0o755)
    for name, answer in GOOD.items():
        (tmp_path / name).write_bytes(answer)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(ssh.time, "sleep", lambda seconds: None)
    return tmp_path


def host(**settings):
    return Ssh(address="nobody@nowhere", retries=0, **{"answer_seconds": 20.0, **settings})


def result(text):
    return b'ofa: {"result": {"format": 1, ' + text + b"}}\n"


def test_the_program_that_stands_for_ssh_can_answer_well(there):
    assert host().fingerprint(SETTING) == {"id": "a", "cpu": "b"}


@pytest.mark.parametrize(
    ("request_name", "answer", "message"),
    [
        ("check", b"ofa: nonsense\n", "sent no answer while comparing files .*Expecting value"),
        ("check", b"ofa: " + b"[" * 200_000 + b"\n", "sent no answer while comparing files .*nested more than 50 deep"),
        ("check", b"ofa: " + b"9" * 5000 + b"\n", "sent no answer while comparing files"),
        ("check", b"ofa: [1]\n", r"sent no answer while comparing files \(\[1\]\); clean it"),
        ("check", b'ofa: {"missing": [], "numpy": true}', "sent no answer while comparing files"),
        ("check", b"hello\n", "answers nothing while comparing files"),
        ("check", b'ofa: {"missing": 3, "numpy": true}\n', "does not say 'missing' while comparing files, but"),
        ("check", b'ofa: {"missing": [], "numpy": NaN}\n', "is no finite number"),
        ("start", b'ofa: {"state": null}\n', "does not say 'state' while starting the job"),
        ("follow", b'ofa: {"lines": [3], "offset": 5}\n', "sent lines that are none"),
        ("follow", b'ofa: {"lines": ["h"], "offset": -5}\n', "sent lines that are none"),
        ("follow", b'ofa: {"lines": ["h"], "offset": 5}\n', "does not say 'state' while measuring"),
        ("result", b'ofa: {"result": [1]}\n', "does not say 'result' while fetching the result"),
        ("result", b'ofa: {"result": {"format": "\\u001b[2J"}}\n', r"of format '\\x1b\[2J', not 1"),
        ("result", result(b'"fingerprint": 5'), "fingerprint must be a mapping, not 5; clean it"),
        ("result", result(b'"fingerprint": {"id": 1, "cpu": "x"}'), "fingerprint must tell 'id' and 'cpu' in short"),
        ("result", result(b'"blocks": []'), "key 'fingerprint' is missing"),
        ("result", result(b'"fingerprint": {"id": "a", "cpu": "b"}, "conditions": [{"a": "b"}]'), "must be numbers"),
    ],
)
def test_answers_that_are_none_are_told_from_ours(there, request_name, answer, message):
    (there / request_name).write_bytes(answer)
    with pytest.raises(HostError, match=message):
        host().fingerprint(SETTING)


def test_a_new_job_that_is_finished_already_is_asked_for_its_result(there):
    (there / "start").write_bytes(b'ofa: {"state": "finished"}\n')
    (there / "follow").write_bytes(b'ofa: {"lines": [], "offset": 0, "state": "finished", "log": ""}\n')
    (there / "result").write_bytes(result(b'"blocks": []'))
    with pytest.raises(HostError, match="key 'fingerprint' is missing"):
        host().fingerprint(SETTING)


def test_an_error_of_another_kind_than_ours_is_one_of_the_machine(there):
    (there / "result").write_bytes(result(b'"error": {"type": ["ModelError"], "message": {"a": 1}}'))
    with pytest.raises(HostError, match=r"nobody@nowhere: \{'a': 1\}"):
        host().fingerprint(SETTING)
    (there / "result").write_bytes(result(b'"error": {"type": "ModelError", "message": "broken"}'))
    with pytest.raises(ModelError, match="nobody@nowhere: broken"):
        host().fingerprint(SETTING)


@pytest.mark.parametrize("what", ["complains", "answers"])
@pytest.mark.parametrize(
    "answer", [b"hello\n", b"x" * 1000, b'ofa: {"lines": [], "offset": 0}\n', b'ofa: {"lines": ["h"], "offset": 9}\n']
)
def test_endless_answers_end(there, answer, what, monkeypatch):
    monkeypatch.setattr(ssh, "FINGERPRINT_SECONDS", 0.5)
    (there / "follow").write_bytes(answer)
    (there / "endless").touch()
    (there / what).touch()
    before = time.monotonic()
    with pytest.raises(HostError):
        host(answer_seconds=1.0).fingerprint(SETTING)
    assert time.monotonic() - before < 60


def test_a_long_line_is_not_kept(there, monkeypatch):
    monkeypatch.setattr(ssh, "MAX_ANSWER_BYTES", 1000)
    (there / "check").write_bytes(b'ofa: {"missing": [], "numpy": true, "more": "' + b"x" * 1000 + b'"}\n')
    with pytest.raises(HostError, match="sent no answer while comparing files"):
        host().fingerprint(SETTING)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('["a", 0, [-1], [], 1.0, 1.0, 1.0]', "durations of 'a' that are none"),
        ('["a", 0, [1e30], [], 1.0, 1.0, 1.0]', "durations of 'a' that are none"),
        ('["a", 0, [100000000000000], [], 1.0, 1.0, 1.0]', "durations of 'a' that are none"),
        ('["a", 0, [true], [], 1.0, 1.0, 1.0]', "durations of 'a' that are none"),
        ('["a", 0, ["1"], [], 1.0, 1.0, 1.0]', "durations of 'a' that are none"),
        ('["a", 0, [NaN], [], 1.0, 1.0, 1.0]', "is no finite number"),
        ('["a", 0, [1], [], 1.0, Infinity, 1.0]', "is no finite number"),
        ('["a", 0, [1], [], 1.0, 1.0, 1e400]', "is no finite number"),
        (f'["a", 0, [1], [], 1, 1, {10**400}]', "sent no block"),
        ('["a", 0, [1], [], -1, 1, 1]', "an anchor or a time of 'a' that is none"),
        ('["a", 0, 7, [], 1, 1, 1]', "sent no block"),
        ('{"a": 1}', "sent no block"),
        ("[" * 100_000, "nested more than 50 deep"),
        (f'["a", 0, [{"1," * 3000}1], [], 1, 1, 1]', "3001 durations of 'a', too many"),
    ],
)
def test_numbers_that_no_block_has_are_refused(line, message):
    job = Job(
        models={"a": b""},
        setting=SETTING,
        anchor=b"",
        rng=np.random.default_rng(0),
        num_blocks={"a": 2},
        block_seconds=0.001,
    )
    with pytest.raises(HostError, match=message):
        host()._block(line, job)


# -- phones ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "1e9", "1e400", "", "x"])
def test_times_that_no_run_takes_are_no_report(seconds):
    with pytest.raises(ValueError, match=r"a run of|could not convert"):
        PerfTest.read_ns(f"token\nmodels,{seconds},1,1,0\n", 1, "token")
    with pytest.raises(ValueError, match=r"a run of|could not convert|no run"):
        ExecutorRunner.read_ns("Iteration 1 of 1: 1.2.3 ms\ntoken", 1, "token")
    with pytest.raises(ValueError, match="a run of"):
        ExecutorRunner.read_ns(f"Iteration 1 of 1: {10**12} ms\ntoken", 1, "token")


@pytest.mark.parametrize("status", ["²", "9" * 5000, "-1", "0 0", ""])
def test_a_status_that_is_none_is_no_answer(there, status, monkeypatch):
    monkeypatch.setattr(
        adb, "_adb", lambda words, seconds: adb.subprocess.CompletedProcess(words, 0, f"ofa status {status}\n", "")
    )
    with pytest.raises(HostError, match="does not answer adb, after 4 tries"):
        Phone("x", 1.0).call("true")


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "\x1b", None])
def test_a_battery_that_tells_no_number(text):
    assert adb._number(text) is None


def test_an_endless_phone_ends(there, monkeypatch):
    (there / "devices").write_bytes(b"List of devices attached\n" * 100)
    (there / "endless").touch()
    monkeypatch.setattr(adb, "MAX_OUTPUT_BYTES", 1 << 20)
    with pytest.raises(HostError, match="adb devices says more than 1048576 bytes"):
        Adb(program="/x").fingerprint(SETTING)
    (there / "complains").touch()
    with pytest.raises(HostError, match="no answer within 1 s"):
        Adb(program="/x", answer_seconds=1.0).fingerprint(SETTING)


def test_a_phone_that_does_not_tell_what_it_is(monkeypatch, tmp_path):
    program = tmp_path / "program"
    monkeypatch.setattr(Adb, "_phone", lambda self: Phone("x", 1.0))
    monkeypatch.setattr(Adb, "_push_program", lambda self, phone: str(program))
    monkeypatch.setattr(Phone, "shell", lambda self, command: "model=a\nboard=b")
    with pytest.raises(HostError, match="x does not tell its android, build, cores, governor, kernel, machine, progra"):
        Adb(program=str(program)).fingerprint(SETTING)


def test_a_program_is_ended_with_what_it_has_started() -> None:
    """Another process that holds on to the pipe would be waited for."""
    began = time.monotonic()
    with listening([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"], 1.0) as talk:
        assert talk.stdout.read() == b""
    assert talk.is_late and time.monotonic() - began < 30
