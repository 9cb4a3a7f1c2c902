"""One writer at a time: a lock on what a command writes, which ends with its process and says who holds it."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ofa.errors import OfaError
from ofa.files import enough_space, remove_leftovers, resolved
from ofa.system import hold

LOOK_SECONDS = 0.05
MAX_ATTEMPTS = 100


class LockedError(OfaError, RuntimeError):
    """Somebody else is writing there."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as it stands in the lock file."""

    host: str
    pid: int
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} since {self.since} ({self.command})"

    @property
    def is_gone(self) -> bool:
        """Whether it surely is: nothing is known of other hosts' processes."""
        if self.host != platform.node():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


_held: dict[Path, tuple[int, int]] = {}
"""Lock file -> descriptor and thread: who holds a lock may take it again; a forked child must let go of it."""


def _let_go() -> None:
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def only_writer(
    path: Path | str,
    *,
    command: str,
    beside: bool = False,
    remedy: str = "give another --out",
    wait_seconds: float = 0.0,
) -> Iterator[Path]:
    """Nobody else writes to ``path`` inside the block, on this machine or, where locks reach them, on others.

    First, what killed commands left there is removed or put back. The lock of a killed process is free.

    Args:
        path: A folder that stays; the lock is ``.lock`` in it.
        command: What the holder does, for others' messages.
        beside: ``path`` is a file, or a folder that is replaced as a whole; the lock is ``.NAME.lock`` beside it.
        remedy: What others can do besides waiting.
        wait_seconds: Wait so long for another holder.

    Yields:
        The path, links and ``..`` followed.

    Raises:
        LockedError: If somebody else holds the lock; it says who.
        NoSpaceError: In place of what a full disk makes the block raise.
    """
    path = resolved(path)
    lock = path.with_name(f".{path.name}.lock") if beside and path.name else path / ".lock"
    key, thread = lock.absolute(), threading.get_ident()
    if _held.get(key, (0, 0))[1] == thread:
        yield path
        return
    made = [folder for folder in key.parents if not folder.exists()]
    _held[key] = _take(lock, path, command, remedy, time.monotonic() + wait_seconds), thread
    try:
        remove_leftovers(lock.parent, path.name if beside else "")
        with enough_space(path):
            yield path
    finally:
        if key in _held:
            lock.unlink(missing_ok=True)
            os.close(_held.pop(key)[0])
        with suppress(OSError):  # what nothing was written to
            for folder in made:
                folder.rmdir()


def _take(lock: Path, path: Path, command: str, remedy: str, deadline: float) -> int:
    """The open lock file, ours."""
    mine = Holder(platform.node(), os.getpid(), time.strftime("%Y-%m-%d %H:%M"), command)
    attempts = 0
    while attempts < MAX_ATTEMPTS:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # whoever had made the folder has just removed it
            attempts += 1
            if attempts == MAX_ATTEMPTS:  # or nothing can be made there, as in /proc
                raise
            continue
        is_ours, holder, hint = hold(descriptor), _read(descriptor), ""
        if is_ours is None:  # no locks here: what stands in the file must do
            is_ours, hint = holder is None or holder.is_gone, f"; if that has ended, delete {lock}"
        if is_ours and _is_at(descriptor, lock):
            os.ftruncate(descriptor, 0)
            with suppress(OSError):  # a full disk is what the block will meet
                os.pwrite(descriptor, json.dumps(asdict(mine)).encode(), 0)
            return descriptor
        os.close(descriptor)
        if is_ours:  # whoever had it has just removed it
            attempts += 1
        elif time.monotonic() >= deadline:
            who = holder or "another process"
            raise LockedError(f"{path} is being written by {who}; wait for it, or {remedy}{hint}")
        else:
            time.sleep(LOOK_SECONDS)
    raise LockedError(f"{path} is being written by others, again and again; wait for them, or {remedy}")


def _read(descriptor: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _is_at(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except FileNotFoundError:
        return False
