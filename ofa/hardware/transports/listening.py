"""A program of this machine that talks to another one, which is not believed: bounded in time, and in what is kept."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ofa.hardware.transports.host import HostError

MAX_OUTPUT_BYTES = 16 << 20
MAX_SAID_BYTES = 1 << 16
SAYING_SECONDS = 5.0


class Talk:
    """A program that runs: its answers are to be read from ``stdout``; the last of its complaints are kept.

    Attributes:
        is_late: It was killed, as its time was over.
        status, said: Its exit status and the last of its standard error, once it has ended.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.stdin, self.stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self.process, self.is_late, self.status, self._said = process, False, 0, bytearray()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        while chunk := os.read(self._stderr.fileno(), MAX_SAID_BYTES):
            self._said += chunk
            del self._said[:-MAX_SAID_BYTES]

    @property
    def said(self) -> str:
        return bytes(self._said).decode(errors="replace")

    def expire(self) -> None:
        self.is_late = True
        self.kill()

    def kill(self) -> None:
        """End it with whatever it has started: that would hold on to the pipe that is read."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.status = self.process.wait()
        self._reader.join(SAYING_SECONDS)  # another program may hold on to the pipe
        if not self._reader.is_alive():
            self._stderr.close()
        self.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()


@contextmanager
def listening(command: Sequence[str], seconds: float) -> Iterator[Talk]:
    """Start a program, which is killed after so many seconds, or when the block fails, and wait for its end.

    Raises:
        FileNotFoundError: If there is no such program.
    """
    pipe = subprocess.PIPE
    talk = Talk(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, process_group=0))
    timer = threading.Timer(seconds, talk.expire)
    timer.daemon = True
    timer.start()
    try:
        yield talk
    except BaseException:
        talk.kill()
        raise
    finally:
        talk.close()
        timer.cancel()


def answer_of(
    command: Sequence[str], seconds: float, *, remedy: str, max_bytes: int = MAX_OUTPUT_BYTES
) -> subprocess.CompletedProcess[str]:
    """Status, output and complaints of a program that takes no input; status 1 if it takes longer than so many seconds.

    Raises:
        HostError: If there is no such program, with the remedy; if it says more than ``max_bytes``.
    """
    try:
        with listening(command, seconds) as talk:
            talk.stdin.close()
            output = talk.stdout.read(max_bytes + 1)
            if len(output) > max_bytes:
                raise HostError(f"{' '.join(command[:2])} says more than {max_bytes} bytes; see what it says by hand")
    except FileNotFoundError:
        raise HostError(f"no program {command[0]} on this machine; {remedy}") from None
    if talk.is_late:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {seconds:.0f} s")
    text = output.decode(errors="replace").replace("\r\n", "\n")
    return subprocess.CompletedProcess(command, talk.status, text, talk.said)
