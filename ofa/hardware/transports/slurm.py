"""A compute node of a Slurm cluster that shares a folder with this machine, from which jobs are submitted.

What the runner needs lies in that folder, which both see under one path; a job of Slurm does there what is done on a
machine behind ssh. It waits in the queue, and runs, whatever becomes of this process.
"""

from __future__ import annotations

import contextlib
import getpass
import io
import math
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from ofa.config import ConfigError
from ofa.files import atomic_path, parse_json, write_json_atomic, write_text_atomic
from ofa.hardware.runner import AnotherMachineError, Job
from ofa.hardware.timing import TimingResult
from ofa.hardware.transports import remote
from ofa.hardware.transports.bundle import build_bundle, bundle_name
from ofa.hardware.transports.host import HostError
from ofa.hardware.transports.listening import answer_of
from ofa.hardware.transports.sent_runner import Payload, SentRunner, machine_id, quoted, sha256_of
from ofa.setting import Setting

FINGERPRINT_MINUTES = 5
FINGERPRINT_DAYS = 7
SHARING_SECONDS = 45.0  # until what a node has written is seen here: NFS keeps for a while what it knows of a folder
MAX_PAUSE_SECONDS = 60.0
NUMBER = "slurm"  # in the folder of a job: what Slurm calls it
WAITING = "PENDING,CONFIGURING,RUNNING,SUSPENDED"
LOST = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")  # by no fault of the job, which is submitted again
ENDED = (*LOST, "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT")


@dataclass(frozen=True, kw_only=True)
class Slurm(SentRunner):
    """Measured by a job of Slurm.

    Args:
        partition, constraint: As ``sbatch`` takes them: nodes of one kind.
        cpus: Cores of a node that others use at the same time; by default a node of its own.
        minutes: Until a job is ended, once it runs.
        options: Further words for ``sbatch``, such as ``--account=vision`` or ``--gres=gpu:1``.
        python: Interpreter that has numpy and the runtime, on the node; ``~/`` is the home directory there.
        folder: Where this machine and the nodes see the same; see :meth:`clean`.
        poll_seconds: Between two looks at the queue.
        answer_seconds: Until Slurm answers.
        retries: Times in a row that it may not.
    """

    is_queue: ClassVar[bool] = True
    max_restarts: ClassVar[int] = 10

    partition: str | None = None
    constraint: str | None = None
    cpus: int | None = None
    minutes: int = 60
    options: tuple[str, ...] = ()
    python: str = "python3"
    folder: str = "~/.cache/ofa/slurm"
    poll_seconds: float = 10.0
    answer_seconds: float = 60.0
    retries: int = 6

    def __post_init__(self) -> None:
        for key in ("minutes", "poll_seconds", "answer_seconds", *(() if self.cpus is None else ("cpus",))):
            if getattr(self, key) <= 0:
                raise ConfigError(f"{key} must be positive, not {getattr(self, key)}")
        for key in ("python", "folder"):
            if not getattr(self, key):
                raise ConfigError(f"{key} must not be empty")
        for word in self.options:
            if not word.startswith("-"):
                raise ConfigError(f"options must be words such as --account=vision, not {word!r}")

    @property
    def machine(self) -> object:
        """Jobs that have a node each may wait, and run, side by side."""
        return object() if self.cpus is None else ("slurm", *self._node)

    @property
    def called(self) -> str:
        return f"slurm partition {self.partition}" if self.partition else "slurm"

    @property
    def _node(self) -> tuple[str, ...]:
        """Words for ``sbatch`` that say what node is meant."""
        share = "--exclusive" if self.cpus is None else f"--cpus-per-task={self.cpus}"
        named = {"partition": self.partition, "constraint": self.constraint}
        words = [f"--{key}={value}" for key, value in named.items() if value]
        return ("--nodes=1", "--ntasks=1", share, *words, *self.options)

    @property
    def _place(self) -> Path:
        return Path(self.folder).expanduser().absolute()

    def cost_text(self, setting: Setting, num_blocks: Mapping[str, int]) -> str:
        if num_blocks:
            hours, unit = self.minutes / 60 * (self.cpus or 1), "node" if self.cpus is None else "core"
            text = f"a job on {self.called} for {self.minutes} minutes at most: {hours:.3g} {unit}-hours"
            return f"{text}, and as much again each time it loses its node"
        if self._expected(setting) is not None:
            return ""
        return f"a job on {self.called} for {FINGERPRINT_MINUTES} minutes at most tells what its nodes are, once a week"

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        """See :meth:`ofa.hardware.transports.Host.fingerprint`; asked for once a week, and held against each job."""
        known = self._expected(setting)
        if known is None:
            path = self._known_path(setting)
            known = self._run(f"fingerprint-{path.stem}", {"setting": asdict(setting)}, math.inf).fingerprint
            write_json_atomic(path, known)
        return known

    def time(self, job: Job) -> TimingResult:
        """See :meth:`ofa.hardware.transports.Host.time`.

        Raises:
            HostError: If a job was refused, cancelled, or ended by Slurm otherwise; what it measured is kept.
        """
        try:
            return super().time(job)
        except AnotherMachineError as error:
            self._known_path(job.setting).unlink(missing_ok=True)
            raise HostError(
                f"{error}: its nodes are of several kinds, or their software was changed; name one kind by "
                "`constraint`, then start again"
            ) from None

    def _job_seconds(self, job: Job) -> float:
        return math.inf  # in the queue; Slurm ends it after its `minutes`

    def _name(self, request: Mapping[str, Any]) -> str:
        return super()._name({**request, "node": [self.python, *self._node]})  # several devices may share the folder

    def _known_path(self, setting: Setting) -> Path:
        return self._place / "machines" / f"{self._name({'setting': asdict(setting)})}.json"

    def _expected(self, setting: Setting) -> dict[str, Any] | None:
        """What the nodes were found to be within the last week."""
        path = self._known_path(setting)
        try:
            known = parse_json(path.read_text(encoding="utf-8"))
            is_old = time.time() - path.stat().st_mtime > FINGERPRINT_DAYS * 86400
        except (FileNotFoundError, ValueError):
            return None
        return None if is_old or machine_id(known) is None else known

    def _start_text(self, name: str, state: str) -> str:
        if state == "finished":
            return ""
        number = (self._place / "jobs" / name / NUMBER).read_text(encoding="utf-8")
        what = "was submitted" if state == "started" else "is in the queue already"
        return f"job {number} on {self.called} {what}; Ctrl-C leaves it there, `scancel {number}` ends it"

    def _ask(
        self,
        name: str,
        request: Mapping[str, Any],
        *,
        payload: Sequence[Payload] = (),
        seconds: float | None = None,
        hear: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """As a machine is asked that is elsewhere, but by a call: the folder is here as well."""
        answers: list[Mapping[str, Any]] = []

        def say(answer: Mapping[str, Any]) -> None:
            answers.append(answer)
            if hear is not None:
                hear(answer)

        own = {"start": self._start, "follow": self._follow, "result": self._read_result, "clean": self._clean}
        data = io.BytesIO(b"".join(part if isinstance(part, bytes) else part.read_bytes() for part in payload))
        {**remote.REQUESTS, **own}[name](self._place, request, say, data)
        return dict(answers[-1])

    def _start(self, folder: Path, request: Mapping[str, Any], say: remote.Say, data: BinaryIO) -> None:
        """Submit the job ``id``, unless it waits, runs or is finished."""
        name, job = request["id"], folder / "jobs" / request["id"]
        job.mkdir(parents=True, exist_ok=True)
        waiting: list[str] = []
        if (job / "job.json").is_file():  # otherwise it is that of an earlier one, whose result was just collected
            words = f"--user={getpass.getuser()}", f"--name=ofa-{name}", f"--states={WAITING}", "--format=%A"
            waiting = [number for number in self._queue(*words) if number.isdecimal()]
        if waiting:
            write_text_atomic(job / NUMBER, max(waiting, key=int))
            say({"state": "running"})
        elif remote.is_finished(job, request["job"]):
            say({"state": "finished"})
        else:
            minutes = self.minutes if request["job"].get("models") else FINGERPRINT_MINUTES
            write_text_atomic(job / NUMBER, self._submit(folder, name, minutes))
            say({"state": "started"})

    def _submit(self, folder: Path, name: str, minutes: int) -> str:
        """The number of a new job."""
        bundle = build_bundle()
        path = folder / bundle_name(sha256_of(bundle))
        if not path.is_file() or path.read_bytes() != bundle:
            with atomic_path(path) as temporary:
                temporary.write_bytes(bundle)
        log = str(folder / "jobs" / name / "log.txt").replace("%", "%%")
        what = ("--parsable", f"--job-name=ofa-{name}", f"--time={minutes}", f"--chdir={folder}", f"--output={log}")
        # A job that Slurm itself put back into the queue could run beside the one that is submitted in its place.
        words = [*what, "--open-mode=truncate", "--no-requeue", *self._node]
        command = f"exec {quoted(self.python)} {shlex.join([str(path), str(folder), 'run', name])}"
        done = self._call("sbatch", *words, f"--wrap={command}")
        number = done.stdout.strip().partition(";")[0]
        if done.returncode or not number.isdecimal():
            raise HostError(
                f"sbatch takes no job for {self.called} ({_last_line(done)}); see the `partition`, `constraint`, "
                "`minutes` and `options` of the host"
            )
        return number

    def _follow(self, folder: Path, request: Mapping[str, Any], say: remote.Say, data: BinaryIO) -> None:
        """See :func:`ofa.hardware.transports.remote.follow_job`; :class:`HostError` if the job will have no result."""
        job = folder / "jobs" / request["id"]
        number = (job / NUMBER).read_text(encoding="utf-8")
        patience = math.inf

        def is_running() -> bool:
            nonlocal patience
            state = self._state(number)
            # A list of the folder, as NFS remembers for a while that a file was not there.
            if state in LOST or "result.json" in os.listdir(job):
                return False
            if state and state not in ENDED:
                return True
            if state in ("", "COMPLETED"):  # unless nobody knows any more
                patience = min(patience, time.monotonic() + SHARING_SECONDS)
                if time.monotonic() < patience:
                    return True
            raise HostError(self._end_text(number, state, job))

        try:
            remote.follow_job(job, request, say, is_running=is_running, look_seconds=self.poll_seconds)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"job {number} stays on {self.called}: the same command finds it again, `scancel {number}` ends it"
            ) from None

    def _end_text(self, number: str, state: str, job: Path) -> str:
        how = f"ended as {state}" if state else "is gone, and no account says how it ended"
        limit = f" after its {self.minutes} minutes" if state == "TIMEOUT" else ""
        return (
            f"job {number} on {self.called} {how}{limit}, without a result; it last said: "
            f"{remote.end_of_log(job) or 'nothing'}; what it has measured is kept in {job}, and the same command goes "
            "on from there"
        )

    def _read_result(self, folder: Path, request: Mapping[str, Any], say: remote.Say, data: BinaryIO) -> None:
        """Say the result of the job ``id``, which is believed no more than that of another machine."""
        path = folder / "jobs" / request["id"] / "result.json"
        try:
            if path.stat().st_size > remote.MAX_RESULT_BYTES:
                raise ValueError(f"it has more than {remote.MAX_RESULT_BYTES} bytes")
            result = parse_json(path.read_text(encoding="utf-8"))
            if not isinstance(result, dict):
                raise ValueError("it is no mapping")
        except ValueError as error:
            raise HostError(f"{path} is no result of a job ({error}); start again") from None
        say({"result": result})

    def _clean(self, folder: Path, request: Mapping[str, Any], say: remote.Say, data: BinaryIO) -> None:
        for number in folder.glob(f"jobs/*/{NUMBER}"):
            self._call("scancel", number.read_text(encoding="utf-8"))
        shutil.rmtree(folder / "machines", ignore_errors=True)
        remote.clean(folder, request, say, data)

    def _state(self, number: str) -> str:
        """What Slurm says of a job, by its queue or, where that has forgotten it, its accounts; nothing if by none."""
        if found := self._queue("--states=all", "--format=%T", f"--jobs={number}"):
            return found[0]
        with contextlib.suppress(HostError):  # a cluster without accounts
            words = ("--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={number}")
            done = self._call("sacct", *words)
            return "" if done.returncode else (done.stdout.split() or [""])[0]  # "CANCELLED by 1000"
        return ""

    def _queue(self, *words: str) -> list[str]:
        """The words of an answer of ``squeue``, which now and then has none: a busy controller."""
        for number in range(self.retries + 1):
            if number:
                time.sleep(min(self.poll_seconds * 2**number, MAX_PAUSE_SECONDS))
            done = self._call("squeue", "--noheader", *words)
            if not done.returncode or "Invalid job id" in done.stderr:
                return done.stdout.split()
        raise HostError(
            f"squeue does not answer ({_last_line(done)}); see `squeue` by hand, then start again: what was submitted "
            "goes on"
        )

    def _call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return answer_of(words, self.answer_seconds, remedy="run ofa where jobs of Slurm are submitted")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1][:300]
