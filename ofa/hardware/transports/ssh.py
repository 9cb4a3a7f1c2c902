"""A machine that is reached by ssh: a single-board computer, a Jetson, a server.

It needs an ssh server, Python, numpy and the runtime, and nothing of this package: see
:mod:`ofa.hardware.transports.bundle` for what is sent there, and :mod:`ofa.hardware.transports.remote` for the requests
that it answers. A job goes on there whatever becomes of the connection, or of this process. Its name follows from what
it measures, so whoever asks for the same again finds it running, finished, or to be resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from ofa.config import ConfigError, from_mapping
from ofa.errors import shown
from ofa.files import FORMAT, parse_json
from ofa.hardware.runner import ERRORS, MAX_COOLING_SECONDS, Job
from ofa.hardware.runtimes import RUNTIMES, Model, Runtime
from ofa.hardware.runtimes.session import naming
from ofa.hardware.runtimes.trtexec import ENDS_SUFFIX, TrtExec, ends_file
from ofa.hardware.timing import MAX_WAIT_SECONDS, TimedBlock, TimingResult, max_blocks
from ofa.hardware.transports.bundle import build_bundle, bundle_name
from ofa.hardware.transports.host import Host, HostError, sha256_to_send
from ofa.hardware.transports.listening import listening
from ofa.hardware.transports.remote import MARK, MAX_RESULT_BYTES
from ofa.setting import Setting

ALIVE_SECONDS = 5
MAX_MISSED = 3  # answers to "are you there", one every ALIVE_SECONDS, before a connection counts as dead
FOLLOW_SECONDS = 60.0  # one connection's look at a running job
MAX_PAUSE_SECONDS = 30.0
MAX_RESTARTS = 2
BATCH_BYTES = 32 << 20
OTHER_SUFFIXES = (".xml", ".engine")  # of files that a runtime takes beside those of its format
MIN_BYTES_PER_SECOND = 50_000
FINGERPRINT_SECONDS = 120.0
# What a job may take at most, where the device does not say: slow boards need seconds for a block that is to last ten
# milliseconds, as it has at least five runs.
LOAD_SECONDS, BLOCK_FACTOR, BLOCK_SECONDS = 60.0, 20.0, 20.0

# Of what is sent back, besides the result.
MAX_ANSWER_BYTES = 16 << 20
MAX_FINGERPRINT_BYTES = 1 << 16
MAX_NS = 10**14  # a day
MAX_RUNS_PER_SECOND = 10**6

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

DOING = {
    "install": "sending the runner",
    "check": "comparing files",
    "receive": "sending models",
    "start": "starting the job",
    "follow": "measuring",
    "result": "fetching the result",
    "remove": "deleting the job",
    "clean": "cleaning up",
}

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

Payload = bytes | Path


class _BrokenError(Exception):
    """The connection failed in a way that may pass."""


class _NoBundleError(Exception):
    """The machine does not have the runner."""


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What a job gave, as far as it can be believed."""

    format: int
    fingerprint: dict[str, Any]
    blocks: tuple[Any, ...] = ()
    conditions: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if _machine(self.fingerprint) is None:
            raise ConfigError(f"fingerprint must tell 'id' and 'cpu' in short, not {shown(self.fingerprint)}")
        values = [value for each in self.conditions for value in each.values()]
        if not all(value is None or isinstance(value, int | float) for value in values):
            raise ConfigError(f"conditions must be numbers, not {shown(self.conditions)}")


def _machine(fingerprint: Any) -> str | None:
    """The ``id`` of a fingerprint; ``None`` if it is none."""
    is_one = isinstance(fingerprint, dict) and all(isinstance(fingerprint.get(key), str) for key in ("id", "cpu"))
    return fingerprint["id"] if is_one and len(json.dumps(fingerprint)) <= MAX_FINGERPRINT_BYTES else None


@dataclass(frozen=True, kw_only=True)
class Ssh(Host):
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

    takes_settings: ClassVar[bool] = True

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

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        self._push({})
        name = f"fingerprint-{secrets.token_hex(8)}"
        return self._run(name, {"setting": asdict(setting)}, FINGERPRINT_SECONDS, lambda lines: None).fingerprint

    def time(self, job: Job) -> TimingResult:
        """See :meth:`ofa.hardware.transports.Host.time`; blocks arrive while the job runs.

        A job that this process left behind, by a crash or Ctrl-C, is taken up again.
        """
        models = job.models
        runtime = RUNTIMES[job.setting.runtime]()
        files = {name: _files(name, model, runtime) for name, model in models.items()}
        anchor = _files("anchor", job.anchor, runtime)
        blocks: dict[tuple[str, int], TimedBlock] = {
            (block.name, block.number): block for block in job.done if block.name in models
        }
        request = {
            "setting": asdict(job.setting),
            "models": {name: f"../../{file.path}" for name, (file, *_) in files.items()},
            "anchor": f"../../{anchor[0].path}",
            "num_blocks": dict(job.num_blocks),
            "block_seconds": job.block_seconds,
        }
        name = _sha256(json.dumps([request, _sha256(build_bundle())], sort_keys=True).encode())[:16]
        # One duration of each is enough to tell which blocks are good.
        done = [blocks[key]._replace(durations_ns=blocks[key].durations_ns[:1]) for key in sorted(blocks)]
        request |= {"seed": int(job.rng.integers(1 << 31)), "done": done}
        self._push({file.path: file for group in (*files.values(), anchor) for file in group})
        arrived: set[tuple[str, int]] = set()

        def keep(lines: Sequence[str]) -> None:
            for line in lines:
                block = self._block(line, job)
                key = (block.name, block.number)
                arrived.add(key)
                if key in blocks:
                    continue
                blocks[key] = block
                job.on_block(block)

        result = self._run(name, request, self._job_seconds(job), keep)
        self._check_result(result, job, arrived, {name for name, _ in blocks})
        return TimingResult(blocks=list(blocks.values()), conditions=result.conditions)

    def clean(self) -> None:
        """Stop what runs there, and delete what was sent there."""
        self._ask("clean", {})

    def _job_seconds(self, job: Job) -> float:
        if self.job_seconds is not None:
            return self.job_seconds
        num_blocks = sum(map(max_blocks, job.num_blocks.values()))
        per_block = BLOCK_SECONDS + BLOCK_FACTOR * job.block_seconds
        loading = (1 + len(job.models)) * LOAD_SECONDS
        return MAX_COOLING_SECONDS + MAX_WAIT_SECONDS + loading + num_blocks * per_block

    def _push(self, files: Mapping[str, _File]) -> None:
        """Send what is not there yet, or not whole."""
        answer = self._ask("check", {"files": {path: file.sha256 for path, file in files.items()}})
        if not answer["numpy"]:
            raise HostError(
                f"{self.python} on {self.address} has no numpy; install it there with: {self.python} -m pip install "
                f"numpy, or name another one as `python`"
            )
        for batch in _batches([file for path, file in files.items() if path in answer["missing"]]):
            num_bytes = sum(file.num_bytes for file in batch)
            self._ask(
                "receive",
                {"files": [[file.path, file.sha256, file.num_bytes] for file in batch]},
                payload=[file.source for file in batch],
                seconds=self.answer_seconds + num_bytes / MIN_BYTES_PER_SECOND,
            )

    def _run(self, name: str, job: Mapping[str, Any], seconds: float, keep: Callable[[Sequence[str]], None]) -> _Result:
        """Have a job done, and give its result; one that was there already must be of this machine as it is now.

        Args:
            keep: Takes each new line of its blocks.
        """
        start = {"id": name, "job": job, "python": self.python}
        if self._ask("start", start)["state"] == "finished" and job.get("models"):  # a fingerprint is always a new job
            was, now = self._ask("result", {"id": name})["result"], self.fingerprint(Setting(**job["setting"]))
            if _machine(was.get("fingerprint")) != now["id"]:
                self._ask("remove", {"id": name})
                self._ask("start", start)
        deadline, num_restarts = time.monotonic() + seconds, 0
        # It moves on, so that a new connection goes on where an old one broke.
        position: dict[str, Any] = {"id": name, "offset": 0, "header": ""}

        def hear(answer: Mapping[str, Any]) -> None:
            lines, offset = list(answer.get("lines", ())), answer.get("offset", position["offset"])
            if type(offset) is not int or offset < position["offset"] or not all(type(line) is str for line in lines):
                raise HostError(f"{self.address} sent lines that are none: {shown(answer)}; clean it")
            if time.monotonic() > deadline + self.answer_seconds:
                raise HostError(f"{self.address} goes on talking after {seconds:.0f} s; see what runs there")
            if lines and not position["offset"]:
                position["header"] = lines.pop(0)
            position["offset"] = offset
            keep(lines)

        while True:
            look = position["seconds"] = max(0.0, min(FOLLOW_SECONDS, deadline - time.monotonic()))
            answer = self._ask("follow", position, seconds=look + self.answer_seconds, hear=hear)
            if answer["state"] == "finished":
                break
            if answer["state"] == "changed":
                raise HostError(f"{self.address} has changed while it measured (other software); start again")
            if answer["state"] == "dead":
                num_restarts += 1
                if num_restarts > MAX_RESTARTS:
                    raise HostError(
                        f"the runner on {self.address} has ended {num_restarts} times without a result, it last said: "
                        f"{answer['log'] or 'nothing'}; see {self.folder}/jobs/{name} there"
                    )
                self._ask("start", start)
            elif time.monotonic() >= deadline:
                self._ask("remove", {"id": name})
                raise HostError(
                    f"{self.address} has not finished in {seconds:.0f} s; see what else runs there, or set "
                    "`job_seconds`"
                )
        return self._result(name)

    def _result(self, name: str) -> _Result:
        """What a job gave, whose folder is deleted then."""
        plain = self._ask("result", {"id": name})["result"]
        with contextlib.suppress(HostError):  # all is measured; a folder left behind harms nobody
            self._ask("remove", {"id": name})
        if plain.get("format") != FORMAT:
            raise HostError(
                f"{self.address} gave a result of format {shown(plain.get('format'))}, not {FORMAT}; clean it"
            )
        error = plain.get("error")
        if isinstance(error, dict):
            raise ERRORS.get(str(error.get("type")), HostError)(f"{self.address}: {str(error.get('message'))[:2000]}")
        try:
            return from_mapping(_Result, plain, where=f"the result of {self.address}")
        except ConfigError as error:
            raise HostError(f"{error}; clean it") from None

    def _block(self, line: str, job: Job) -> TimedBlock:
        """A block, if it is one of those that were asked for."""
        try:
            block = TimedBlock.from_json(parse_json(line))
        except ValueError as error:
            raise HostError(f"{self.address} sent no block ({error}): {line[:80]!r}; clean it") from None
        durations = block.durations_ns
        if block.name not in job.models:
            raise HostError(f"{self.address} sent a block of {shown(block.name)}, which nobody asked for; clean it")
        most = 2 * max_blocks(job.num_blocks[block.name]) + len(job.done)
        if block.number >= most:
            raise HostError(f"{self.address} sent block {shown(block.number)} of {block.name!r} of {most}; clean it")
        if max(durations) >= MAX_NS:
            raise HostError(f"{self.address} sent durations of {block.name!r} that are none; clean it")
        if len(durations) > 1000 + MAX_RUNS_PER_SECOND * job.block_seconds:
            raise HostError(f"{self.address} sent {len(durations)} durations of {block.name!r}, too many; clean it")
        if max(block.before_ns, block.after_ns, block.at_s) >= MAX_NS:
            raise HostError(f"{self.address} sent an anchor around {block.name!r} that is none; clean it")
        return block

    def _check_result(self, result: _Result, job: Job, arrived: set[tuple[str, int]], timed: set[str]) -> None:
        """Hold the result against the blocks that came one by one."""
        named = [self._block(json.dumps(block), job) for block in result.blocks]
        if {(block.name, block.number) for block in named} != arrived or len(named) != len(arrived):
            raise HostError(f"{self.address} sent {len(arrived)} blocks and a result of {len(named)}; start again")
        if timed != job.models.keys():
            raise HostError(f"{self.address} measured {len(timed)} of {len(job.models)} models; start again")

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
        digest = _sha256(bundle)
        arguments = [self.folder, bundle_name(digest), digest, name]
        command = f"{_quoted(self.python)} -c {shlex.join([BOOT, *arguments])}"
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


@dataclass(frozen=True)
class _File:
    """A file by its content.

    Args:
        path: Where it is, from the folder of the machine on; some runtimes tell formats by the suffix.
    """

    source: Payload
    sha256: str
    path: str

    @property
    def num_bytes(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


def _files(name: str, model: Model, runtime: Runtime) -> list[_File]:
    """A model, and what the runtime looks for beside it: the weights of an OpenVINO IR, what trtexec has to know."""

    def sha256(model: Model, suffix: str) -> str:
        return sha256_to_send(name, model, suffix, to="another machine")

    stem = digest = sha256(model, runtime.format)
    source: Payload = model if isinstance(model, bytes) else Path(model)
    suffix, beside = f".{runtime.format}", dict[str, Payload]()
    if isinstance(source, Path) and source.suffix in OTHER_SUFFIXES:
        suffix = source.suffix
        if suffix == ".xml":
            beside[".bin"] = source.with_suffix(".bin")
            # Graphs of an IR are alike where only weights differ, so that both give the name.
            stem = _sha256(f"{digest} {sha256(beside['.bin'], 'bin')}".encode())
    if isinstance(runtime, TrtExec):
        with naming(name):
            beside[ENDS_SUFFIX] = ends_file(model)
    others = [_File(data, sha256(data, end[1:]), f"models/{stem}{end}") for end, data in beside.items()]
    return [_File(source, digest, f"models/{stem}{suffix}"), *others]


def _batches(files: Iterable[_File]) -> Iterator[list[_File]]:
    """As many files at a time as one connection is to carry, so that little is sent again if it breaks."""
    batch: list[_File] = []
    for file in files:
        if batch and sum(each.num_bytes for each in batch) + file.num_bytes > BATCH_BYTES:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _send(stream: IO[bytes], payload: Iterable[Payload]) -> None:
    """Write and close; if nobody reads to the end, the status of ssh says why."""
    with contextlib.suppress(BrokenPipeError), stream:
        for part in payload:
            if isinstance(part, bytes):
                stream.write(part)
                continue
            with part.open("rb") as file:
                shutil.copyfileobj(file, stream)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _quoted(path: str) -> str:
    """For the remote shell, which is to do nothing with it but find the home directory."""
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)
