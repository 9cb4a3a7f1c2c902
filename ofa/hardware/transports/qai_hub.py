"""Phones of a farm, Qualcomm AI Hub, by its own client: submit, look again, collect.

A job there runs one model alone, a hundred times, on some phone of the kind. So a block is a job, and nothing is timed
between blocks: the anchor is a model with jobs of its own, and tells the farm of one day from that of another. What was
submitted is written down before anything else is, so that whoever asks for the same again submits nothing twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import re
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ofa.config import ConfigError
from ofa.errors import OfaError, UsageError, shown, unknown_name_message
from ofa.files import parse_json, write_text_atomic
from ofa.hardware.fingerprint import identified
from ofa.hardware.runner import ANCHOR, Job
from ofa.hardware.runtimes import RUNTIMES, Model, ModelError, NotInstalledError
from ofa.hardware.runtimes.session import naming
from ofa.hardware.timing import ANCHOR_PERCENTILE, TimedBlock, TimingResult
from ofa.hardware.transports.host import Host, HostError, sha256_to_send
from ofa.optional import extra, require
from ofa.setting import Setting

THREADS = {
    "onnxruntime": "--onnx_options intra_op_num_threads={}",
    "litert": "--tflite_options number_of_threads={}",
}
"""By the runtimes that are there: the option that says on how many threads what stays on the CPU is computed."""

MIN_MINUTES = 1.0  # of a phone, for a job: it is found, given the model, and runs it
WARM_UP_PART = 5  # the first of so many runs
MAX_RUNS = 100_000  # of a job
MAX_RUN_US = 10**9
MAX_SAID = 300
MAX_PAUSE_SECONDS = 60.0
NOT_CONFIGURED = re.compile("configuration file|authenticate", re.IGNORECASE)

Key = tuple[str, int]
"""A job: of which model, the how many-th of it."""


@dataclass(frozen=True, kw_only=True)
class QaiHub(Host):
    """Measured on phones of Qualcomm AI Hub, one job for each block.

    Args:
        device: As ``qai-hub list-devices`` calls it.
        os: Its version; by default the latest that there is.
        target_runtime: What the farm compiles networks to first, such as ``qnn_dlc``; by default files run as they
            are, by ONNX Runtime or LiteRT.
        options: Further words for each job, such as ``--compute_unit npu``.
        max_jobs: A measurement that takes more is refused.
        max_in_flight: Jobs that are under way at a time.
        folder: Where is written down what was submitted.
        poll_seconds: Between two looks at what is under way.
        patience_hours: Until one of them ends.
        retries: Times in a row that the farm may not answer.
    """

    is_queue: ClassVar[bool] = True

    device: str
    os: str = ""
    target_runtime: str | None = None
    options: tuple[str, ...] = ()
    max_jobs: int = 1000
    max_in_flight: int = 16
    folder: str = "~/.cache/ofa/qai-hub"
    poll_seconds: float = 15.0
    patience_hours: float = 24.0
    retries: int = 6

    def __post_init__(self) -> None:
        for key in ("max_jobs", "max_in_flight", "poll_seconds", "patience_hours"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"{key} must be positive, not {getattr(self, key)}")
        for key in ("device", "folder"):
            if not getattr(self, key):
                raise ConfigError(f"{key} must not be empty")

    @property
    def machine(self) -> object:
        """Each job has a phone of its own: those of several devices are under way side by side."""
        return object()

    def cost_text(self, setting: Setting, num_blocks: Mapping[str, int]) -> str:
        if not num_blocks:
            return ""
        num_profiles = sum(num_blocks.values()) + max(num_blocks.values())  # the anchor's
        num_compiles = len(num_blocks) + 1 if self.target_runtime else 0
        text = f"{num_profiles:,} jobs on {self.device}, at least {num_profiles * MIN_MINUTES:,.0f} minutes of phones"
        text += f", and {num_compiles:,} that compile" if num_compiles else ""
        if num_profiles + num_compiles > self.max_jobs:
            raise UsageError(
                f"{len(num_blocks):,} models would take {text}, where `max_jobs` of the device is {self.max_jobs:,}; "
                "measure fewer (--resolution, --num-resolutions, --num-fit), each less often (--rounds 2), or raise it"
            )
        return f"{text}; {self.max_in_flight} are under way at a time"

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        self._check(setting)
        phone = self._phone(_Client(self))
        chips = [word.removeprefix("chipset:") for word in phone.attributes if word.startswith("chipset:")]
        systems = [word.removeprefix("os:") for word in phone.attributes if word.startswith("os:")]
        stable = {
            "cpu": " ".join(chips) or phone.name,
            "cores": None,
            "machine": phone.name,
            "system": " ".join([*systems, phone.os]),
            "governor": None,
            "runtime": {"name": setting.runtime, "target": self.target_runtime},
            "precision": setting.precision,
            "batch": setting.batch,
            "threads": setting.threads,
            "options": list(self.options),
        }
        return identified(stable, kernel="", conditions={})

    def time(self, job: Job) -> TimingResult:
        """See :meth:`ofa.hardware.transports.Host.time`; a block is there when its job has ended.

        Raises:
            UsageError: If it takes more than ``max_jobs``.
        """
        self._check(job.setting)
        self.cost_text(job.setting, job.num_blocks)
        blocks = [block for block in job.done if block.name in job.models]
        there = {(block.name, block.number) for block in blocks}
        rounds = range(max(job.num_blocks.values(), default=0))
        asked = [(name, number) for number in rounds for name in job.models if number < job.num_blocks[name]]
        keys = [key for key in asked if key not in there]
        if not keys:
            return TimingResult(blocks=blocks)
        client = _Client(self)
        farm = _Farm(self, client, self._phone(client), job)
        anchor_ns = blocks[0].after_ns if blocks else farm.anchor_ns(len(rounds))
        for (name, number), durations in farm.results(keys):
            blocks.append(TimedBlock(name, number, durations, (), anchor_ns, anchor_ns, round(time.time(), 3)))
            job.on_block(blocks[-1])
        farm.forget()
        return TimingResult(blocks=blocks)

    def _check(self, setting: Setting) -> None:
        if setting.runtime not in THREADS:
            raise ConfigError(unknown_name_message("runtime of Qualcomm AI Hub", setting.runtime, THREADS))
        if self.target_runtime and setting.runtime != "onnxruntime":
            raise ConfigError(f"target_runtime {self.target_runtime!r} is for ONNX files: runtime onnxruntime")
        if setting.cool_below_c is not None:
            raise ConfigError("cool_below_c is not for a farm, whose phones tell no temperature; leave it out")

    def _phone(self, client: _Client) -> Any:
        """The farm's device, of the latest system."""
        found = client.call(client.hub.get_devices, name=self.device, os=self.os)
        if not found:
            system = f" with system {self.os}" if self.os else ""
            raise HostError(f"Qualcomm AI Hub has no {self.device!r}{system}; see `qai-hub list-devices`")
        return max(found, key=lambda phone: [int(part) for part in re.findall("[0-9]{1,9}", phone.os)])


class _FullError(OfaError, RuntimeError):
    """The farm takes no more jobs at this moment."""


class _RefusedError(HostError):
    """The farm does not do what it was asked for."""


class _Client:
    """The farm's own client, whose errors are ours, and which is asked again if the farm does not answer."""

    def __init__(self, host: QaiHub) -> None:
        self.hub = require("qai_hub", extra("qai-hub"))
        self._host = host
        if "profile" not in inspect.signature(self.hub.submit_inference_job).parameters:
            raise NotInstalledError(
                f"qai_hub {self.hub.__version__} is older than 0.56; install it with: pip install {extra('qai-hub')}"
            )
        self.call(self.hub.set_verbose, False)  # fails without a token

    def call(self, function: Callable[..., Any], *given: Any, is_submission: bool = False, **settings: Any) -> Any:
        """What a function of the client gives.

        Raises:
            HostError: If the farm refuses, or does not answer after several tries.
            _FullError: If it takes no more now, of a submission; other calls are made again.
        """
        for number in range(self._host.retries + 1):
            if number:
                time.sleep(min(self._host.poll_seconds * 2 ** (number - 1), MAX_PAUSE_SECONDS))
            try:
                return function(*given, **settings)
            except (self.hub.UserError, ValueError) as error:
                said = _plain(error)
                if NOT_CONFIGURED.search(said):
                    raise HostError(
                        f"Qualcomm AI Hub does not know who asks ({said}); run `qai-hub configure --api_token TOKEN` "
                        "with the token that your account there shows"
                    ) from None
                raise _RefusedError(f"Qualcomm AI Hub refuses ({said})") from None
            except (self.hub.Error, OSError) as error:
                if is_submission and isinstance(error, self.hub.client.RateLimitedError):
                    raise _FullError from None
                said = _plain(error)
        raise HostError(
            f"Qualcomm AI Hub does not answer, after {self._host.retries + 1} tries ({said}); start again later: what "
            "was submitted goes on"
        )


@dataclass
class _Farm:
    """The jobs of a measurement, and a file of their numbers, which outlives this process."""

    host: QaiHub
    client: _Client
    phone: Any
    job: Job
    _jobs: dict[Key, str] = field(default_factory=dict)
    _models: dict[str, str] = field(default_factory=dict)
    _uploaded: dict[str, Any] = field(default_factory=dict)
    _ready: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() else ""
        lines = text.split("\n")[:-1]  # behind the last line end is what a killed process has begun
        for line in lines:
            with contextlib.suppress(ValueError):
                self._apply(parse_json(line))
        write_text_atomic(self._file, "".join(f"{line}\n" for line in lines))
        if self._jobs:
            self.job.notice(f"{len(self._jobs):,} jobs on {self.host.device} were submitted before")

    @cached_property
    def _digests(self) -> dict[str, str]:
        suffix = RUNTIMES[self.job.setting.runtime]().format
        models = {ANCHOR: self.job.anchor, **self.job.models}
        return {name: sha256_to_send(name, model, suffix, to="a farm") for name, model in models.items()}

    @cached_property
    def _file(self) -> Path:
        """Named after what is measured, and on what."""
        settings = (self.host.target_runtime, self.host.options, asdict(self.job.setting), dict(self.job.num_blocks))
        facts = json.dumps([self.phone.name, self.phone.os, *settings, self._digests], sort_keys=True)
        name = hashlib.sha256(facts.encode()).hexdigest()[:16]
        return Path(self.host.folder).expanduser() / name / "jobs.jsonl"

    def _apply(self, entry: Any) -> None:
        match entry:
            case {"name": str(name), "failed": True}:
                self._models.pop(name, None)
                self._jobs = {key: job_id for key, job_id in self._jobs.items() if key[0] != name}
            case {"name": str(name), "model": str(model_id)}:
                self._models[name] = model_id
            case {"name": str(name), "number": int(number), "job": str(job_id)}:
                self._jobs[name, number] = job_id

    def _note(self, **entry: Any) -> None:
        self._apply(entry)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def forget(self) -> None:
        """All is collected: whoever measures again measures anew."""
        shutil.rmtree(self._file.parent)

    def anchor_ns(self, num: int) -> float:
        found = [durations for _, durations in self.results([(ANCHOR, number) for number in range(num)])]
        return max(1.0, float(np.median([np.percentile(each, ANCHOR_PERCENTILE) for each in found])))

    def results(self, keys: Sequence[Key]) -> Iterator[tuple[Key, tuple[int, ...]]]:
        """Nanoseconds of each run of each job, as they end; as many as may be are under way at a time.

        Raises:
            ModelError: If a job fails; the next call submits those of its model again.
        """
        waiting, under_way = deque(keys), dict[Key, Any]()
        ended = time.monotonic()
        while waiting or under_way:
            while waiting and len(under_way) < self.host.max_in_flight:
                if (sent := self._submitted(waiting[0])) is None:
                    break
                under_way[waiting.popleft()] = sent
            before = len(under_way)
            for key, sent in list(under_way.items()):
                status = self.client.call(sent.get_status)
                if status.failure:
                    raise self._failure(key, sent, status)
                if status.success:
                    del under_way[key]
                    yield key, durations_ns(self.client.call(sent.download_profile), sent.url)
            if len(under_way) < before:
                ended = time.monotonic()
                continue
            if time.monotonic() > ended + 3600 * self.host.patience_hours:
                raise HostError(
                    f"none of {len(under_way)} jobs on {self.host.device} has ended for {self.host.patience_hours:g} "
                    "h; see whether the farm works, then start again: they go on"
                )
            time.sleep(self.host.poll_seconds)

    def _submitted(self, key: Key) -> Any:
        """The job, submitted unless it was before; ``None`` if the farm takes no more now."""
        name, number = key
        hub = self.client.hub
        if key in self._jobs:
            try:
                return self.client.call(hub.get_job, self._jobs[key])
            except _RefusedError as error:
                raise HostError(f"{error}; delete {self._file.parent}, so that all is submitted anew") from None
        threads = THREADS[self.job.setting.runtime].format(self.job.setting.threads)
        words = [threads] if threads.split()[0] not in " ".join(self.host.options) else []
        settings = {
            "name": f"ofa {self._digests[name][:8]} {number}",
            "options": " ".join([*words, *self.host.options]),
            "retry": False,  # it would be retried without us, and told on the screen
            "profile": True,
        }
        try:
            model = self._model(name)
            sent = self.client.call(hub.submit_inference_job, model, self.phone, is_submission=True, **settings)
        except _FullError:
            return None
        self._note(name=name, number=number, job=sent.job_id)
        return sent

    def _model(self, name: str) -> Any:
        """A model on the farm, compiled there if it is to be: that goes on while jobs wait for it."""
        hub = self.client.hub
        if name in self._ready:
            return self._ready[name]
        if name in self._models:
            self._ready[name] = self.client.call(hub.get_model, self._models[name])
            return self._ready[name]
        called = f"ofa {self._digests[name][:8]}"
        if name not in self._uploaded:
            self._uploaded[name] = self._upload(name, called)
        model = self._uploaded[name]
        if self.host.target_runtime:
            options = f"--target_runtime {self.host.target_runtime}"
            settings = {"name": called, "options": options, "retry": False}
            compiled = self.client.call(hub.submit_compile_job, model, self.phone, is_submission=True, **settings)
            model = self.client.call(compiled.get_target_model)
            if model is None:
                raise ModelError(f"{name}: {compiled.url} gave no model; see there what is wrong with it")
        self._note(name=name, model=model.model_id)
        self._ready[name] = model
        return model

    def _upload(self, name: str, called: str) -> Any:
        model: Model = self.job.anchor if name == ANCHOR else self.job.models[name]
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        suffix = RUNTIMES[self.job.setting.runtime]().format
        if suffix == "onnx":
            with naming(name):
                data = with_batch(data, self.job.setting.batch)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"model.{suffix}")  # the farm tells formats by it
            path.write_bytes(data)
            return self.client.call(self.client.hub.upload_model, str(path), name=called)

    def _failure(self, key: Key, sent: Any, status: Any) -> ModelError:
        self._note(name=key[0], failed=True)
        return ModelError(
            f"{key[0]}: a job on {self.host.device} failed ({_plain(status.message or status.code)}), see {sent.url}; "
            "the same command submits it again"
        )


def durations_ns(profile: Any, where: str) -> tuple[int, ...]:
    """Nanoseconds of each run, after those that warm up, from a profile of the farm, which has microseconds.

    Raises:
        HostError: If it does not tell any that a run may take.
    """
    summary = profile.get("execution_summary") if isinstance(profile, dict) else None
    if isinstance(summary, dict):
        runs_us = summary.get("all_inference_times") or [summary.get("estimated_inference_time")]
        if (
            isinstance(runs_us, list)
            and 0 < len(runs_us) <= MAX_RUNS
            and all(type(each) in (int, float) and 0 <= each <= MAX_RUN_US for each in runs_us)
        ):
            return tuple(round(each * 1000) for each in runs_us[len(runs_us) // WARM_UP_PART :])
    raise HostError(f"{where} tells no times of runs, but {shown(summary)}; see there what was measured")


def with_batch(data: bytes, batch: int) -> bytes:
    """An ONNX file whose batch is fixed, as the farm wants it."""
    onnx, errors = require("onnx", "onnx"), require("google.protobuf.message", "onnx")
    try:
        model = onnx.load_from_string(data)
    except errors.DecodeError as error:
        raise ModelError(f"it is not a valid ONNX model ({error}); export it again") from None
    firsts = [value.type.tensor_type.shape.dim[0] for value in model.graph.input if value.type.tensor_type.shape.dim]
    free = {first.dim_param for first in firsts if first.dim_param}
    if not free:
        return data
    tools = require("onnxruntime.tools.onnx_model_utils", "onnxruntime")
    for name in free:
        tools.make_dim_param_fixed(model.graph, name, batch)
    return bytes(model.SerializeToString())


def _plain(said: object) -> str:
    """What the client says, without the box that it draws around it."""
    return " ".join(re.sub("[\u2500-\u257f|]", " ", str(said)).split())[:MAX_SAID]
