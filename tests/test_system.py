from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ofa import system
from ofa.system import exchange, hold, rename_new

WORKERS = """
import os, sys, time
from pathlib import Path
import joblib
from ofa.system import tied

def work(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(1000)

joblib.Parallel(n_jobs=2)(joblib.delayed(tied)(os.getpid(), work, path) for path in sys.argv[1:])
"""


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent_however_it_ends(signum: int, tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    parent = subprocess.Popen([sys.executable, "-c", WORKERS, *map(str, files)])
    patience = time.monotonic() + 120
    while not all(file.exists() and file.read_text() for file in files):
        assert parent.poll() is None and time.monotonic() < patience
        time.sleep(0.05)
    pids = [int(file.read_text()) for file in files]
    assert all(map(is_alive, pids)) and parent.pid not in pids
    parent.send_signal(signum)
    assert parent.wait() == -signum
    while any(map(is_alive, pids)):
        assert time.monotonic() < patience
        time.sleep(0.05)


@pytest.mark.parametrize("system_can", [True, False])
def test_a_rename_replaces_nothing(system_can: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not system_can:
        monkeypatch.setattr(system, "RENAME", {})
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()  # an empty folder is what rename(2) would replace
    with pytest.raises(FileExistsError):
        rename_new(one, other)
    other.rmdir()
    rename_new(one, other)
    assert os.listdir(tmp_path) == ["other"]
    with pytest.raises(FileNotFoundError):
        rename_new(one, tmp_path / "third")


def test_an_exchange_leaves_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    monkeypatch.setattr(system, "RENAME", {})
    assert not exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "one").exists()
    monkeypatch.undo()
    if not exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system cannot")
    assert (tmp_path / "one" / "other").exists() and (tmp_path / "other" / "one").exists()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "one", tmp_path / "third")


def test_a_lock_is_of_the_open_file(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as one, (tmp_path / "x").open("w") as other:
        assert hold(one.fileno()) and hold(one.fileno())
        assert hold(other.fileno()) is False
        one.close()
        assert hold(other.fileno(), wait=True)
