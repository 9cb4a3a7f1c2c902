"""A phone that is reached by adb: no Python there, but the benchmark program of its runtime.

Each block is one start of that program, so longer blocks than usual (``block_seconds``) cost hardly more time.

* ``executorch``: ``executor_runner``, which reports each run in the system's log and nowhere else, in lines such as
  ``Iteration 1 of 9: 0.7 ms``. A line of our own before each start tells its lines from older ones.
* ``onnxruntime``: ``onnxruntime_perf_test``, which writes the time of each run to a file, with six digits.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import secrets
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ofa.config import ConfigError
from ofa.files import sha256_of_file
from ofa.hardware.fingerprint import GOVERNOR, identified
from ofa.hardware.runner import Job, time_in_turn
from ofa.hardware.runtimes import RUNTIMES, Model, ModelError, NotInstalledError
from ofa.hardware.timing import WARM_UP_SHARE, SystemClock, TimingResult
from ofa.hardware.transports.host import Host, HostError, sha256_to_send
from ofa.hardware.transports.listening import MAX_OUTPUT_BYTES, answer_of
from ofa.setting import Setting

MIN_WARM_UP_RUNS = 2
MAX_FREQ = re.compile(r"/cpu(\d{1,3})/cpufreq/scaling_max_freq:(\d{1,9})$", re.MULTILINE)
MAX_RUNS = 1000  # in one block: the system's log holds some thousand lines
MAX_TRIES = 4
MAX_REPORTS = 3
PUSH_BYTES_PER_SECOND = 500_000
MAX_VALUE_CHARACTERS = 300
MAX_NS = 10**14  # a day
MARK = "ofa status "
PROPERTIES = {
    "model": "ro.product.model",
    "board": "ro.board.platform",
    "soc": "ro.soc.model",
    "machine": "ro.product.cpu.abi",
    "android": "ro.build.version.release",
    "build": "ro.build.id",
}
CANNOT_START = (126, 127)
LINKER = "CANNOT LINK EXECUTABLE"


@dataclass
class AdbBurst:
    """A :class:`~ofa.hardware.runtimes.session.Burst`: one call starts the benchmark program once.

    The program counts runs, not seconds, so that the time of a run, once known, decides how many there are.
    """

    name: str
    path: str
    program: str
    phone: Phone
    threads: int
    host: Adb
    run_ns: float | None = field(default=None, init=False)

    def command(self, num_runs: int, token: str) -> str:
        """For the shell of the phone; ``token`` is a word that belongs to this call only."""
        raise NotImplementedError

    @staticmethod
    def read_ns(output: str, num_runs: int, token: str) -> list[int]:
        """Nanoseconds of each run; ``ValueError`` if the output does not have all of them."""
        raise NotImplementedError

    def durations_ns(self, block_ns: int, min_runs: int) -> list[int]:
        if self.run_ns is None:
            self._start(min_runs + MIN_WARM_UP_RUNS, block_ns)
        assert self.run_ns is not None
        num_timed = max(min_runs, math.ceil(block_ns / self.run_ns))
        num_warm_up = max(MIN_WARM_UP_RUNS, math.ceil(WARM_UP_SHARE * num_timed))
        num_runs = max(min(num_timed + num_warm_up, MAX_RUNS), min_runs + MIN_WARM_UP_RUNS)
        return self._start(num_runs, block_ns)[min(num_warm_up, num_runs - min_runs) :]

    def _start(self, num_runs: int, block_ns: int) -> list[int]:
        """Durations of so many runs; if the report is not whole the program is started again, a few times at most."""
        file = Path(self.program).name
        environment = f"export LD_LIBRARY_PATH={shlex.quote(str(Path(self.program).parent))}; "
        pin = f"taskset -p {self.host.cpu_mask} $$ >/dev/null; " if self.host.cpu_mask else ""
        seconds = self.host.block_limit_seconds + 10 * block_ns / 1e9
        said = ""
        for _ in range(MAX_REPORTS):
            token = f"ofa-{secrets.token_hex(8)}"
            command = self.command(num_runs, token)
            status, output = self.phone.call(environment + pin + command, seconds)
            if status in CANNOT_START or LINKER in output:
                raise NotInstalledError(
                    f"{self.program} does not start on {self.phone.serial} ({_last_line(output, token)}); build it for "
                    "the phone's ABI, and name the libraries that it needs as `libraries`"
                )
            if status:
                message = _last_line(output, token)
                raise ModelError(f"{self.name}: {file} fails with status {status} ({message}); export it again")
            try:
                durations = self.read_ns(output, num_runs, token)
            except ValueError as error:
                said = str(error)
                continue
            self.run_ns = max(1.0, float(np.median(durations)))
            return durations
        raise HostError(f"{file} on {self.phone.serial} has reported, for {self.name}, {said}")


class ExecutorRunner(AdbBurst):
    """ExecuTorch's ``examples/portable/executor_runner``."""

    def command(self, num_runs: int, token: str) -> str:
        run = [self.program, f"--model_path={self.path}"]
        run += [f"--num_executions={num_runs}", f"--cpu_threads={self.threads}"]
        # Built without Android's log it writes to standard error, so both are read. The log needs a moment.
        return (
            f"log -p i -t ExecuTorch {token}; {shlex.join([*run, '--print_output=none'])} 2>&1; status=$?; "
            f"sleep 0.3; echo {token}; logcat -d -v raw -s ExecuTorch:I; (exit $status)"
        )

    @staticmethod
    def read_ns(output: str, num_runs: int, token: str) -> list[int]:
        printed, _, log = output.partition(token)
        ours = printed + log.partition(token)[2]  # the log may have lost the line that tells what is ours: then nothing
        found = re.findall(r"\bIteration (\d+) of (\d+): ([0-9.]+) ms", ours)
        if not found and "Model executed successfully" in ours:
            raise ValueError("only the sum of all runs; build it from a newer ExecuTorch, which reports each")
        if not found:
            raise ValueError("no run; build it with EXECUTORCH_ENABLE_LOGGING")
        if [(int(number), int(of)) for number, of, _ in found] != [(n + 1, num_runs) for n in range(num_runs)]:
            raise ValueError(f"{len(found)} lines for {num_runs} runs")
        return [_ns(float(ms) * 1e6) for _, _, ms in found]


class PerfTest(AdbBurst):
    """ONNX Runtime's ``onnxruntime_perf_test``."""

    def command(self, num_runs: int, token: str) -> str:
        result = f"{self.path}.{token}"
        run = [self.program, "-m", "times", "-r", str(num_runs), "-x", str(self.threads), "-y", "1", "-o", "99", "-I"]
        run += [*(["-D"] if self.threads > 1 else []), self.path, result]  # -D: waiting threads do not spin
        file = shlex.quote(result)
        return f"{shlex.join(run)} 2>&1; status=$?; echo {token}; cat {file}; rm -f {file}; (exit $status)"

    @staticmethod
    def read_ns(output: str, num_runs: int, token: str) -> list[int]:
        lines = [line.rsplit(",", 4) for line in output.rpartition(token)[2].splitlines() if line.strip()]
        if [line[4].strip() for line in lines if len(line) == 5] != [str(number) for number in range(num_runs)]:
            raise ValueError(f"{len(lines)} lines for {num_runs} runs")
        return [_ns(float(line[1]) * 1e9) for line in lines]


BENCHMARKS: dict[str, type[AdbBurst]] = {"executorch": ExecutorRunner, "onnxruntime": PerfTest}
"""By the runtime of the device."""


@dataclass(frozen=True, kw_only=True)
class Adb(Host):
    """Measured by the runtime's own benchmark program, over the ``adb`` program of this machine.

    Args:
        program: Path of the benchmark program, on this machine or, if it is not here, on the phone.
        libraries: Paths on this machine of shared libraries that it needs; they are put beside it.
        serial: As ``adb devices`` lists it; not needed where there is only one phone.
        folder: What is sent there is kept in it; see :meth:`clean`.
        cpu_mask: Cores to run on, as ``taskset`` takes them: ``f0`` are the fifth to the eighth.
        answer_seconds: Until a request other than a block is answered.
        block_limit_seconds: Until a block is finished, besides ten times its length.
    """

    program: str
    libraries: tuple[str, ...] = ()
    serial: str | None = None
    folder: str = "/data/local/tmp/ofa"
    cpu_mask: str = ""
    answer_seconds: float = 60.0
    block_limit_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.folder.startswith("/") or self.folder.rstrip("/") == "":
            raise ConfigError(f"folder must be an absolute path on the phone, not {self.folder!r}")
        if not re.fullmatch("[0-9a-fA-F]*", self.cpu_mask):
            raise ConfigError(f"cpu_mask must be hexadecimal, such as 'f0', not {self.cpu_mask!r}")

    @property
    def machine(self) -> object:
        return "adb", self.serial

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        _benchmark(setting)
        phone = self._phone()
        program = self._push_program(phone)
        words = [f'echo "{name}=$(getprop {key})"' for name, key in PROPERTIES.items()]
        words += ['echo "cores=$(nproc)"', f'echo "governor=$(cat {GOVERNOR} 2>/dev/null)"']
        words += ['echo "kernel=$(uname -r)"', f'echo "program=$(sha256sum < {shlex.quote(program)})"']
        words += ["grep -m 1 Hardware /proc/cpuinfo || true"]
        lines = phone.shell("; ".join(words)).splitlines()
        found = {
            key: value.strip()[:MAX_VALUE_CHARACTERS]
            for key, equals, value in (line.partition("=") for line in lines)
            if equals
        }
        if lacking := {*PROPERTIES, "cores", "governor", "kernel", "program"} - set(found):
            raise HostError(f"{phone.serial} does not tell its {', '.join(sorted(lacking))}; see `adb shell getprop`")
        hardware = [line.partition(":")[2].strip() for line in lines if line.startswith("Hardware")]
        cpu = " ".join(filter(None, [found["soc"] or found["board"], *hardware]))
        stable = {
            "cpu": cpu or found["model"],
            "cores": int(found["cores"]) if re.fullmatch("[0-9]{1,4}", found["cores"]) else None,
            "machine": found["machine"],
            "system": f"Android {found['android']}",
            "governor": found["governor"] or None,
            "runtime": {"name": setting.runtime, "program": found["program"].split(" ")[0][:12]},
            "precision": setting.precision,
            "batch": setting.batch,
            "threads": setting.threads,
            "model": found["model"],
            "board": found["board"],
            "build": found["build"],
            "cpu_mask": self.cpu_mask,
        }
        return identified(stable, kernel=found["kernel"], conditions=phone.conditions())

    def time(self, job: Job) -> TimingResult:
        """See :meth:`ofa.hardware.transports.Host.time`; this process starts each block."""
        setting = job.setting
        benchmark = _benchmark(setting)
        phone = self._phone()
        program = self._push_program(phone)
        suffix = RUNTIMES[setting.runtime]().format
        there = phone.hashes(f"{self.folder}/models")

        def burst(name: str, model: Model) -> AdbBurst:
            path = self._push_model(phone, name, model, suffix, there)
            return benchmark(name, path, program, phone, setting.threads, self)

        clock = SystemClock(setting.threads, on_cpu=False, clock_mhz=partial(phone.highest_mhz, self.cpu_mask))
        return time_in_turn(job, burst, clock=clock, conditions=phone.conditions, look_seconds=5)

    def clean(self) -> None:
        """Delete what was sent there."""
        phone = self._phone()
        phone.shell(f"rm -rf {shlex.quote(self.folder)}/models {shlex.quote(self.folder)}/program-*")

    def _phone(self) -> Phone:
        return Phone(find_serial(self.serial, self.answer_seconds), self.answer_seconds)

    def _push_program(self, phone: Phone) -> str:
        """The path of the program there, after it was sent if it is one of this machine."""
        if not Path(self.program).expanduser().is_file():
            if not self.program.startswith("/") or phone.call(f"test -x {shlex.quote(self.program)}")[0]:
                raise NotInstalledError(
                    f"no program {self.program}, neither here nor on {phone.serial}; build it for Android and name its "
                    "path as `program`"
                )
            return self.program
        paths = [Path(path).expanduser() for path in (self.program, *self.libraries)]
        for path in paths:
            if not path.is_file():
                raise NotInstalledError(f"no library {path}; name those that {paths[0].name} needs as `libraries`")
        digests = {path: sha256_of_file(path) for path in paths}
        whole = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
        folder = f"{self.folder}/program-{whole[:12]}"
        there = phone.hashes(folder)
        for path, digest in digests.items():
            if there.get(path.name) != digest:
                phone.push(path, f"{folder}/{path.name}", digest)
        program = f"{folder}/{paths[0].name}"
        phone.shell(f"chmod 755 {shlex.quote(program)}")
        return program

    def _push_model(self, phone: Phone, name: str, model: Model, suffix: str, there: dict[str, str]) -> str:
        digest = sha256_to_send(name, model, suffix, to="a phone")
        file = f"{digest}.{suffix}"
        path = f"{self.folder}/models/{file}"
        if there.get(file) != digest:
            if isinstance(model, bytes):
                with tempfile.TemporaryDirectory() as folder:
                    source = Path(folder, file)
                    source.write_bytes(model)
                    phone.push(source, path, digest)
            else:
                phone.push(Path(model), path, digest)
            there[file] = digest
        return path


@dataclass(frozen=True)
class Phone:
    """A phone that answers, by the serial that ``adb devices`` lists."""

    serial: str
    answer_seconds: float

    def call(self, command: str, seconds: float | None = None) -> tuple[int, str]:
        """Status and output of a command of its shell, which is run again if the connection breaks.

        The status is printed, since adb does not pass it on from old phones.
        """
        said = ""
        for _ in _tries():
            words = ["-s", self.serial, "shell", f"{command}; ofa=$?; echo; echo {MARK}$ofa"]
            done = _adb(words, seconds or self.answer_seconds)
            output, mark, status = done.stdout.rpartition(MARK)
            if mark and re.fullmatch(r"\s*[0-9]{1,3}\s*", status):
                return int(status), output
            said = _said(done)
        raise HostError(
            f"{self.serial} does not answer adb, after {MAX_TRIES} tries: {said}; plug it in again, and see "
            "`adb devices`"
        )

    def shell(self, command: str) -> str:
        """Output of a command that must not fail."""
        status, output = self.call(command)
        if status:
            raise HostError(f"{self.serial}: {command[:80]!r} fails with status {status}: {_last_line(output)}")
        return output

    def hashes(self, folder: str) -> dict[str, str]:
        """sha256 of each file of a folder there, by its name."""
        output = self.call(f"cd {shlex.quote(folder)} 2>/dev/null && sha256sum * 2>/dev/null")[1]
        found = (re.fullmatch(r"([0-9a-f]{64})  (.+)", line.strip()) for line in output.splitlines())
        return {match[2]: match[1] for match in found if match}

    def push(self, source: Path, path: str, digest: str) -> None:
        """Send a file; it has its name only once it has arrived whole."""
        seconds = self.answer_seconds + source.stat().st_size / PUSH_BYTES_PER_SECOND
        part = f"{path}.part"
        self.shell(f"mkdir -p {shlex.quote(str(Path(path).parent))}")
        said = ""
        for _ in _tries():
            done = _adb(["-s", self.serial, "push", str(source), part], seconds)
            if done.returncode:
                said = _said(done)
            elif self.shell(f"sha256sum {shlex.quote(part)}").split()[:1] == [digest]:
                self.shell(f"mv {shlex.quote(part)} {shlex.quote(path)}")
                return
            else:
                said = "it arrived damaged"
        raise HostError(
            f"{source.name} cannot be sent to {self.serial}, after {MAX_TRIES} tries: {said}; see how much room "
            f"{Path(path).parent} has there"
        )

    def conditions(self) -> dict[str, Any]:
        """Charge and temperature of the battery at this moment; ``None`` where the phone does not tell."""
        fields: dict[str, str] = {}
        for line in self.call("dumpsys battery")[1].splitlines():
            key, colon, value = line.strip().partition(": ")
            if colon:
                fields.setdefault(key, value.strip())
        level, scale, tenths = (_number(fields.get(key)) for key in ("level", "scale", "temperature"))
        powered = [value for key, value in fields.items() if key.endswith(" powered")]
        return {
            "battery_percent": 100 * level / scale if level is not None and scale else None,
            "temperature_c": tenths / 10 if tenths is not None else None,
            "charging": "true" in powered if powered else None,
        }

    def highest_mhz(self, cpu_mask: str = "") -> float | None:
        """What the fastest of these cores may run at now: less while the phone throttles; ``None`` if it does not tell.

        The clock itself falls as soon as a program has ended, before it can be asked for.
        """
        mask = int(cpu_mask, 16) if cpu_mask else -1
        said = self.call("grep -H . /sys/devices/system/cpu/cpu*/cpufreq/scaling_max_freq")[1]
        khz = [float(value) for core, value in MAX_FREQ.findall(said) if mask >> int(core) & 1]
        return max(khz) / 1000 if khz else None


def _tries() -> Iterator[None]:
    """A few, each after twice the pause of the one before."""
    for number in range(MAX_TRIES):
        if number:
            time.sleep(0.5 * 2**number)
        yield


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]


def find_serial(wanted: str | None, seconds: float) -> str:
    """The phone to use; :class:`HostError` if there is none, or several, or one that does not let us in."""
    done = _adb(["devices"], seconds)
    if done.returncode:
        raise HostError(f"adb devices fails: {done.stderr.strip() or done.stdout.strip()}; try `adb kill-server`")
    rows = [line.split(None, 1) for line in done.stdout.partition("List of devices attached")[2].splitlines()]
    states = {row[0]: row[1].strip() for row in rows if len(row) == 2}
    if not states:
        raise HostError("adb finds no phone; plug it in, and turn on USB debugging in its developer options")
    if wanted is None and len(states) > 1:
        raise HostError(f"adb finds several phones; name one as `serial`: {', '.join(states)}")
    serial = wanted or next(iter(states))
    if serial not in states:
        raise HostError(f"adb finds no phone {serial!r}, but {', '.join(states)}; plug it in, or name another `serial`")
    if states[serial] == "unauthorized":
        raise HostError(f"{serial} does not let this machine in; allow USB debugging on its screen")
    if states[serial] != "device":
        raise HostError(f"{serial} is {states[serial]!r}; plug it in again, and see `adb devices`")
    return serial


def _adb(arguments: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    remedy = "install Android's platform-tools"
    return answer_of(["adb", *arguments], seconds, remedy=remedy, max_bytes=MAX_OUTPUT_BYTES)


def _benchmark(setting: Setting) -> type[AdbBurst]:
    if setting.runtime not in BENCHMARKS:
        raise ConfigError(f"runtime {setting.runtime!r} cannot be measured over adb; choices: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[setting.runtime]


def _last_line(output: str, token: str | None = None) -> str:
    """What a program said last, besides our own words."""
    lines = [line.strip() for line in output.splitlines()]
    lines = [line for line in lines if line and line != token and not line.startswith("--------- beginning of")]
    return lines[-1][:300] if lines else "it prints nothing"


def _number(text: str | None) -> float | None:
    with contextlib.suppress(ValueError, TypeError):
        if math.isfinite(number := float(text)):  # type: ignore[arg-type]
            return number
    return None


def _ns(value: float) -> int:
    """Nanoseconds of a run, as a phone says; :class:`ValueError` if no run takes that long."""
    if not 0 <= value < MAX_NS:
        raise ValueError(f"a run of {value:g} ns")
    return round(value)
