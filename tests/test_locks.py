"""One writer at a time, with real processes and real kills."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ofa import locks
from ofa.files import NoSpaceError
from ofa.locks import LockedError, only_writer

HOLD = """
import os, sys, time
from ofa.locks import only_writer
with only_writer(sys.argv[1], command="ofa train", beside=sys.argv[2] == "beside"):
    is_there, say = os.pipe()
    if "fork" in sys.argv and os.fork() == 0:
        os.write(say, b"!")
        time.sleep(1000)
    if "fork" in sys.argv:
        os.read(is_there, 1)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path), *(words or ("inside",))]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path, where: str) -> None:
    path = tmp_path / "run"
    with holder(path, where) as first:
        message = (
            rf"run is being written by process {first.pid} on host {platform.node()} since \d{{4}}-\d\d-\d\d \d\d:\d\d "
            r"\(ofa train\); wait for it, or give another --out"
        )
        with (
            pytest.raises(LockedError, match=message),
            only_writer(path / ".." / "run", command="ofa train", beside=where == "beside"),
        ):
            pass
        first.communicate("")
        assert first.returncode == 0
    with only_writer(path, command="ofa train", beside=where == "beside"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("inside",), ("inside", "fork")], ids=["alone", "with a forked child that lives on"])
def test_a_killed_holder_leaves_the_place_free(tmp_path: Path, words: tuple[str, ...]) -> None:
    with holder(tmp_path / "run", *words) as first:
        first.kill()
        first.wait()
        assert (tmp_path / "run" / ".lock").exists()
        with only_writer(tmp_path / "run", command="ofa train") as path:
            assert json.loads((path / ".lock").read_text())["pid"] == os.getpid()


def test_who_may_wait_gets_it_in_turn(tmp_path: Path) -> None:
    with holder(tmp_path / "list.json", "beside") as first:
        threading.Timer(0.3, first.kill).start()
        with only_writer(tmp_path / "list.json", command="ofa", beside=True, wait_seconds=60):
            assert first.wait() == -signal.SIGKILL


def test_the_holder_may_take_it_again_but_no_other_thread(tmp_path: Path) -> None:
    found: list[str] = []

    def other() -> None:
        try:
            with only_writer(tmp_path, command="ofa search"):
                found.append("in")
        except LockedError as error:
            found.append(str(error))

    with only_writer(tmp_path, command="ofa train"):
        with only_writer(tmp_path, command="ofa export"):
            pass
        assert (tmp_path / ".lock").exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} on host" in found[0]


def test_many_processes_are_never_two_at_a_time(tmp_path: Path) -> None:
    """A counter in a file loses nothing, although its lock is removed and made again each time."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom ofa.locks import only_writer\n"
        "count = Path(sys.argv[1])\n"
        "for _ in range(200):\n"
        "    with only_writer(count, command='count', beside=True, wait_seconds=100):\n"
        "        count.write_text(str(int(count.read_text()) + 1))\n"
    )
    (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "count")]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "800"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_a_block_that_fails_leaves_no_folders(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_writer(tmp_path / "a" / "b", command="ofa train"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("record", "is_free"),
    [
        ({}, True),
        ({"pid": 2**22 + 1}, True),  # no process has such a number
        ({"pid": os.getpid()}, False),
        ({"host": "elsewhere", "pid": 2**22 + 1}, False),
    ],
)
def test_where_files_cannot_be_locked_their_content_counts(
    record: dict[str, object], is_free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "hold", lambda descriptor: None)
    if record:
        known = {"host": platform.node(), "since": "2026-01-31 12:03", "command": "ofa train", **record}
        (tmp_path / ".lock").write_text(json.dumps(known))
    if is_free:
        with only_writer(tmp_path, command="ofa train"):
            pass
        assert list(tmp_path.iterdir()) == []
        return
    message = r"since 2026-01-31 12:03 \(ofa train\); wait for it, or .*; if that has ended, delete .*\.lock"
    with pytest.raises(LockedError, match=message), only_writer(tmp_path, command="ofa train"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\x00" * 9000])
def test_a_garbled_record_is_no_obstacle(content: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(content)
    with only_writer(tmp_path, command="ofa train"):
        pass


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".lock").symlink_to("precious")
    with pytest.raises(OSError), only_writer(tmp_path, command="ofa train"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_that_takes_no_files_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"/proc/\.x\.lock"), only_writer("/proc/x", command="x", beside=True):
        pass


def test_a_full_disk_is_named_by_what_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(NoSpaceError, match=rf"{tmp_path}: No space .* bytes free\); make space, or give another place"),
        only_writer(tmp_path, command="ofa train"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
