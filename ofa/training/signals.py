"""Stopping on request: finish the step, save, and leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ofa.errors import OfaError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class StoppedError(OfaError, RuntimeError):
    """A signal asked for the end; what was trained is saved."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signum


class StopRequest:
    """Which signal has asked for the end, if any has."""

    signum: int | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside the block SIGTERM, SIGINT and SIGHUP are only noted; a second SIGINT interrupts at once.

    Outside the main thread, where Python handles no signals, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if request.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        request.signum = signum

    # A hangup is what a closed terminal sends; a program that is to outlive it (nohup) ignores it already.
    before = {signum: signal.signal(signum, note) for signum in SIGNALS if signal.getsignal(signum) != signal.SIG_IGN}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
