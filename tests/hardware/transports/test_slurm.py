"""Against stand-ins for the programs of Slurm, which start each job as a process of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from torch import nn

from ofa.config import ConfigError
from ofa.formats.onnx import export_for_timing
from ofa.hardware import load_device, profile
from ofa.hardware.device import Device
from ofa.hardware.runner import Job
from ofa.hardware.runtimes import ModelError
from ofa.hardware.timing import max_blocks
from ofa.hardware.transports import HostError, Local, Slurm, slurm
from ofa.setting import Setting
from tests.hardware.fakes import FakeSupernet
from tests.hardware.transports.cluster import Cluster

QUICK = {"num_blocks": 2, "block_seconds": 0.005}
SLOW = {"num_blocks": 5, "block_seconds": 0.1}
SETTING = Setting(runtime="onnxruntime")
AGAIN = ", and as much again each time it loses its node"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster")
    monkeypatch.setenv("PATH", f"{cluster.path}:{os.environ['PATH']}")
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def models():
    return {f"conv {width}": export_for_timing(nn.Conv2d(3, width, 3).eval(), (3, 16, 16)) for width in (8, 16)}


@pytest.fixture(scope="module")
def anchor():
    return export_for_timing(nn.Conv2d(3, 4, 3).eval(), (3, 16, 16))


@pytest.fixture
def settings(tmp_path):
    """Of a host that looks often."""
    return {"python": sys.executable, "folder": str(tmp_path / "shared 100%"), "poll_seconds": 0.02, "retries": 2}


@pytest.fixture
def host(settings):
    return Slurm(**settings, partition="cpu")


@pytest.fixture
def job(models, anchor):
    def make(num_blocks=2, block_seconds=0.005, on_block=lambda block: None, **changes):
        return Job(
            models=models,
            setting=SETTING,
            anchor=anchor,
            rng=np.random.default_rng(0),
            num_blocks=dict.fromkeys(models, num_blocks),
            block_seconds=block_seconds,
            on_block=on_block,
            **changes,
        )

    return make


def keys(blocks):
    return sorted((block.name, block.number) for block in blocks)


def are_whole(blocks, models, num_blocks):
    """Each once, as many as were asked for; more where some were disturbed."""
    found, wanted = keys(blocks), {(name, number) for name in models for number in range(num_blocks)}
    return wanted <= set(found) and len(found) == len(set(found)) <= len(models) * max_blocks(num_blocks)


def folder_of_job(host):
    (folder,) = (path for path in Path(host.folder, "jobs").iterdir() if not path.name.startswith("fingerprint"))
    return folder


def test_it_measures_by_one_job_of_the_queue(cluster, settings, job, models):
    heard, said = [], []
    host = Slurm(**settings, partition="cpu", constraint="genoa", minutes=7, options=("--account=vision", "--mem=4G"))
    result = host.time(job(on_block=heard.append, notice=said.append))
    assert are_whole(result.blocks, models, 2) and heard == list(result.blocks)
    assert result.latencies_ms(models)["latency_ms_p10"].gt(0).all()
    (number,) = cluster.numbers
    words = cluster.words(number)
    for word in ("--parsable", "--time=7", "--partition=cpu", "--constraint=genoa", "--exclusive", "--nodes=1"):
        assert word in words
    assert words[-3:-1] == ["--account=vision", "--mem=4G"] and words[-1].startswith("--wrap=exec ")
    assert said == [
        f"job {number} on slurm partition cpu was submitted; Ctrl-C leaves it there, `scancel {number}` ends it"
    ]
    assert list(Path(host.folder, "jobs").iterdir()) == []
    assert sorted(path.suffix for path in Path(host.folder, "models").iterdir()) == [".onnx"] * 3


def test_cores_of_a_node_that_others_use(cluster, settings, job):
    host = Slurm(**settings, cpus=4)
    host.time(job())
    words = cluster.words(cluster.numbers[0])
    assert "--cpus-per-task=4" in words and "--exclusive" not in words


def test_what_the_nodes_are_is_asked_once_a_week(cluster, host):
    found = host.fingerprint(SETTING)
    assert found["id"] == Local().fingerprint(SETTING)["id"]
    assert host.fingerprint(SETTING) == found and len(cluster.numbers) == 1
    assert "--time=5" in cluster.words(cluster.numbers[0])
    (path,) = Path(host.folder, "machines").iterdir()
    week_ago = time.time() - 8 * 86400
    os.utime(path, (week_ago, week_ago))
    assert host.fingerprint(SETTING)["id"] == found["id"] and len(cluster.numbers) == 2
    path.write_text("damaged")
    assert host.fingerprint(SETTING)["id"] == found["id"] and len(cluster.numbers) == 3


def test_a_whole_table_takes_one_wait_for_what_is_there_and_one_to_measure(cluster, settings, tmp_path):
    (tmp_path / "node.yaml").write_text(
        yaml.safe_dump({"runtime": "onnxruntime", "host": {"name": "slurm", "partition": "cpu", **settings}})
    )
    device, steps = load_device(tmp_path / "node.yaml"), []
    table = profile(
        FakeSupernet(),
        device,
        csv_path=tmp_path / "tables" / "fake.csv",
        rng=np.random.default_rng(0),
        num_fit=3,
        num_held_out=4,
        rounds=2,
        block_seconds=0.001,
        force=True,
        progress=lambda *step: steps.append(step),
    )
    assert table.fingerprint["id"] == Local().fingerprint(SETTING)["id"]
    assert len(table.entries) == 8 and (table.entries["num_runs"] > 0).all()
    assert table.details["blocks_of_a_model"] == [2, 2]  # none are added
    assert len(cluster.numbers) == 2
    words = [what for done, total, what in steps if not total]
    _, second = cluster.numbers
    assert words[0] == "a job on slurm partition cpu for 5 minutes at most tells what its nodes are, once a week"
    assert words[1] == f"a job on slurm partition cpu for 60 minutes at most: 1 node-hours{AGAIN}"
    assert words[2].startswith(f"job {second} on slurm partition cpu was submitted")
    assert steps.index((0, 0, words[1])) < min(i for i, step in enumerate(steps) if step[2].startswith("exporting"))
    assert len([step for step in steps if step[2] == "measuring on node" and step[1]]) >= 32


def test_what_it_costs_is_told_before(settings):
    assert (
        Slurm(**settings).cost_text(SETTING, {"a": 2}) == f"a job on slurm for 60 minutes at most: 1 node-hours{AGAIN}"
    )
    shared = Slurm(**settings, cpus=8, minutes=30, partition="short")
    assert (
        shared.cost_text(SETTING, {"a": 2})
        == f"a job on slurm partition short for 30 minutes at most: 4 core-hours{AGAIN}"
    )


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
def test_a_job_that_lost_its_node_goes_on_from_its_journal(cluster, host, job, models, state):
    heard, said = [], []

    def lose(block):
        heard.append(block)
        if len(heard) == 3:
            cluster.end(state)

    result = host.time(job(**SLOW, on_block=lose, notice=said.append))
    assert are_whole(result.blocks, models, 5) and keys(heard) == keys(result.blocks)
    assert len(cluster.numbers) == len(said) == 2
    assert "--no-requeue" in cluster.words(cluster.numbers[0])


@pytest.mark.parametrize(
    ("state", "how"),
    [
        ("CANCELLED by 1000", "ended as CANCELLED, without a result; it last said: nothing"),
        ("TIMEOUT", "ended as TIMEOUT after its 60 minutes, without a result"),
        ("OUT_OF_MEMORY", "ended as OUT_OF_MEMORY, without a result"),
    ],
)
def test_a_job_that_is_ended_says_how_and_the_next_call_goes_on(cluster, host, job, models, state, how):
    first, second = [], []

    def end(block):
        first.append(block)
        if len(first) == 3:
            cluster.end(state)

    with pytest.raises(HostError, match=rf"job 101 on slurm partition cpu {how}.*the same command goes on from there"):
        host.time(job(**SLOW, on_block=end))
    result = host.time(job(**SLOW, on_block=second.append, done=list(first)))
    assert are_whole(result.blocks, models, 5)
    assert keys(first + second) == keys(result.blocks)
    durations = {(block.name, block.number): block.durations_ns for block in result.blocks}
    assert all(durations[block.name, block.number] == block.durations_ns for block in first)
    assert len(cluster.numbers) == 2


def test_a_job_that_fails_says_the_end_of_its_log(cluster, settings, job, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho ModuleNotFoundError: No module named numpy >&2\nexit 1\n")
    python.chmod(0o755)
    host = Slurm(**{**settings, "python": str(python)})
    with pytest.raises(
        HostError, match=r"ended as FAILED, without a result; it last said: ModuleNotFoundError: No mod"
    ):
        host.time(job())


def test_a_model_that_cannot_be_run_is_named(cluster, host, job):
    wrong = dataclasses.replace(job(), models={"broken": b"this is no model"}, num_blocks={"broken": 2})
    with pytest.raises(ModelError, match=r"slurm partition cpu: broken: .* is not a valid ONNX model"):
        host.time(wrong)


def test_ctrl_c_leaves_it_in_the_queue(cluster, host, job, models, monkeypatch):
    cluster.do_wrong("held")
    with monkeypatch.context() as patch:
        patch.setattr(slurm.remote.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match=r"job 101 stays on slurm partition cpu: .*`scancel 101` ends it"):
            host.time(job())
    assert cluster.read(101, "state") == "PENDING"
    cluster.mend("held")
    said = []
    assert are_whole(host.time(job(notice=said.append)).blocks, models, 2)
    assert cluster.numbers == [101]
    assert said[:1] in ([], ["job 101 on slurm partition cpu is in the queue already; Ctrl-C leaves it there, "
                             "`scancel 101` ends it"])  # fmt: skip


def test_stopped_just_after_it_was_submitted(cluster, host, job, models, monkeypatch):
    write = slurm.write_text_atomic

    def stop(path, text):
        if path.name == slurm.NUMBER:
            raise KeyboardInterrupt
        write(path, text)

    cluster.do_wrong("held")
    with monkeypatch.context() as patch:
        patch.setattr(slurm, "write_text_atomic", stop)
        with pytest.raises(KeyboardInterrupt):
            host.time(job())
    cluster.mend("held")
    assert are_whole(host.time(job()).blocks, models, 2)
    assert cluster.numbers in ([101], [101, 102])  # the latter where it was over before it was asked for again


def test_the_same_again_is_measured_anew(cluster, host, job):
    for _ in range(2):
        host.time(job())
    assert cluster.numbers == [101, 102]


def test_ctrl_c_while_it_runs_and_while_nobody_looks_it_finishes(cluster, host, job, models):
    def stop(block):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="job 101 stays on"):
        host.time(job(on_block=stop))
    cluster.wait_for(101, "COMPLETED")
    result = host.time(job())  # held against what the nodes are, which is asked for that
    assert are_whole(result.blocks, models, 2) and len(cluster.numbers) == 2


@pytest.fixture
def interruptible():
    """Where the tests run in a shell's background, which ignores SIGINT, their processes do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_command_says_what_becomes_of_the_job(cluster, settings, tmp_path):
    (tmp_path / "node.yaml").write_text(
        yaml.safe_dump({"runtime": "onnxruntime", "host": {"name": "slurm", **settings, "poll_seconds": 0.2}})
    )
    cluster.do_wrong("held")
    command = [sys.executable, "-m", "ofa", "profile", "--run", "ofa_mobilenetv3_tiny", "--device", "node.yaml"]
    with (tmp_path / "said.txt").open("w+") as file, subprocess.Popen(command, stderr=file, cwd=tmp_path) as process:
        while process.poll() is None and not cluster.numbers:
            time.sleep(0.05)
        time.sleep(2)  # by when it waits, on a busy machine too
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=100) == 130
        finally:
            process.kill()
    said = (tmp_path / "said.txt").read_text()
    text = " ".join(said.split())
    assert "tells what its nodes are" in text
    assert "interrupted; job 101 stays on slurm: the same command finds it again, `scancel 101` ends it" in text


def test_a_damaged_result_is_none(cluster, host, job, models, monkeypatch):
    def stop(block):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.time(job(on_block=stop))
    cluster.wait_for(101, "COMPLETED")
    path = folder_of_job(host) / "result.json"
    for damaged, why in (("{", "Expecting"), ("[1]", "no mapping"), ('{"format": NaN}', "no finite number")):
        path.write_text(damaged)
        with pytest.raises(HostError, match=f"result.json is no result of a job .*{why}"):
            host._ask("result", {"id": path.parent.name})
    path.write_text("{")
    assert are_whole(host.time(job()).blocks, models, 2)  # from the journal
    assert cluster.numbers == [101, 102]


def test_a_result_of_other_blocks_is_refused(cluster, host, job):
    def stop(block):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.time(job(on_block=stop))
    cluster.wait_for(101, "COMPLETED")
    path = folder_of_job(host) / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "blocks": result["blocks"][1:]}))
    with pytest.raises(HostError, match=r"slurm partition cpu sent \d+ blocks and a result of \d+; start again"):
        host.time(job())


def test_a_node_of_another_kind_measures_nothing(cluster, host, job):
    host.fingerprint(SETTING)
    (path,) = Path(host.folder, "machines").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "id": "other", "cpu": "EPYC"}))
    heard = []
    message = r"is not the machine that was asked for \(cpu EPYC there, .* here\).*name one kind by `constraint`"
    with pytest.raises(HostError, match=message):
        host.time(job(on_block=heard.append))
    assert not heard and not path.exists()  # so that it is asked for anew
    assert host.time(job()).blocks


def test_a_busy_controller_is_asked_again(cluster, host, job, models):
    cluster.do_wrong("busy", "1\n2\n")
    assert are_whole(host.time(job()).blocks, models, 2)
    cluster.do_wrong("busy", "1\n" * 3)
    with pytest.raises(HostError, match=r"squeue does not answer \(.*Unable to contact slurm controller.*goes on"):
        host.time(job())


def test_a_cluster_without_accounts(cluster, host, job, models, monkeypatch):
    monkeypatch.setattr(slurm, "SHARING_SECONDS", 0.1)
    for what in ("forgets", "keeps_no_accounts"):
        cluster.do_wrong(what)
    assert are_whole(host.time(job()).blocks, models, 2)
    with pytest.raises(HostError, match="job 102 on slurm partition cpu is gone, and no account says how it ended"):
        host.time(job(**SLOW, on_block=lambda block: cluster.end("CANCELLED")))


def test_a_file_that_is_not_seen_yet_is_waited_for(cluster, host, job, models, monkeypatch):
    hidden, listdir = [], os.listdir

    def late(path):
        names = listdir(path)
        if "result.json" in names and len(hidden) < 3:
            hidden.append(path)
            names.remove("result.json")
        return names

    monkeypatch.setattr(slurm.os, "listdir", late)
    assert are_whole(host.time(job()).blocks, models, 2)


def test_sbatch_may_refuse(cluster, settings, job):
    host = Slurm(**settings, partition="nowhere")
    message = (
        r"sbatch takes no job for slurm partition nowhere \(.*Invalid partition name specified\); see the `partition`"
    )
    with pytest.raises(HostError, match=message):
        host.time(job())


def test_no_slurm_on_this_machine(host, job, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="no program sbatch on this machine; run ofa where jobs of Slurm are submitted"):
        host.time(job())


def test_devices_that_share_a_folder_share_no_job(settings):
    request = {"setting": {}}
    hosts = [
        Slurm(**settings, **own)
        for own in ({}, {"partition": "a"}, {"constraint": "a"}, {"cpus": 2}, {"options": ("--qos=low",)})
    ]
    assert len({host._name(request) for host in hosts}) == len(hosts)
    assert hosts[0]._name(request) == dataclasses.replace(hosts[0], minutes=90, retries=1)._name(request)


def test_jobs_with_a_node_each_wait_side_by_side(settings):
    alone, shared = Slurm(**settings), Slurm(**settings, cpus=2)
    assert alone.machine != alone.machine
    assert shared.machine == shared.machine


def test_cleaning_ends_what_is_there(cluster, host, job):
    cluster.do_wrong("held")

    def stop(seconds):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm.remote.time, "sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            host.time(job())
    host.clean()
    assert (cluster.home / "cancelled").read_text() == "101\n"
    assert list(Path(host.folder).iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minutes": 0}, "minutes must be positive, not 0"),
        ({"cpus": 0}, "cpus must be positive, not 0"),
        ({"folder": ""}, "folder must not be empty"),
        ({"options": ("vision",)}, "options must be words such as --account=vision, not 'vision'"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Slurm(**wrong)


def test_a_device_in_a_queue_may_be_cold(host):
    device = Device(name="node", setting=dataclasses.replace(SETTING, cold=True), host=host)
    assert not device.can_be_cold and device.host.takes_settings
