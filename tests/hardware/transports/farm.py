"""A stand-in for Qualcomm AI Hub: a farm, and its client's names, states and units as of version 0.56.

The real client can be put before the same farm where it is installed: :func:`behind_the_real_client`.
"""

from __future__ import annotations

import datetime
import enum
import types
from dataclasses import dataclass, field

NUM_RUNS = 100
WARM_UP_RUNS = 10  # that take three times as long


@dataclass
class FarmJob:
    model_id: str
    name: str
    options: str
    is_compile: bool = False
    target_id: str = ""
    num_looks: int = 0
    is_over: bool = False


@dataclass
class Farm:
    """What runs a model takes a microsecond for each of its bytes.

    Args:
        pace: Looks at a job until it is over.
        broken: Names of models (of their jobs, rather) that fail.
        capacity: Jobs that it takes at a time.
        hiccups: Calls that fail from now on.
    """

    pace: int = 3
    broken: set[str] = field(default_factory=set)
    capacity: int = 1000
    hiccups: int = 0
    has_token: bool = True
    models: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, FarmJob] = field(default_factory=dict)
    most_under_way: int = 0
    devices: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("Samsung Galaxy S24", "14", ("os:android", "format:phone", "chipset:qualcomm-snapdragon-8gen3")),
        ("Samsung Galaxy S24", "9", ("os:android", "format:phone", "chipset:qualcomm-snapdragon-8gen3")),
        ("Google Pixel 8", "14", ("os:android",)),
    )

    @property
    def profiles(self):
        return {job_id: job for job_id, job in self.jobs.items() if not job.is_compile}

    def num_under_way(self):
        return sum(not job.is_over for job in self.profiles.values())

    def add_model(self, data):
        model_id = f"m{len(self.models)}"
        self.models[model_id] = data
        return model_id

    def submit(self, job):
        job_id = f"j{len(self.jobs)}"
        if job.is_compile:
            job.target_id = self.add_model(self.models[job.model_id])
        self.jobs[job_id] = job
        self.most_under_way = max(self.most_under_way, self.num_under_way())
        return job_id

    def look(self, job_id):
        """State and reason of failure."""
        job = self.jobs[job_id]
        job.num_looks += 1
        job.is_over = job.num_looks >= self.pace
        if not job.is_over:
            return ("CREATED", "PROVISIONING_DEVICE", "MEASURING_PERFORMANCE")[min(job.num_looks, 3) - 1], None
        if any(job.name.startswith(name) for name in self.broken):
            return "FAILED", "Failed to profile the model because memory usage exceeded device limits."
        return "SUCCESS", None

    def runs_us(self, job_id):
        us = len(self.models[self.jobs[job_id].model_id])
        return [3 * us] * WARM_UP_RUNS + [us + number % 2 for number in range(NUM_RUNS - WARM_UP_RUNS)]


# -- the stand-in for the client ---------------------------------------------------------------------------------------


class Error(Exception):
    pass


class UserError(Error):
    pass


class InternalError(Error):
    pass


class RateLimitedError(Error):
    pass


class State(enum.Enum):
    SUCCESS = 10
    FAILED = 30
    CREATED = 1
    PROVISIONING_DEVICE = 60
    MEASURING_PERFORMANCE = 70


@dataclass
class JobStatus:
    state: State
    message: str | None = None

    @property
    def code(self):
        return self.state.name

    @property
    def success(self):
        return self.state is State.SUCCESS

    @property
    def failure(self):
        return self.state is State.FAILED


@dataclass
class Device:
    name: str = ""
    os: str = ""
    attributes: list[str] = field(default_factory=list)


@dataclass
class Model:
    model_id: str


class Job:
    def __init__(self, client, job_id):
        self._client, self.job_id, self.url = client, job_id, f"farm/jobs/{job_id}/"

    def get_status(self):
        self._client.check()
        state, message = self._client.farm.look(self.job_id)
        return JobStatus(State[state], message)


class InferenceJob(Job):
    def download_profile(self, filename=None):
        self._client.check()
        runs_us = self._client.farm.runs_us(self.job_id)
        summary = {"estimated_inference_time": min(runs_us), "all_inference_times": runs_us}
        return {"execution_summary": summary, "execution_detail": []}


class CompileJob(Job):
    def get_target_model(self):
        return Model(self._client.farm.jobs[self.job_id].target_id)


class Client:
    """Its functions are those of the module."""

    def __init__(self, farm):
        self.farm = farm

    def check(self):
        if not self.farm.has_token:
            raise UserError(
                "Failed to load client configuration file.\n┌──┐\n| No such file: ~/.qai_hub/client.ini |\n└──┘"
            )
        if self.farm.hiccups:
            self.farm.hiccups -= 1
            raise InternalError("Internal API failure.\n┌──┐\n| Qualcomm AI Hub is unavailable right now. |\n└──┘")

    def set_verbose(self, verbose=True):
        self.check()

    def get_devices(self, name="", os="", attributes=None):
        self.check()
        found = [Device(*each[:2], list(each[2])) for each in self.farm.devices]
        return [each for each in found if name in ("", each.name) and os in ("", each.os)]

    def upload_model(self, model, name=None, project=None):
        self.check()
        assert model.endswith((".onnx", ".tflite")), "the client tells formats by it"
        with open(model, "rb") as file:
            return Model(self.farm.add_model(file.read()))

    def get_model(self, model_id):
        self.check()
        return Model(model_id)

    def _submit(self, model, device, **facts):
        self.check()
        assert isinstance(model, Model) and isinstance(device, Device)
        if self.farm.num_under_way() >= self.farm.capacity:
            raise RateLimitedError("Too many jobs.")
        return self.farm.submit(FarmJob(model_id=model.model_id, **facts))

    def submit_compile_job(
        self,
        model,
        device,
        name=None,
        input_specs=None,
        options="",
        single_compile=True,
        calibration_data=None,
        retry=True,
        project=None,
    ):
        assert not retry, "it would wait, and print, of its own"
        return CompileJob(self, self._submit(model, device, name=name, options=options, is_compile=True))

    def submit_inference_job(
        self, model, device, inputs=None, name=None, options="", retry=True, profile=True, project=None
    ):
        assert profile and inputs is None and not retry
        return InferenceJob(self, self._submit(model, device, name=name, options=options))

    def get_job(self, job_id, job_type=None):
        self.check()
        if job_id not in self.farm.jobs:
            raise UserError(f"Job {job_id} could not be found.")
        return InferenceJob(self, job_id)


FUNCTIONS = (
    "set_verbose",
    "get_devices",
    "upload_model",
    "get_model",
    "submit_compile_job",
    "submit_inference_job",
    "get_job",
)


def stand_in(farm):
    """A module to be found as ``qai_hub``."""
    module, client = types.ModuleType("qai_hub"), Client(farm)
    module.__version__ = "0.56.0"
    module.client = types.SimpleNamespace(RateLimitedError=RateLimitedError)
    for each in (Error, UserError, InternalError, Device, Model, JobStatus, CompileJob, InferenceJob):
        setattr(module, each.__name__, each)
    for name in FUNCTIONS:
        setattr(module, name, getattr(client, name))
    return module


# -- the real client ---------------------------------------------------------------------------------------------------


def behind_the_real_client(farm, module, monkeypatch):
    """Put a farm in the place of the service that the client speaks to: what it sends and gets is as on the wire."""
    from qai_hub import public_api_pb2 as pb
    from qai_hub import public_rest_api as api

    def check(config):
        if farm.hiccups:
            farm.hiccups -= 1
            raise api.APIException(status_code=503)

    def answer(identifier):
        found = pb.CreateUpdateResponse(id=identifier)
        found.creation_time.FromDatetime(datetime.datetime(2026, 1, 1))
        return found

    def get_device_list(config, name="", os="", attributes=None, select=False):
        check(config)
        found = pb.DeviceList()
        rows = [row for row in farm.devices if name in ("", row[0]) and os in ("", row[1])]
        for row in rows[:1] if select else rows:
            found.devices.append(
                pb.Device(name=row[0], os=row[1], attributes=[*row[2], "framework:onnx", "framework:tflite"])
            )
        return found

    def create_and_upload_model(config, path, **_):
        check(config)
        with open(path, "rb") as file:
            return answer(farm.add_model(file.read()))

    def create(config, job, is_compile):
        check(config)
        if farm.num_under_way() >= farm.capacity:
            raise api.APIException(status_code=429)
        device = job.devices.devices[0] if is_compile else job.device
        assert (device.name, device.os) == ("Samsung Galaxy S24", "14")
        assert is_compile or job.is_profiling_on
        return answer(farm.submit(FarmJob(job.model.model_id, job.name, job.options, is_compile=is_compile)))

    def pb_of(job_id, state, reason):
        job = farm.jobs[job_id]
        found = pb.Job()
        own = found.compile_job if job.is_compile else found.inference_job
        setattr(own, "compile_job_id" if job.is_compile else "inference_job_id", job_id)
        own.name, own.options, own.model.model_id = job.name, job.options, job.model_id
        own.job_state = getattr(pb, f"JOB_STATE_{'DONE' if state == 'SUCCESS' else state}")
        own.failure_reason = reason or ""
        if job.is_compile:
            own.target_model.model_id = job.target_id
        else:
            own.is_profiling_on = True
        return found

    def get_job(config, job_id):
        check(config)
        if job_id not in farm.jobs:
            raise api.APIException(message='{"detail": "Job could not be found."}', status_code=404)
        if farm.jobs[job_id].is_compile:
            return pb_of(job_id, "CREATED", None)
        return pb_of(job_id, *farm.look(job_id))

    def get_job_results(config, job_id):
        check(config)
        found = pb.JobResult()
        detail = found.inference_job_result.detail
        detail.major_version, detail.minor_version = 1, 8
        runs_us = farm.runs_us(job_id)
        detail.execution_time = min(runs_us)
        detail.all_execution_times.extend(runs_us)
        return found

    monkeypatch.setattr(module.hub._global_client, "_config", None)
    if farm.has_token:
        monkeypatch.setattr(module.hub._global_client, "_config", module.ClientConfig("token"))
    functions = {
        "get_device_list": get_device_list,
        "create_and_upload_model": create_and_upload_model,
        "create_compile_job": lambda config, job, project_id=None: create(config, job, True),
        "create_inference_job": lambda config, job, project_id=None: create(config, job, False),
        "get_job": get_job,
        "get_job_results": get_job_results,
        "get_model": lambda config, model_id: pb.Model(model_id=model_id, model_type=pb.MODEL_TYPE_ONNX),
    }
    for name, function in functions.items():
        monkeypatch.setattr(api, name, function)
    return module
