"""Against a stand-in for the client of Qualcomm AI Hub, and against that itself, without its service, where it is."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from torch import nn

from ofa.config import ConfigError
from ofa.errors import UsageError
from ofa.formats.onnx import export_for_timing
from ofa.hardware import load_device, measure, profile
from ofa.hardware.journal import Journal
from ofa.hardware.runner import Job
from ofa.hardware.runtimes import ModelError, NotInstalledError
from ofa.hardware.timing import TimedBlock
from ofa.hardware.transports import HostError, QaiHub
from ofa.hardware.transports.qai_hub import durations_ns, with_batch
from ofa.setting import Setting
from tests.hardware.fakes import FakeSupernet, time_with_journal
from tests.hardware.transports.farm import FUNCTIONS, Farm, State, behind_the_real_client, stand_in

LITERT = Setting(runtime="litert")
MODELS = {"small": b"0000TFL3" + b"x" * 92, "large": b"0000TFL3" + b"y" * 192}  # 0.1 and 0.2 ms
ANCHOR = b"0000TFL3" + b"z" * 42
HAS_CLIENT = importlib.util.find_spec("qai_hub") is not None


@pytest.fixture(
    params=["stand-in", pytest.param("client", marks=pytest.mark.skipif(not HAS_CLIENT, reason="no qai_hub"))]
)
def face(request):
    """Of the farm: what is found as ``qai_hub``."""
    return request.param


@pytest.fixture
def farm(face, monkeypatch):
    farm = Farm()
    if face == "client":
        behind_the_real_client(farm, importlib.import_module("qai_hub"), monkeypatch)
    else:
        monkeypatch.setitem(sys.modules, "qai_hub", stand_in(farm))
    return farm


@pytest.fixture
def settings(tmp_path):
    return {"device": "Samsung Galaxy S24", "folder": str(tmp_path / "kept"), "poll_seconds": 0.001, "retries": 2}


@pytest.fixture
def host(settings):
    return QaiHub(**settings)


def job_of(models=MODELS, num_blocks=2, anchor=ANCHOR, setting=LITERT, **changes):
    return Job(
        models=models,
        setting=setting,
        anchor=anchor,
        rng=np.random.default_rng(0),
        num_blocks=dict.fromkeys(models, num_blocks),
        block_seconds=0.02,
        **changes,
    )


def keys(blocks):
    return sorted((block.name, block.number) for block in blocks)


def called(model, number=""):
    """The beginning of the names that a model's jobs have on the farm."""
    return f"ofa {hashlib.sha256(model).hexdigest()[:8]} {number}"


def wanted(models=MODELS, num_blocks=2):
    return sorted((name, number) for name in models for number in range(num_blocks))


def test_a_block_is_a_job(farm, host):
    heard, said = [], []
    result = host.time(job_of(on_block=heard.append, notice=said.append))
    assert keys(result.blocks) == wanted() and heard == result.blocks and not said
    names = [job.name for job in farm.jobs.values()]
    assert names[:2] == [called(ANCHOR, 0), called(ANCHOR, 1)]
    assert names[2:] == [called(MODELS[name], number) for number in (0, 1) for name in MODELS]  # far apart in time
    assert {job.options for job in farm.jobs.values()} == {"--tflite_options number_of_threads=1"}
    assert sorted(farm.models.values()) == sorted([*MODELS.values(), ANCHOR])
    table = result.latencies_ms(MODELS).set_index("name")
    assert table["latency_ms_p50"].tolist() == pytest.approx([0.1, 0.2], abs=0.001)
    assert table["num_runs"].tolist() == [160, 160]  # two jobs of a hundred runs, of which the first fifth warms up
    assert {(block.before_ns, block.after_ns) for block in result.blocks} == {(50_000.0, 50_000.0)}
    assert result.states_for(MODELS).kind == "steady" and result.repeatability_percent(list(MODELS)).max() < 1
    assert not list(Path(host.folder).iterdir())


def test_so_many_at_a_time(farm, settings):
    models = {f"m{number}": b"0000TFL3" + bytes(number + 10) for number in range(20)}
    QaiHub(**settings, max_in_flight=3).time(job_of(models))
    assert farm.most_under_way == 3 and len(farm.jobs) == 42


def test_a_farm_that_takes_no_more_is_given_less(farm, host):
    farm.capacity = 2
    assert keys(host.time(job_of(num_blocks=4)).blocks) == wanted(num_blocks=4)
    assert farm.most_under_way == 2 and len(farm.jobs) == 12


def test_what_it_costs_is_said_before_and_too_much_is_refused(farm, settings):
    said = []
    device = dataclasses.replace(load_device("litert-1t"), host=QaiHub(**settings, max_jobs=6))
    measure_it = {"rng": np.random.default_rng(0), "progress": lambda *step: said.append(step)}
    assert device.host.cost_text(LITERT, {}) == ""
    text = "6 jobs on Samsung Galaxy S24, at least 6 minutes of phones; 16 are under way at a time"
    assert device.host.cost_text(LITERT, dict.fromkeys(MODELS, 2)) == text
    with pytest.raises(
        UsageError, match=r"2 models would take 33 jobs .*`max_jobs` of the device is 6; .*--resolution"
    ):
        device.host.time(job_of(num_blocks=11))
    with pytest.raises(UsageError, match=r"2 models would take 30 jobs on Samsung Galaxy S24, at least 30 minutes of"):
        measure(MODELS, device, rounds=10, **measure_it)
    assert not farm.models and not said
    compiled = QaiHub(**settings, target_runtime="qnn_dlc")
    assert "8 jobs on" not in compiled.cost_text(LITERT, dict.fromkeys(MODELS, 2))
    assert "6 jobs on Samsung Galaxy S24, at least 6 minutes of phones, and 3 that compile; 16" in compiled.cost_text(
        LITERT, dict.fromkeys(MODELS, 2)
    )


def test_an_interrupted_call_submits_nothing_twice(farm, host, tmp_path):
    journal, said = Journal(tmp_path / "blocks.jsonl", {}), []

    def stop(block):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        time_with_journal(host, job_of(num_blocks=3), journal, stop)
    num_before, models_before = len(farm.jobs), len(farm.models)
    assert num_before == 9 and len(journal.blocks) == 1
    (file,) = Path(host.folder).glob("*/jobs.jsonl")
    with file.open("a") as lines:
        lines.write('{"name": "small", "num')  # a process killed while it wrote
    result = time_with_journal(host, job_of(num_blocks=3, notice=said.append), journal)
    journal.close()
    assert keys(result.blocks) == wanted(num_blocks=3)
    assert (len(farm.jobs), len(farm.models)) == (num_before, models_before)
    assert said == ["9 jobs on Samsung Galaxy S24 were submitted before"]
    assert not list(Path(host.folder).iterdir())


def test_interrupted_while_the_first_are_submitted(farm, settings, monkeypatch):
    host, calls = QaiHub(**settings, max_in_flight=2), []
    look = Farm.look

    def stop(self, job_id):
        calls.append(job_id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return look(self, job_id)

    with monkeypatch.context() as patch:
        patch.setattr(Farm, "look", stop)
        with pytest.raises(KeyboardInterrupt):
            host.time(job_of())
    assert [job.name for job in farm.jobs.values()] == [called(ANCHOR, 0), called(ANCHOR, 1)]
    assert keys(host.time(job_of()).blocks) == wanted()
    assert len(farm.jobs) == 6


def test_measuring_the_same_again_measures_it_anew(farm, host):
    host.time(job_of())
    host.time(job_of())
    assert len(farm.jobs) == 12


def test_blocks_that_the_journal_holds_are_not_measured(farm, host):
    done = [TimedBlock("small", 1, (7,) * 5, (), 40.0, 40.0, 1.0), TimedBlock("of another call", 0, (1,))]
    result = host.time(job_of(done=done))
    assert keys(result.blocks) == wanted()
    assert len(farm.jobs) == 3  # without the anchor, whose reading is there
    assert {block.before_ns for block in result.blocks} == {40.0}
    everything = [TimedBlock(name, number, (7,) * 5) for name, number in wanted()]
    assert host.time(job_of(done=everything)).blocks == everything and len(farm.jobs) == 3


def test_a_job_that_fails_is_named_and_submitted_again(farm, host):
    farm.broken.add(called(MODELS["large"]))
    with pytest.raises(
        ModelError, match=r"large: a job on Samsung Galaxy S24 failed \(Failed to profile the model"
    ) as told:
        host.time(job_of())
    assert "jobs/j3" in str(told.value) and "the same command submits it again" in str(told.value)
    farm.broken.clear()
    before = len(farm.jobs)
    assert keys(host.time(job_of()).blocks) == wanted()
    assert len(farm.jobs) == before + 2  # those of this model


def test_a_farm_that_forgets_a_job(farm, host):
    def stop(block):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.time(job_of(on_block=stop))
    farm.jobs.clear()
    with pytest.raises(HostError, match=r"refuses \(.*could not be found.*delete .*kept.*submitted anew"):
        host.time(job_of())


def test_without_a_token(farm, host, face, monkeypatch, tmp_path):
    farm.has_token = False
    if face == "client":
        monkeypatch.setattr(sys.modules["qai_hub"].hub._global_client, "_config", None)
        monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    with pytest.raises(HostError, match=r"does not know who asks \(Failed to load.*run `qai-hub configure --api_token"):
        host.fingerprint(LITERT)


def test_without_the_client(host, monkeypatch):
    monkeypatch.setitem(sys.modules, "qai_hub", None)
    with pytest.raises(NotInstalledError, match=r"pip install 'ofa-toolkit\[qai-hub\]'"):
        host.fingerprint(LITERT)


def test_a_client_that_is_too_old(host, monkeypatch):
    module = stand_in(Farm())
    module.__version__ = "0.30.0"
    module.submit_inference_job = lambda model, device, inputs, name=None, options="", retry=True: None
    monkeypatch.setitem(sys.modules, "qai_hub", module)
    with pytest.raises(NotInstalledError, match=r"qai_hub 0\.30\.0 is older than 0\.56"):
        host.fingerprint(LITERT)


def test_a_farm_that_is_away_for_a_moment_is_asked_again(farm, host):
    farm.hiccups = 2
    assert host.fingerprint(LITERT)["machine"] == "Samsung Galaxy S24"
    farm.hiccups = 10
    with pytest.raises(
        HostError, match=r"does not answer, after 3 tries \(.*unavailable right now.*what was submitted"
    ):
        host.time(job_of())


def test_a_farm_on_which_nothing_ends_is_given_up(farm, settings):
    farm.pace = 10**9
    with pytest.raises(HostError, match="none of 2 jobs on Samsung Galaxy S24 has ended for 1e-06 h"):
        QaiHub(**settings, patience_hours=1e-6).time(job_of())


def test_the_fingerprint_is_that_of_the_kind(farm, host, settings):
    found = host.fingerprint(LITERT)
    assert found["cpu"] == "qualcomm-snapdragon-8gen3" and found["system"] == "android 14"
    assert host.fingerprint(LITERT)["id"] == found["id"]
    for other in ({"os": "9"}, {"device": "Google Pixel 8"}, {"options": ("--compute_unit npu",)}):
        assert QaiHub(**{**settings, **other}).fingerprint(LITERT)["id"] != found["id"]
    with pytest.raises(HostError, match="has no 'Nokia 3310' with system 1; see `qai-hub list-devices`"):
        QaiHub(**{**settings, "device": "Nokia 3310", "os": "1"}).fingerprint(LITERT)


def test_options_and_threads_reach_the_job(farm, settings):
    setting = dataclasses.replace(LITERT, threads=4)
    QaiHub(**settings, options=("--compute_unit cpu",)).time(job_of(setting=setting))
    words = {job.options for job in farm.jobs.values()}
    assert words == {"--tflite_options number_of_threads=4 --compute_unit cpu"}
    farm.jobs.clear()
    own = "--tflite_options number_of_threads=2;enable_fallback=false"
    QaiHub(**settings, options=(own,)).time(job_of(setting=setting))
    assert {job.options for job in farm.jobs.values()} == {own}


def make_onnx(width=4):
    return export_for_timing(nn.Conv2d(3, width, 3).eval(), (3, 8, 8))


def free_onnx(tmp_path):
    path = tmp_path / "free.onnx"
    batch = torch.export.Dim("batch")
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    settings = {"dynamo": True, "dynamic_shapes": [{0: batch}], "verbose": False, "external_data": False}
    torch.onnx.export(module, (torch.zeros(2, 3, 8, 8),), path, **settings)
    return path.read_bytes()


def test_the_farm_compiles_if_it_is_asked_to(farm, settings):
    models = {"a": make_onnx(4), "b": make_onnx(5)}
    host = QaiHub(**settings, target_runtime="qnn_dlc")
    result = host.time(job_of(models, anchor=make_onnx(2), setting=Setting(runtime="onnxruntime")))
    assert keys(result.blocks) == wanted(models)
    compiled = [job for job in farm.jobs.values() if job.is_compile]
    assert [job.options for job in compiled] == ["--target_runtime qnn_dlc"] * 3
    assert {job.model_id for job in farm.profiles.values()} == {job.target_id for job in compiled}
    assert {job.options for job in farm.profiles.values()} == {"--onnx_options intra_op_num_threads=1"}


def test_a_free_batch_is_settled_before_it_is_sent(farm, host, tmp_path):
    free = free_onnx(tmp_path)
    (first,) = onnx.load_from_string(free).graph.input
    assert first.type.tensor_type.shape.dim[0].dim_param
    setting = Setting(runtime="onnxruntime", batch=5)
    host.time(job_of({"free": free}, anchor=make_onnx(), setting=setting))
    sent = [data for data in farm.models.values() if len(onnx.load_from_string(data).graph.node) > 1]
    session = onnxruntime.InferenceSession(sent[0], providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert entry.shape == [5, 3, 8, 8]
    images = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    (found,) = session.run(None, {entry.name: images})
    (expected,) = onnxruntime.InferenceSession(free, providers=["CPUExecutionProvider"]).run(None, {entry.name: images})
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    fixed = make_onnx()
    assert with_batch(fixed, 3) == fixed
    with pytest.raises(ModelError, match="broken: it is not a valid ONNX model"):
        host.time(job_of({"broken": b"\x08"}, anchor=make_onnx(), setting=setting))


def test_a_whole_table(farm, settings, tmp_path, capsys):
    (tmp_path / "s24.yaml").write_text(
        yaml.safe_dump({"runtime": "onnxruntime", "host": {"name": "qai-hub", "max_jobs": 40, **settings}})
    )
    steps = []

    def table(**changes):
        return profile(
            FakeSupernet(),
            load_device(tmp_path / "s24.yaml"),
            csv_path=tmp_path / "tables" / "fake.csv",
            rng=np.random.default_rng(0),
            num_fit=3,
            num_held_out=4,
            force=True,
            progress=lambda *step: steps.append(step),
            **changes,
        )

    with pytest.raises(UsageError, match="16 models would take 68 jobs on Samsung Galaxy S24, at least 68 minutes"):
        table()
    assert not steps  # nothing was exported for it
    found = table(rounds=2)
    assert len(farm.jobs) == 2 * 16 + 2  # empty graph, eight parts, seven subnets; anchor
    assert (found.entries["num_runs"] == 160).all() and found.details["blocks_of_a_model"] == [2, 2]
    assert found.fingerprint["cpu"] == "qualcomm-snapdragon-8gen3"
    assert steps[0] == (
        0,
        0,
        "34 jobs on Samsung Galaxy S24, at least 34 minutes of phones; 16 are under way at a time",
    )
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("setting", "changes", "message"),
    [
        ({"runtime": "openvino"}, {}, "unknown runtime of Qualcomm AI Hub 'openvino'.*onnxruntime, litert"),
        ({"cool_below_c": 40.0}, {}, "cool_below_c is not for a farm"),
        ({}, {"target_runtime": "qnn_dlc"}, "target_runtime 'qnn_dlc' is for ONNX files"),
    ],
)
def test_what_a_farm_cannot_do_is_refused(settings, setting, changes, message):
    host = QaiHub(**settings, **changes)
    with pytest.raises(ConfigError, match=message):
        host.fingerprint(dataclasses.replace(LITERT, **setting))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": ""}, "device must not be empty"),
        ({"max_jobs": 0}, "max_jobs must be positive, not 0"),
        ({"max_in_flight": -1}, "max_in_flight must be positive, not -1"),
    ],
)
def test_settings_are_checked(settings, wrong, message):
    with pytest.raises(ConfigError, match=message):
        QaiHub(**{**settings, **wrong})


def test_times_of_runs_are_microseconds():
    def profile_of(**summary):
        return {"execution_summary": summary, "execution_detail": []}

    assert durations_ns(profile_of(all_inference_times=[900, 300, 301, 302, 300]), "x") == (
        300_000,
        301_000,
        302_000,
        300_000,
    )
    assert durations_ns(profile_of(all_inference_times=[], estimated_inference_time=417), "x") == (417_000,)
    assert durations_ns(profile_of(estimated_inference_time=417), "x") == (417_000,)
    for wrong in (
        {},
        None,
        profile_of(),
        profile_of(all_inference_times=[1, -1]),
        profile_of(all_inference_times=[1, None]),
        profile_of(all_inference_times=[10**10]),
        profile_of(all_inference_times=7),
        {"execution_summary": [1]},
    ):
        with pytest.raises(HostError, match="farm/jobs/j1 tells no times of runs"):
            durations_ns(wrong, "farm/jobs/j1")


def test_jobs_have_a_phone_each(host):
    assert host.machine != host.machine


@pytest.mark.skipif(not HAS_CLIENT, reason="no qai_hub")
def test_the_stand_in_has_what_the_client_has():
    real, ours = importlib.import_module("qai_hub"), stand_in(Farm())
    for name in FUNCTIONS:
        known = inspect.signature(getattr(real, name)).parameters
        assert set(inspect.signature(getattr(ours, name)).parameters) <= set(known), name
    for name in ("Error", "UserError", "InternalError", "Device", "Model", "JobStatus", "CompileJob", "InferenceJob"):
        members = {each for each in vars(getattr(ours, name)) if not each.startswith("_")}
        assert members <= set(dir(getattr(real, name))) | set(getattr(real, name).__annotations__), name
    assert issubclass(real.client.RateLimitedError, real.Error) and issubclass(real.UserError, real.Error)
    assert {state.name for state in State} <= {state.name for state in real.JobStatus.State}
