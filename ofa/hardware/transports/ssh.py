"""A machine that is reached by ssh: a single-board computer, a Jetson, a server.

It needs an ssh server besides what :mod:`ofa.hardware.transports.sent_runner` says. Each request is a connection of its
own, and made again where one breaks.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ofa.config import ConfigError
from ofa.errors import shown
from ofa.files import parse_json
from ofa.hardware.runner import MAX_COOLING_SECONDS, Job
from ofa.hardware.timing import MAX_WAIT_SECONDS, max_blocks
from ofa.hardware.transports.bundle import build_bundle, bundle_name
from ofa.hardware.transports.host import HostError
from ofa.hardware.transports.listening import listening
from ofa.hardware.transports.remote import MARK, MAX_RESULT_BYTES
from ofa.hardware.transports.sent_runner import DOING, Payload, SentRunner, quoted, sha256_of
from ofa.setting import Setting

ALIVE_SECONDS = 5
MAX_MISSED = 3  # answers to "are you there", one every ALIVE_SECONDS, before a connection counts as dead
MAX_PAUSE_SECONDS = 30.0
FINGERPRINT_SECONDS = 120.0
# What a job may take at most, where the device does not say: slow boards need seconds for a block that is to last ten
# milliseconds, as it has at least five runs.
LOAD_SECONDS, BLOCK_FACTOR, BLOCK_SECONDS = 60.0, 20.0, 20.0
MAX_ANSWER_BYTES = 16 << 20  # of what is sent back, besides the result

SHELL_FOUND_NOTHING = (126, 127)
SSH_FAILED = 255
NO_BUNDLE = 93
BOOT = f"""\
import hashlib, os, runpy, sys
folder, name, digest, request = sys.argv[1:5]
folder = os.path.abspath(os.path.expanduser(folder))
path = os.path.join(folder, name)
def good(path):
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest() == digest
if request == "install":
    if not os.path.isdir(folder):
        os.makedirs(folder)
    part = "%s.%d" % (path, os.getpid())
    with open(part, "wb") as file:
        file.write(getattr(sys.stdin, "buffer", sys.stdin).read())
    if not good(part):
        os.remove(part)
        sys.exit("the runner arrived damaged")
    os.rename(part, path)
    print('{MARK}{{"installed": true}}')
elif good(path):
    sys.argv = [path, folder, request]
    runpy.run_path(path, run_name="__main__")
else:
    sys.exit({NO_BUNDLE})
"""
"""Finds the bundle by its hash and hands the request over to it; understood by any Python, for the sake of messages."""

ANSWERS: dict[str, dict[str, type]] = {
    "install": {"installed": bool},
    "check": {"missing": list, "numpy": bool},
    "receive": {"received": int},
    "start": {"state": str},
    "follow": {"state": str, "log": str},
    "result": {"result": dict},
    "remove": {"removed": str},
    "clean": {"cleaned": str},
}
"""What the last answer to a request says."""


class _BrokenError(Exception):
    """The connection failed in a way that may pass."""


class _NoBundleError(Exception):
    """The machine does not have the runner."""


@dataclass(frozen=True, kw_only=True)
class Ssh(SentRunner):
    """Measured by a runner that is sent there over the ``ssh`` program of this machine.

    Host keys are checked against those that ssh knows, and nothing asks for passwords: a key must let us in.

    Args:
        address: ``user@host``, or whatever the settings of ssh call it.
        port: 22 leaves it to the settings of ssh.
        identity: Path of a private key; without it those that ssh tries of its own.
        config: Path of settings in the place of ``~/.ssh/config``.
        python: Interpreter that has numpy and the runtime, 3.10 or later; ``~/`` is the home directory there.
        folder: What is sent there, and what runs, is kept in it; see :meth:`clean`.
        connect_seconds: Until a connection stands.
        answer_seconds: Until a request other than a measurement is answered.
        job_seconds: Until a measurement is finished; by default from the number and the length of its blocks.
        retries: Connections that may fail one after another.
    """

    address: str
    port: int = 22
    identity: str | None = None
    config: str | None = None
    python: str = "python3"
    folder: str = "~/.cache/ofa"
    connect_seconds: float = 10.0
    answer_seconds: float = 120.0
    job_seconds: float | None = None
    retries: int = 6

    def __post_init__(self) -> None:
        if not self.address or self.address.startswith("-"):
            raise ConfigError(f"address must be like user@host, not {self.address!r}")
        for key in ("connect_seconds", "answer_seconds"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"{key} must be positive, not {getattr(self, key)}")
        for key in ("python", "folder"):
            if not getattr(self, key):
                raise ConfigError(f"{key} must not be empty")

    @property
    def machine(self) -> object:
        return self.address.rpartition("@")[2], self.port, self.config

    @property
    def called(self) -> str:
        return self.address

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        self._push({})
        name = f"fingerprint-{secrets.token_hex(8)}"
        return self._run(name, {"setting": asdict(setting)}, FINGERPRINT_SECONDS).fingerprint

    def _job_seconds(self, job: Job) -> float:
        if self.job_seconds is not None:
            return self.job_seconds
        num_blocks = sum(map(max_blocks, job.num_blocks.values()))
        per_block = BLOCK_SECONDS + BLOCK_FACTOR * job.block_seconds
        loading = (1 + len(job.models)) * LOAD_SECONDS
        return MAX_COOLING_SECONDS + MAX_WAIT_SECONDS + loading + num_blocks * per_block

    def _ask(
        self,
        name: str,
        request: Mapping[str, Any],
        *,
        payload: Sequence[Payload] = (),
        seconds: float | None = None,
        hear: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Make a request, again if the connection breaks, and give its last answer.

        Args:
            request: Read anew at each try.
            payload: What follows the request, or comes in its place where the runner itself is sent.
            hear: Called with each answer; one that brings lines is progress, after which failures count anew.
        """
        bundle = build_bundle()
        num_failures = num_installs = 0
        while True:
            line = b"" if name == "install" else json.dumps(request).encode() + b"\n"
            try:
                answer: dict[str, Any] = {}
                with contextlib.closing(
                    self._exchange(name, bundle, [line, *payload], seconds or self.answer_seconds)
                ) as answers:
                    for answer in answers:
                        if answer.get("lines"):
                            num_failures = 0
                        if hear is not None:
                            hear(answer)
                for key, kind in ANSWERS[name].items():
                    if type(answer.get(key)) is not kind:
                        raise HostError(
                            f"{self.address} does not say {key!r} while {DOING[name]}, but {shown(answer)}; clean it"
                        )
                return answer
            except _NoBundleError:
                num_installs += 1
                if num_installs > 2:
                    raise HostError(f"{self.address} loses the runner from {self.folder}; see who deletes it") from None
                self._ask("install", {}, payload=[bundle])
            except _BrokenError as error:
                num_failures += 1
                if num_failures > self.retries:
                    raise HostError(
                        f"{self.address} cannot be reached by ssh while {DOING[name]}, after {num_failures} tries: "
                        f"{error}; see whether it is on and its address is right, then start again: what it has "
                        "measured is kept"
                    ) from None
                time.sleep(min(0.5 * 2 ** (num_failures - 1), MAX_PAUSE_SECONDS))

    def _exchange(
        self, name: str, bundle: bytes, payload: Sequence[Payload], seconds: float
    ) -> Generator[dict[str, Any], None, None]:
        """One connection: send, and give the answers as they come; :class:`HostError` if trying again is of no use."""
        digest = sha256_of(bundle)
        arguments = [self.folder, bundle_name(digest), digest, name]
        command = f"{quoted(self.python)} -c {shlex.join([BOOT, *arguments])}"
        limit = MAX_RESULT_BYTES + MAX_ANSWER_BYTES if name == "result" else MAX_ANSWER_BYTES
        num_answers = 0
        try:
            with listening([*self._ssh(), "--", self.address, command], seconds) as talk:
                _send(talk.stdin, payload)
                while line := talk.stdout.readline(limit):
                    if line.startswith(MARK.encode()):
                        num_answers += 1
                        yield self._answer(line, name)
        except FileNotFoundError:
            raise HostError("no program ssh on this machine; install the OpenSSH client") from None
        if talk.is_late:
            raise _BrokenError(f"no answer within {seconds:.0f} s")
        self._check_status(talk.status, talk.said, name)
        if not num_answers:
            raise HostError(f"{self.address} answers nothing while {DOING[name]}; try `ssh {self.address}` by hand")

    def _answer(self, line: bytes, name: str) -> dict[str, Any]:
        try:
            answer = parse_json(line[len(MARK) :].decode())
        except ValueError as error:
            answer = error
        if not isinstance(answer, dict) or not line.endswith(b"\n"):
            raise HostError(f"{self.address} sent no answer while {DOING[name]} ({shown(answer)}); clean it")
        return answer

    def _check_status(self, status: int, said: str, name: str) -> None:
        """Tell errors that pass from those that do not."""
        if status == 0:
            return
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        last = lines[-1] if lines else "it says nothing"
        if status == NO_BUNDLE:
            raise _NoBundleError
        by_hand = shlex.join(["ssh", *(["-p", str(self.port)] if self.port != 22 else []), self.address])
        if status == SSH_FAILED and "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
            raise HostError(
                f"the host key of {self.address} is not the one that ssh knows; find out why before you remove the old "
                "one with `ssh-keygen -R`"
            )
        if status == SSH_FAILED and "Host key verification failed" in said:
            raise HostError(
                f"ssh does not know the host key of {self.address} ({lines[0]}); run `{by_hand}` once by hand and "
                "compare the key that it shows"
            )
        if status == SSH_FAILED and "Permission denied" in last:
            raise HostError(
                f"{self.address} does not let us in ({last}); name a key that it accepts as `identity`, or send it "
                "yours with ssh-copy-id"
            )
        if status < 0 or status == SSH_FAILED:
            raise _BrokenError(last)
        if status in SHELL_FOUND_NOTHING:
            raise HostError(
                f"{self.address} cannot start {self.python!r} ({last}); install Python there, or name it as `python`"
            )
        raise HostError(f"{self.address} failed while {DOING[name]}: {last}")

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": f"{max(1, round(self.connect_seconds))}",
            "ServerAliveInterval": f"{ALIVE_SECONDS}",
            "ServerAliveCountMax": f"{MAX_MISSED}",
        }
        words = ["ssh", "-T", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
        if self.port != 22:
            words += ["-p", str(self.port)]
        if self.identity is not None:
            words += ["-i", str(Path(self.identity).expanduser()), "-o", "IdentitiesOnly=yes"]
        if self.config is not None:
            words += ["-F", str(Path(self.config).expanduser())]
        return words


def _send(stream: IO[bytes], payload: Iterable[Payload]) -> None:
    """Write and close; if nobody reads to the end, the status of ssh says why."""
    with contextlib.suppress(BrokenPipeError), stream:
        for part in payload:
            if isinstance(part, bytes):
                stream.write(part)
                continue
            with part.open("rb") as file:
                shutil.copyfileobj(file, stream)
