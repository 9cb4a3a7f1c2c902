"""What the system offers beyond Python's library: locks and ties that end with a process, renames that lose nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EXDEV}
RENAME = {"linux": ("renameat2", -100, 1, 2), "darwin": ("renameatx_np", -2, 4, 2)}
"""The call, what stands for the working directory, and the flags: replace nothing, exchange."""
LOOK_SECONDS = 0.5

T = TypeVar("T")


def hold(descriptor: int, *, wait: bool = False) -> bool | None:
    """Lock an open file; the system lets go of it when it is closed or the process ends, however it ends.

    Returns:
        Whether it is ours now; ``None`` where files cannot be locked, as on some network file systems.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        raise
    return True


def rename_new(source: Path, target: Path) -> None:
    """Rename to where nothing is; :class:`FileExistsError` if something is."""
    if not _rename(source, target, exchange=False):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        source.rename(target)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places at once; ``False``, and nothing done, where the system cannot."""
    return _rename(one, other, exchange=True)


def _rename(source: Path, target: Path, *, exchange: bool) -> bool:
    import ctypes  # which not every machine has that only times networks

    name, here, no_replace, exchanging = RENAME.get(sys.platform, ("", 0, 0, 0))
    call = getattr(ctypes.CDLL(None, use_errno=True), name, None) if name else None
    if call is None:
        return False
    flags = ctypes.c_uint(exchanging if exchange else no_replace)
    if call(here, os.fsencode(source), here, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def tied(parent: int, call: Callable[..., T], *args: Any) -> T:
    """Make a call in a worker process that then does not outlive the process ``parent``, however that ends."""
    if os.getpid() != parent:
        _end_with(parent)
    return call(*args)


@lru_cache(maxsize=1)
def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
