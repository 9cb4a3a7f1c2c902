"""A machine that our own runner is sent to, however it is reached: what is asked of it, and what of it is believed.

It needs Python, numpy and the runtime, and nothing of this package: see :mod:`ofa.hardware.transports.bundle` for what
is sent there, and :mod:`ofa.hardware.transports.remote` for the requests that it answers. A job goes on there whatever
becomes of the connection, or of this process. Its name follows from what it measures, so whoever asks for the same
again finds it running, finished, or to be resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ofa.config import ConfigError, from_mapping
from ofa.errors import shown
from ofa.files import FORMAT, parse_json
from ofa.hardware.runner import ERRORS, Job
from ofa.hardware.runtimes import RUNTIMES, Model, Runtime
from ofa.hardware.runtimes.session import naming
from ofa.hardware.runtimes.trtexec import ENDS_SUFFIX, TrtExec, ends_file
from ofa.hardware.timing import TimedBlock, TimingResult, max_blocks
from ofa.hardware.transports.bundle import build_bundle
from ofa.hardware.transports.host import Host, HostError, sha256_to_send
from ofa.setting import Setting

FOLLOW_SECONDS = 60.0  # one look at a running job
BATCH_BYTES = 32 << 20
OTHER_SUFFIXES = (".xml", ".engine")  # of files that a runtime takes beside those of its format
MIN_BYTES_PER_SECOND = 50_000
MAX_FINGERPRINT_BYTES = 1 << 16
MAX_NS = 10**14  # a day
MAX_RUNS_PER_SECOND = 10**6

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

Payload = bytes | Path


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job gave, as far as it can be believed."""

    format: int
    fingerprint: dict[str, Any]
    blocks: tuple[Any, ...] = ()
    conditions: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if machine_id(self.fingerprint) is None:
            raise ConfigError(f"fingerprint must tell 'id' and 'cpu' in short, not {shown(self.fingerprint)}")
        values = [value for each in self.conditions for value in each.values()]
        if not all(value is None or isinstance(value, int | float) for value in values):
            raise ConfigError(f"conditions must be numbers, not {shown(self.conditions)}")


def machine_id(fingerprint: Any) -> str | None:
    """The ``id`` of a fingerprint; ``None`` if it is none."""
    is_one = isinstance(fingerprint, dict) and all(isinstance(fingerprint.get(key), str) for key in ("id", "cpu"))
    return fingerprint["id"] if is_one and len(json.dumps(fingerprint)) <= MAX_FINGERPRINT_BYTES else None


class SentRunner(Host):
    """A machine that measures by our runner.

    Attributes:
        max_restarts: Of a job that ends without a result.
        python: Interpreter there that has numpy and the runtime, 3.10 or later; ``~/`` is the home directory there.
        folder: What is sent there, and what runs, is kept in it; see :meth:`clean`.
        answer_seconds: Until a request other than a measurement is answered.
    """

    takes_settings: ClassVar[bool] = True
    max_restarts: ClassVar[int] = 2

    python: str
    folder: str
    answer_seconds: float

    @property
    def called(self) -> str:
        """What messages call it."""
        raise NotImplementedError

    def _ask(
        self,
        name: str,
        request: Mapping[str, Any],
        *,
        payload: Sequence[Payload] = (),
        seconds: float | None = None,
        hear: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Make a request, and give its last answer.

        Args:
            name: A key of :data:`DOING`.
            payload: What follows the request.
            seconds: Until it is answered.
            hear: Called with each answer.
        """
        raise NotImplementedError

    def _job_seconds(self, job: Job) -> float:
        """What a job may take at most."""
        raise NotImplementedError

    def _name(self, request: Mapping[str, Any]) -> str:
        """What a job is called: the same for the same, by the same runner."""
        return sha256_of(json.dumps([request, sha256_of(build_bundle())], sort_keys=True).encode())[:16]

    def _start_text(self, name: str, state: str) -> str:
        """What whoever waits should know of a job that was asked for."""
        return ""

    def _expected(self, setting: Setting) -> Mapping[str, Any] | None:
        """The fingerprint of the machine without which a job is not to be done."""
        return None

    def time(self, job: Job) -> TimingResult:
        """See :meth:`ofa.hardware.transports.Host.time`; blocks arrive while the job runs.

        A job that this process left behind, by a crash or Ctrl-C, is taken up again.
        """
        models = job.models
        runtime = RUNTIMES[job.setting.runtime]()
        files = {name: sent_files(name, model, runtime) for name, model in models.items()}
        anchor = sent_files("anchor", job.anchor, runtime)
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
        name = self._name(request)
        # One duration of each is enough to tell which blocks are good.
        done = [blocks[key]._replace(durations_ns=blocks[key].durations_ns[:1]) for key in sorted(blocks)]
        request |= {"seed": int(job.rng.integers(1 << 31)), "done": done, "machine": self._expected(job.setting)}
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

        result = self._run(name, request, self._job_seconds(job), keep, job.notice)
        self._check_result(result, job, arrived, {name for name, _ in blocks})
        return TimingResult(blocks=list(blocks.values()), conditions=result.conditions)

    def clean(self) -> None:
        """Stop what runs there, and delete what was sent there."""
        self._ask("clean", {})

    def _push(self, files: Mapping[str, SentFile]) -> None:
        """Send what is not there yet, or not whole."""
        answer = self._ask("check", {"files": {path: file.sha256 for path, file in files.items()}})
        if not answer["numpy"]:
            raise HostError(
                f"{self.python} on {self.called} has no numpy; install it there with: {self.python} -m pip install "
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

    def _run(
        self,
        name: str,
        job: Mapping[str, Any],
        seconds: float,
        keep: Callable[[Sequence[str]], None] = lambda lines: None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> Result:
        """Have a job done, and give its result; one that was there already must be of this machine as it is now.

        Args:
            keep: Takes each new line of its blocks.
            notice: Takes what is to be known of each start.
        """
        start = {"id": name, "job": job, "python": self.python}

        def begin() -> str:
            state = str(self._ask("start", start)["state"])
            if text := self._start_text(name, state):
                notice(text)
            return state

        if begin() == "finished" and job.get("models"):  # a fingerprint is not asked for to be compared with itself
            was, now = self._ask("result", {"id": name})["result"], self.fingerprint(Setting(**job["setting"]))
            if machine_id(was.get("fingerprint")) != now["id"]:
                self._ask("remove", {"id": name})
                begin()
        deadline, num_restarts = time.monotonic() + seconds, 0
        # It moves on, so that a new connection goes on where an old one broke.
        position: dict[str, Any] = {"id": name, "offset": 0, "header": ""}

        def hear(answer: Mapping[str, Any]) -> None:
            lines, offset = list(answer.get("lines", ())), answer.get("offset", position["offset"])
            if type(offset) is not int or offset < position["offset"] or not all(type(line) is str for line in lines):
                raise HostError(f"{self.called} sent lines that are none: {shown(answer)}; clean it")
            if time.monotonic() > deadline + self.answer_seconds:
                raise HostError(f"{self.called} goes on talking after {seconds:.0f} s; see what runs there")
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
                raise HostError(f"{self.called} has changed while it measured (other software); start again")
            if answer["state"] == "dead":
                num_restarts += 1
                if num_restarts > self.max_restarts:
                    raise HostError(
                        f"the runner on {self.called} has ended {num_restarts} times without a result, it last said: "
                        f"{answer['log'] or 'nothing'}; see {self.folder}/jobs/{name} there"
                    )
                begin()
            elif time.monotonic() >= deadline:
                self._ask("remove", {"id": name})
                raise HostError(
                    f"{self.called} has not finished in {seconds:.0f} s; see what else runs there, or set `job_seconds`"
                )
        return self._result(name)

    def _result(self, name: str) -> Result:
        """What a job gave, whose folder is deleted then."""
        plain = self._ask("result", {"id": name})["result"]
        with contextlib.suppress(HostError):  # all is measured; a folder left behind harms nobody
            self._ask("remove", {"id": name})
        if plain.get("format") != FORMAT:
            raise HostError(
                f"{self.called} gave a result of format {shown(plain.get('format'))}, not {FORMAT}; clean it"
            )
        error = plain.get("error")
        if isinstance(error, dict):
            raise ERRORS.get(str(error.get("type")), HostError)(f"{self.called}: {str(error.get('message'))[:2000]}")
        try:
            return from_mapping(Result, plain, where=f"the result of {self.called}")
        except ConfigError as error:
            raise HostError(f"{error}; clean it") from None

    def _block(self, line: str, job: Job) -> TimedBlock:
        """A block, if it is one of those that were asked for."""
        try:
            block = TimedBlock.from_json(parse_json(line))
        except ValueError as error:
            raise HostError(f"{self.called} sent no block ({error}): {line[:80]!r}; clean it") from None
        durations = block.durations_ns
        if block.name not in job.models:
            raise HostError(f"{self.called} sent a block of {shown(block.name)}, which nobody asked for; clean it")
        most = 2 * max_blocks(job.num_blocks[block.name]) + len(job.done)
        if block.number >= most:
            raise HostError(f"{self.called} sent block {shown(block.number)} of {block.name!r} of {most}; clean it")
        if max(durations) >= MAX_NS:
            raise HostError(f"{self.called} sent durations of {block.name!r} that are none; clean it")
        if len(durations) > 1000 + MAX_RUNS_PER_SECOND * job.block_seconds:
            raise HostError(f"{self.called} sent {len(durations)} durations of {block.name!r}, too many; clean it")
        if max(block.before_ns, block.after_ns, block.at_s) >= MAX_NS:
            raise HostError(f"{self.called} sent an anchor around {block.name!r} that is none; clean it")
        return block

    def _check_result(self, result: Result, job: Job, arrived: set[tuple[str, int]], timed: set[str]) -> None:
        """Hold the result against the blocks that came one by one."""
        named = [self._block(json.dumps(block), job) for block in result.blocks]
        if {(block.name, block.number) for block in named} != arrived or len(named) != len(arrived):
            raise HostError(f"{self.called} sent {len(arrived)} blocks and a result of {len(named)}; start again")
        if timed != job.models.keys():
            raise HostError(f"{self.called} measured {len(timed)} of {len(job.models)} models; start again")


@dataclass(frozen=True)
class SentFile:
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


def sent_files(name: str, model: Model, runtime: Runtime) -> list[SentFile]:
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
            stem = sha256_of(f"{digest} {sha256(beside['.bin'], 'bin')}".encode())
    if isinstance(runtime, TrtExec):
        with naming(name):
            beside[ENDS_SUFFIX] = ends_file(model)
    others = [SentFile(data, sha256(data, end[1:]), f"models/{stem}{end}") for end, data in beside.items()]
    return [SentFile(source, digest, f"models/{stem}{suffix}"), *others]


def _batches(files: Iterable[SentFile]) -> Iterator[list[SentFile]]:
    """As many files at a time as one connection is to carry, so that little is sent again if it breaks."""
    batch: list[SentFile] = []
    for file in files:
        if batch and sum(each.num_bytes for each in batch) + file.num_bytes > BATCH_BYTES:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def quoted(path: str) -> str:
    """For the remote shell, which is to do nothing with it but find the home directory."""
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)
