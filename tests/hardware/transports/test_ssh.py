"""Against a real OpenSSH server on this machine, with this interpreter as that of the board."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from ofa.config import ConfigError
from ofa.formats.onnx import export_for_timing
from ofa.hardware.device import Device
from ofa.hardware.journal import Journal
from ofa.hardware.runner import Job
from ofa.hardware.runtimes import RUNTIMES, ModelError, NotInstalledError
from ofa.hardware.timing import TimedBlock, max_blocks
from ofa.hardware.transports import HostError, Local, Ssh
from ofa.hardware.transports.bundle import build_bundle, bundle_name
from ofa.hardware.transports.sent_runner import sent_files
from ofa.setting import Setting
from tests.hardware.fakes import time_with_journal
from tests.hardware.transports.server import MISSING, SshServer, make_key

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

QUICK = {"num_blocks": 2, "block_seconds": 0.005}
SLOW = {"num_blocks": 5, "block_seconds": 0.15}  # some seconds for two models


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = SshServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def running(server):
    """The server, running again afterwards."""
    yield server
    server.stop()
    server.start()


@pytest.fixture(scope="module")
def models():
    return {f"conv {width}": export_for_timing(nn.Conv2d(3, width, 3).eval(), (3, 16, 16)) for width in (8, 16)}


@pytest.fixture(scope="module")
def anchor():
    return export_for_timing(nn.Conv2d(3, 4, 3).eval(), (3, 16, 16))


@pytest.fixture
def host(server, tmp_path):
    return Ssh(**server.settings, python=sys.executable, folder=str(tmp_path / "there"), answer_seconds=60)


@pytest.fixture
def device(host):
    return Device(name="board", setting=Setting(runtime="onnxruntime"), host=host)


@pytest.fixture
def asked(monkeypatch):
    """What was asked of the machine; the blocks of a job are read before it is deleted."""
    asked = []
    real = Ssh._ask

    def ask(self, name, request, **settings):
        entry = {"name": name, **request}
        if name == "remove":
            path = Path(self.folder, "jobs", request["id"], "blocks.jsonl")
            if path.exists():
                entry["blocks"] = [json.loads(line)[:2] for line in path.read_text().splitlines()[1:]]
        asked.append(entry)
        return real(self, name, request, **settings)

    monkeypatch.setattr(Ssh, "_ask", ask)
    return asked


def names(asked):
    return [entry["name"] for entry in asked]


def measure(device, models, anchor, *, journal=None, on_block=None, seed=0, **settings):
    return time_with_journal(device.host, job_of(device, models, anchor, seed, **settings), journal, on_block)


def job_of(device, models, anchor, seed=0, **settings):
    settings = {**QUICK, **settings}
    settings["num_blocks"] = dict.fromkeys(models, settings["num_blocks"])
    return Job(models=models, setting=device.setting, anchor=anchor, rng=np.random.default_rng(seed), **settings)


def keys(blocks):
    return sorted((block.name, block.number) for block in blocks)


def are_whole(keys, models, num_blocks):
    """Each once, as many as were asked for; more where some were disturbed."""
    wanted = {(name, number) for name in models for number in range(num_blocks)}
    return wanted <= set(keys) and len(keys) == len(set(keys)) <= len(models) * max_blocks(num_blocks)


def measured_there(asked):
    """Names and numbers in the file of blocks of the one job that was done."""
    (blocks,) = [entry["blocks"] for entry in asked if "blocks" in entry]
    return sorted(map(tuple, blocks))


def test_it_gives_what_the_machine_itself_would(device, models, anchor, asked, tmp_path):
    journal, heard = Journal(tmp_path / "blocks.jsonl", {}), []
    there = measure(device, models, anchor, journal=journal, on_block=heard.append)
    here = measure(dataclasses.replace(device, host=Local()), models, anchor)
    assert are_whole(keys(there.blocks), models, 2) and are_whole(keys(here.blocks), models, 2)
    assert all(len(block.durations_ns) >= 5 for block in there.blocks)
    assert heard == journal.blocks == list(there.blocks)
    assert there.latencies_ms(models)["latency_ms_p10"].gt(0).all()
    journal.close()
    assert measured_there(asked) == keys(there.blocks)
    assert os.listdir(tmp_path / "there/jobs") == []


def test_the_fingerprint_is_that_of_the_machine(device, asked):
    assert device.host.fingerprint(device.setting)["id"] == Local().fingerprint(device.setting)["id"]
    assert os.listdir(Path(device.host.folder) / "jobs") == []


def test_a_second_call_sends_nothing_again(device, models, anchor, asked):
    measure(device, models, anchor)
    first = names(asked)
    assert (first.count("install"), first.count("receive")) == (1, 1)
    asked.clear()
    measure(device, models, anchor, seed=1)
    assert not {"install", "receive"} & set(names(asked))
    assert sorted(path.suffix for path in Path(device.host.folder, "models").iterdir()) == [".onnx"] * 3


@pytest.mark.slow
def test_a_damaged_file_is_sent_again(device, models, anchor, asked):
    measure(device, models, anchor)
    folder = Path(device.host.folder)
    model = next(iter((folder / "models").iterdir()))
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + b"\x00\x01")
    bundle = folder / bundle_name(hashlib.sha256(build_bundle()).hexdigest())
    bundle.write_bytes(b"damaged")
    asked.clear()
    measure(device, models, anchor)
    assert {"install", "receive"} <= set(names(asked))
    assert model.read_bytes() == whole
    assert bundle.read_bytes() == build_bundle()
    (sent,) = [entry["files"] for entry in asked if entry["name"] == "receive"]
    assert [path for path, _, _ in sent] == [f"models/{model.name}"]


@pytest.mark.parametrize(
    "restart",
    [
        pytest.param(False, id="sessions killed"),
        pytest.param(True, id="server away for a while", marks=pytest.mark.slow),
    ],
)
def test_a_cut_connection_costs_no_block(running, device, models, anchor, asked, tmp_path, restart):
    journal = Journal(tmp_path / "blocks.jsonl", {})

    def cut(block):
        if len(journal.blocks) == 3:
            if restart:
                running.stop()
                threading.Timer(1.0, running.start).start()
            else:
                running.cut()

    result = measure(device, models, anchor, journal=journal, on_block=cut, **SLOW)
    journal.close()
    assert keys(result.blocks) == keys(journal.blocks) == measured_there(asked)
    assert are_whole(keys(result.blocks), models, 5)
    assert names(asked).count("start") == 1


def test_a_job_outlives_the_process_that_asked_for_it(server, device, models, anchor, asked, tmp_path):
    for name, model in {**models, "anchor": anchor}.items():
        (tmp_path / f"{name}.onnx").write_bytes(model)
    path = tmp_path / "blocks.jsonl"
    paths = {name: str(tmp_path / f"{name}.onnx") for name in models}
    settings = {field.name: getattr(device.host, field.name) for field in dataclasses.fields(device.host)}
    slow = {**SLOW, "num_blocks": dict.fromkeys(models, SLOW["num_blocks"])}
    script = f"""
from pathlib import Path
import numpy as np
from ofa.hardware.device import Device
from ofa.setting import Setting
from ofa.hardware.journal import Journal
from ofa.hardware.runner import Job
from ofa.hardware.transports import Ssh
device = Device(name="board", setting=Setting(runtime="onnxruntime"), host=Ssh(**{settings!r}))
rng, anchor = np.random.default_rng(7), {str(tmp_path / "anchor.onnx")!r}
keep = Journal(Path({str(path)!r}), {{}}).append
job = Job(models={paths!r}, setting=device.setting, anchor=anchor, rng=rng, on_block=keep, **{slow!r})
device.host.time(job)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    journal = Journal(path, {})
    before = list(journal.blocks)
    assert 0 < len(before) < 10
    heard = []
    result = measure(device, models, anchor, journal=journal, on_block=heard.append, **SLOW)
    journal.close()
    assert keys(result.blocks) == keys(before + heard) and are_whole(keys(result.blocks), models, 5)
    assert {(block.name, block.number): block.durations_ns for block in before}.items() <= {
        (block.name, block.number): block.durations_ns for block in result.blocks
    }.items()
    assert measured_there(asked) == keys(result.blocks)


def test_blocks_that_the_journal_holds_are_not_measured(device, models, anchor, asked, tmp_path):
    journal = Journal(tmp_path / "blocks.jsonl", {})
    first = next(iter(models))
    journal.append(TimedBlock(first, 1, (123456,) * 5, ("off the core",)))
    journal.append(TimedBlock("of another call", 0, (1,)))
    result = measure(device, models, anchor, journal=journal)
    journal.close()
    assert sorted([*measured_there(asked), (first, 1)]) == keys(result.blocks)
    assert [block.durations_ns[0] for block in result.blocks if block.name == first and block.number == 1] == [123456]
    assert result.causes()["off the core"] >= 1


def test_a_runner_that_dies_is_started_again_and_goes_on(device, models, anchor, asked, tmp_path):
    killed = []

    def kill(block):
        if not killed:
            (pid,) = [path.read_text() for path in Path(device.host.folder, "jobs").glob("*/pid")]
            os.kill(int(pid), signal.SIGKILL)
            killed.append(pid)

    result = measure(device, models, anchor, on_block=kill, **SLOW)
    assert keys(result.blocks) == measured_there(asked) and are_whole(keys(result.blocks), models, 5)
    assert names(asked).count("start") == 2


def test_a_runner_that_always_dies_is_given_up(device, models, anchor, tmp_path):
    wrapper = tmp_path / "python"
    wrapper.write_text(
        '#!/bin/sh\ncase "$*" in *" run "*) echo "Illegal instruction" >&2; exit 132;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)
    host = dataclasses.replace(device.host, python=str(wrapper))
    message = r"has ended 3 times without a result, it last said: Illegal instruction; see .*/jobs/"
    with pytest.raises(HostError, match=message):
        measure(dataclasses.replace(device, host=host), models, anchor)


def test_a_job_that_takes_too_long_is_ended(device, models, anchor, tmp_path):
    host = dataclasses.replace(device.host, job_seconds=0.5)
    with pytest.raises(HostError, match=r"has not finished in 0 s; see what else runs there, or set `job_seconds`"):
        measure(dataclasses.replace(device, host=host), models, anchor, num_blocks=100, block_seconds=1.0)
    assert os.listdir(Path(host.folder) / "jobs") == []


@pytest.mark.slow
def test_a_result_of_other_software_is_not_taken(device, models, anchor, asked, monkeypatch):
    """A job that was finished, but never fetched, before the machine was changed."""
    ask = Ssh._ask

    def crash(self, name, request, **settings):
        return pytest.exit("crash") if name == "follow" else ask(self, name, request, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Ssh, "_ask", crash)
        with pytest.raises(BaseException, match="crash"):
            measure(device, models, anchor)
    (job,) = Path(device.host.folder, "jobs").iterdir()
    while not (job / "result.json").exists():
        time.sleep(0.05)
    result = json.loads((job / "result.json").read_text())
    result["fingerprint"]["id"] = "of old software"
    (job / "result.json").write_text(json.dumps(result))
    asked.clear()
    fresh = measure(device, models, anchor)
    assert are_whole(keys(fresh.blocks), models, 2)
    assert Counter(names(asked))["start"] == 3  # the job, the fingerprint, the job anew


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["of nobody", 0, [1], [], 1.0, 1.0, 1.0], "a block of 'of nobody', which nobody asked for"),
        (["conv 8", 10, [1], [], 1.0, 1.0, 1.0], "block 10 of 'conv 8' of 10"),
        (["conv 8", 0, [], [], 1.0, 1.0, 1.0], "durations of 'conv 8' that are none"),
        (["conv 8", 0, [1.5], [], 1.0, 1.0, 1.0], "durations of 'conv 8' that are none"),
        (["conv 8", 0, [1], [3], 1.0, 1.0, 1.0], "causes of 'conv 8' that are none"),
        (["conv 8", 0, [1], [], 0, 1.0, 1.0], "an anchor or a time of 'conv 8' that is none"),
        (["conv 8", 0, [1], [], 1.0, 1.0, "1"], "an anchor or a time of 'conv 8' that is none"),
        (["conv 8", 0, [1], [], 1.0], "sent no block"),
        (["conv 8"], "sent no block"),
    ],
)
def test_blocks_are_not_believed_blindly(device, models, anchor, line, message):
    with pytest.raises(HostError, match=message):
        device.host._block(json.dumps(line), job_of(device, models, anchor))


def test_no_name_reaches_a_shell(server, models, anchor, tmp_path, asked):
    pwned = tmp_path / "pwned"
    nasty = f"""x y'z"$(touch {pwned}); touch {pwned} `touch {pwned}` \\ *"""
    folder = tmp_path / nasty
    host = Ssh(**server.settings, python=sys.executable, folder=str(folder))
    device = Device(name="plain", setting=Setting(runtime="onnxruntime"), host=host)
    object.__setattr__(device, "name", nasty)  # no device is called so, but a host does not rely on that
    named = {f"{nasty} {name}": model for name, model in models.items()}
    result = measure(device, named, anchor)
    assert are_whole(keys(result.blocks), named, 2)
    assert not pwned.exists()
    assert (folder / "models").is_dir()
    host.clean()
    assert os.listdir(folder) == []


@pytest.mark.slow
def test_cleaning_leaves_what_is_not_ours(device, models, anchor):
    measure(device, models, anchor)
    folder = Path(device.host.folder)
    (folder / "notes.txt").write_text("mine")
    device.host.clean()
    assert [path.name for path in folder.iterdir() if path.suffix != ".pyz"] == ["notes.txt"]


def test_an_unknown_host_key_is_refused(server, device, tmp_path):
    config = server.write_config("config_unknown", tmp_path / "empty")
    host = dataclasses.replace(device.host, config=str(config))
    message = rf"does not know the host key of .* run `ssh -p {server.port} .*@127.0.0.1` once by hand and compare"
    with pytest.raises(HostError, match=message):
        host.fingerprint(device.setting)


def test_a_changed_host_key_is_refused(server, device, tmp_path):
    make_key(tmp_path / "other")
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{server.port} {(tmp_path / 'other.pub').read_text()}")
    host = dataclasses.replace(device.host, config=str(server.write_config("config_changed", known)))
    with pytest.raises(HostError, match=r"is not the one that ssh knows; find out why before you remove the old one"):
        host.fingerprint(device.setting)


def test_a_wrong_key_is_refused(device, tmp_path):
    host = dataclasses.replace(device.host, identity=str(make_key(tmp_path / "wrong")))
    with pytest.raises(HostError, match=r"does not let us in \(.*Permission denied.*name a key that it accepts"):
        host.fingerprint(device.setting)


def test_a_machine_that_is_off_is_tried_a_few_times(device):
    host = dataclasses.replace(device.host, port=1, retries=1)
    with pytest.raises(HostError, match=r"while comparing files, after 2 tries: .*refused; see whether it is on"):
        host.fingerprint(device.setting)


def test_a_missing_python_is_named(device):
    host = dataclasses.replace(device.host, python="/nowhere/python3")
    with pytest.raises(HostError, match=r"cannot start '/nowhere/python3' \(.*\); install Python there, or name it"):
        host.fingerprint(device.setting)


def bare_python(folder, *packages):
    """An interpreter that has only these packages of ours."""
    (folder / "packages").mkdir()
    for package in packages:
        for path in Path(np.__file__).parents[1].glob(f"{package}*"):
            (folder / "packages" / path.name).symlink_to(path)
    wrapper = folder / "bare python"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/packages" exec {sys.executable} -S "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.mark.slow
def test_a_missing_runtime_is_told_by_the_machine(device, models, anchor, tmp_path):
    host = dataclasses.replace(device.host, python=bare_python(tmp_path, "numpy"))
    message = r"127.0.0.1: onnxruntime is not installed; install it with: pip install onnxruntime"
    with pytest.raises(NotInstalledError, match=message):
        host.fingerprint(device.setting)
    with pytest.raises(NotInstalledError, match=message):
        measure(dataclasses.replace(device, host=host), models, anchor)


@pytest.mark.slow
def test_a_runtime_that_cannot_read_models_is_told_what_they_take(device, models, anchor):
    board = dataclasses.replace(device, setting=Setting(runtime="trtexec"))
    with pytest.raises(NotInstalledError, match="trtexec does not start"):
        measure(board, models, anchor)
    folder = Path(device.host.folder, "models")
    assert {path.stem for path in folder.glob("*.onnx")} == {path.stem for path in folder.glob("*.ends")}
    anchor_file = folder / f"{hashlib.sha256(anchor).hexdigest()}.ends"
    assert json.loads(anchor_file.read_text()) == [[["images", [1, 3, 16, 16], "float32"]], ["logits"]]
    with pytest.raises(ModelError, match=r"^broken: model is not a valid ONNX model"):
        measure(board, {"broken": b"not a model"}, anchor)


def test_a_missing_numpy_is_named(device, models, anchor, tmp_path):
    host = dataclasses.replace(device.host, python=bare_python(tmp_path))
    for ask in (
        lambda: host.fingerprint(device.setting),
        lambda: measure(dataclasses.replace(device, host=host), {}, anchor),
    ):
        with pytest.raises(HostError, match=r"has no numpy; install it there with: .*bare python -m pip install numpy"):
            ask()


def test_a_model_that_cannot_be_run_is_named(device, models, anchor):
    with pytest.raises(ModelError, match=r"127.0.0.1: broken: .* is not a valid ONNX model"):
        measure(device, {**models, "broken": b"this is no model"}, anchor)
    with pytest.raises(ModelError, match=r"missing: no model /nowhere.onnx; give the path of a .onnx file"):
        measure(device, {"missing": "/nowhere.onnx"}, anchor)
    with pytest.raises(ModelError, match=r"module: only files can be sent to another machine"):
        measure(device, {"module": nn.Identity()}, anchor)


def test_no_ssh_on_this_machine(device, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="no program ssh on this machine; install the OpenSSH client"):
        device.host.clean()


def test_the_weights_of_an_ir_go_with_it(tmp_path):
    for name, weights in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.xml").write_text("<net/>")
        (tmp_path / name / "model.bin").write_bytes(weights)
    openvino = RUNTIMES["openvino"]()
    (first, _), (second, weights) = (sent_files(name, tmp_path / name / "model.xml", openvino) for name in "ab")
    assert first.path.endswith(".xml") and first.path != second.path
    assert weights.path == second.path.removesuffix(".xml") + ".bin" and weights.num_bytes == 1
    assert len(sent_files("c", b"onnx", RUNTIMES["onnxruntime"]())) == 1
    (tmp_path / "a" / "model.bin").unlink()
    with pytest.raises(ModelError, match=r"a: no model .*model\.bin; give the path of a \.bin file"):
        sent_files("a", tmp_path / "a" / "model.xml", openvino)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="address must be like user@host, not '-oProxyCommand=x'"):
        Ssh(address="-oProxyCommand=x")
    with pytest.raises(ConfigError, match="folder must not be empty"):
        Ssh(address="pi", folder="")


@pytest.mark.slow
def test_home_is_that_of_the_machine(server, models, anchor):
    name = f"~/.cache/ofa-test-{os.getpid()}"
    host = Ssh(**server.settings, python=sys.executable, folder=name)
    try:
        measure(Device(name="board", setting=Setting(runtime="onnxruntime"), host=host), models, anchor)
        assert (Path(name).expanduser() / "models").is_dir()
    finally:
        shutil.rmtree(Path(name).expanduser(), ignore_errors=True)
