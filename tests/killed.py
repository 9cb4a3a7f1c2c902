"""What goes wrong on a machine, for real: kills, and full disks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

NUM_LINES_AT_MOST = 100_000


def killed_at_every_line(work: Callable[[], object], *, of: tuple[str, ...], step: int = 1) -> Iterator[bool]:
    """Do the work again and again, each time in a process that is killed some lines later; last, without a kill.

    Args:
        of: Ends of the names of the files whose lines count.

    Yields:
        Whether it was killed, after each time.
    """
    for number in range(0, NUM_LINES_AT_MOST, step):
        child = os.fork()
        if child == 0:
            left = number

            def trace(frame: FrameType, event: str, argument: Any) -> Any:
                nonlocal left
                if not frame.f_code.co_filename.endswith(of):
                    return None
                if event == "line":
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), f"the work failed at line {number}"
        yield status != 0
        if status == 0:
            return


def fill_disk(disk: Path) -> None:
    """Leave no byte free, by a file ``ballast``."""
    with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
