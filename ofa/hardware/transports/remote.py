"""The far end of :mod:`ofa.hardware.transports.ssh`: what a machine does that measures for another one.

It travels in the bundle, is started anew for every request and needs only the standard library. A request is one line
of JSON on standard input, after it the bytes of files; answers are lines of JSON on standard output, each behind
:data:`MARK`, since what a login shell prints of its own comes out there too.

A folder holds ``models/<sha256>.<format>``, which stay, and ``jobs/<id>/``, see :mod:`ofa.hardware.runner`. Whoever
runs a job holds a lock on its folder until the process ends, however it ends: so no job runs twice at a time, and a
dead one is never taken for a living one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ofa.files import atomic_path, write_text_atomic

MARK = "ofa: "
CHUNK_BYTES = 1 << 20
MAX_RESULT_BYTES = 256 << 20
MAX_LOG_CHARACTERS = 2000
LOOK_SECONDS = 0.2  # between two looks at a running job
HEARTBEAT_SECONDS = 10.0
LOCK_SECONDS = 2.0
STOP_SECONDS = 10.0

Say = Callable[[Mapping[str, Any]], None]


def check(folder: Path, request: Mapping[str, Any], say: Say, data: BinaryIO) -> None:
    """Say which of ``files`` (path -> sha256) are missing or are not what they should be."""
    missing = [path for path, digest in request["files"].items() if _digest(folder / path) != digest]
    say({"missing": missing, "numpy": importlib.util.find_spec("numpy") is not None})


def receive(folder: Path, request: Mapping[str, Any], say: Say, data: BinaryIO) -> None:
    """Write ``files`` (path, sha256, number of bytes), whose bytes follow the request one after another."""
    for path, digest, num_bytes in request["files"]:
        hasher, left = hashlib.sha256(), num_bytes
        with atomic_path(folder / path) as temporary:
            with temporary.open("wb") as file:
                while left and (chunk := data.read(min(left, CHUNK_BYTES))):
                    left -= len(chunk)
                    hasher.update(chunk)
                    file.write(chunk)
            if left or hasher.hexdigest() != digest:
                raise ValueError(f"{path} arrived damaged: {num_bytes - left} of {num_bytes} bytes, or another hash")
    say({"received": len(request["files"])})


def start(folder: Path, request: Mapping[str, Any], say: Say, data: BinaryIO) -> None:
    """Start the job ``id``, unless it runs or is finished.

    The runner is a session of its own, which no cut connection ends, and inherits the lock.
    """
    job = folder / "jobs" / request["id"]
    job.mkdir(parents=True, exist_ok=True)
    lock = _lock(job)
    if lock is None:
        say({"state": "running"})
        return
    try:
        if is_finished(job, request["job"]):
            say({"state": "finished"})
            return
        with (job / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [os.path.expanduser(request["python"]), sys.argv[0], str(folder), "run", request["id"]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],
            )
        write_text_atomic(job / "pid", str(process.pid))
        process.returncode = 0  # it outlives this process, which is not to warn of that
        say({"state": "started"})
    finally:
        os.close(lock)


def is_finished(job: Path, content: Mapping[str, Any]) -> bool:
    """Whether a job has a result; if not, what is to be done is written into its folder."""
    path = job / "result.json"
    with contextlib.suppress(FileNotFoundError, ValueError):  # a damaged one is none
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and "error" not in found:
            return True
    path.unlink(missing_ok=True)  # what was wrong may have been mended since
    write_text_atomic(job / "job.json", json.dumps(content))
    return False


def follow(folder: Path, request: Mapping[str, Any], say: Say, data: BinaryIO) -> None:
    """Say new blocks of the job ``id``, see :func:`follow_job`."""
    job = folder / "jobs" / request["id"]
    follow_job(job, request, say, is_running=lambda: _is_running(job), look_seconds=LOOK_SECONDS)


def follow_job(
    job: Path, request: Mapping[str, Any], say: Say, *, is_running: Callable[[], bool], look_seconds: float
) -> None:
    """Say new whole lines of a job's blocks from byte ``offset`` on, until it ends or for ``seconds``.

    If the first line of the file is no longer ``header``, the file was begun anew, and ``offset`` means nothing.
    """
    heartbeat = time.monotonic()
    end, offset = heartbeat + request["seconds"], request["offset"]
    if offset and _new_lines(job / "blocks.jsonl", 0)[0][:1] != [request["header"]]:
        say({"state": "changed", "log": ""})
        return
    while True:
        running = is_running()
        finished = (job / "result.json").is_file()  # after that look: the result is written before it ends
        lines, offset = _new_lines(job / "blocks.jsonl", offset)
        if lines or time.monotonic() >= heartbeat:
            say({"lines": lines, "offset": offset})
            heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        if lines:
            continue
        if finished or not running or time.monotonic() > end:
            state = "finished" if finished else "running" if running else "dead"
            say({"state": state, "log": "" if state != "dead" else end_of_log(job)})
            return
        time.sleep(look_seconds)


def result(folder: Path, request: Mapping[str, Any], say: Say, data: BinaryIO) -> None:
    """Say the result of the job ``id``."""
    path = folder / "jobs" / request["id"] / "result.json"
    num_bytes = path.stat().st_size
    if num_bytes > MAX_RESULT_BYTES:
        raise ValueError(f"{path} has {num_bytes} bytes, more than {MAX_RESULT_BYTES}")
    say({"result": json.loads(path.read_text(encoding="utf-8"))})


def remove(folder: Path, request: Mapping[str, Any], say: Say, data: BinaryIO) -> None:
    """Stop the job ``id`` if it runs, and delete its folder."""
    _remove(folder / "jobs" / request["id"])
    say({"removed": request["id"]})


def clean(folder: Path, request: Mapping[str, Any], say: Say, data: BinaryIO) -> None:
    """Stop all jobs, and delete them, the models and the bundles; nothing else, whatever the folder is."""
    for job in sorted((folder / "jobs").glob("*")):
        _remove(job)
    for name in ("jobs", "models"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for bundle in folder.glob("runner-*.pyz"):
        bundle.unlink()
    say({"cleaned": str(folder)})


REQUESTS = {each.__name__: each for each in (check, receive, start, follow, result, remove, clean)}


def main(arguments: list[str]) -> None:
    """``<folder> <request>``, or ``<folder> run <job>``, which is the runner itself."""
    folder, name = Path(arguments[0]), arguments[1]
    if name == "run":
        from ofa.hardware.runner import run_job

        run_job(folder / "jobs" / arguments[2])
        return
    data = sys.stdin.buffer

    def say(answer: Mapping[str, Any]) -> None:
        print(MARK + json.dumps(answer), flush=True)

    REQUESTS[name](folder, json.loads(data.readline()), say, data)


def _digest(path: Path) -> str | None:
    """sha256 of a file; ``None`` without it."""
    if not path.is_file():
        return None
    hasher = hashlib.sha256()
    with path.open("rb") as file:  # hashlib.file_digest is younger than the oldest Python that this runs on
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def _lock(job: Path) -> int | None:
    """A descriptor that holds the lock of a job; ``None`` if another process has it."""
    lock = os.open(job / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    patience = time.monotonic() + LOCK_SECONDS  # as somebody may just be looking whether it is locked
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > patience:
                os.close(lock)
                return None
        time.sleep(0.05)


def _is_running(job: Path) -> bool:
    try:
        lock = os.open(job / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _new_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """Whole lines from a byte on, about a chunk of them, and the byte after them."""
    if not path.is_file():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(CHUNK_BYTES)
        if data and b"\n" not in data:
            data += file.readline(CHUNK_BYTES)  # one long line
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode("utf-8", errors="replace").splitlines(), offset + len(whole)


def end_of_log(job: Path) -> str:
    path = job / "log.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return text.strip()[-MAX_LOG_CHARACTERS:]


def _remove(job: Path) -> None:
    patience = time.monotonic() + STOP_SECONDS
    while _is_running(job) and time.monotonic() < patience:
        pid = job / "pid"
        if pid.is_file():
            try:
                os.killpg(int(pid.read_text()), signal.SIGTERM)
            except ProcessLookupError:  # it has just ended
                break
        time.sleep(LOOK_SECONDS)
    shutil.rmtree(job, ignore_errors=True)
