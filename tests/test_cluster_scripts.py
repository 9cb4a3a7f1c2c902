"""The scripts for clusters, against stand-ins: what they start, and what becomes of a job that is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

SCRIPTS = Path(__file__).parents[1] / "scripts"
STAND_INS = {
    # Slurm's own takes its options and starts the rest on each machine; told to end, it kills what it started.
    "srun": 'while [[ "$1" == --* ]]; do shift; done\n"$@" &\necho $! > "$LOG.pid"\n'
    'trap "kill -KILL $!; echo killed >> $LOG" TERM\nwait $!; wait $!',
    "torchrun": 'echo "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE $SRUN_CPUS_PER_TASK $*" >> "$LOG"\n'
    'trap "echo saved >> $LOG; exit 143" TERM\nfor i in $(seq "${TENTHS:-0}"); do sleep 0.1; done\nexit "${STATUS:-0}"',
    "scontrol": 'if [ "$1" = show ]; then echo first; echo second; else echo "$*" >> "$LOG"; fi',
    "scancel": 'echo "scancel $*" >> "$LOG"\nkill -TERM "$(cat "$LOG.pid")"',
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, body in STAND_INS.items():
        script = tmp_path / name
        script.write_text(f"#!/bin/bash\n{body}\n")
        script.chmod(0o755)
    variables = {"SLURM_JOB_ID": "30007", "SLURM_JOB_NODELIST": "x", "SLURM_JOB_NUM_NODES": "2"}
    variables |= {"SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "64"}
    for name, value in {**variables, "LOG": str(tmp_path / "log"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", str(SCRIPTS / "train.slurm"), *words])


@pytest.mark.parametrize("status", ["0", "2"])
def test_a_job_starts_training_and_ends_as_it_does(status: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATUS", status)
    assert start("bignas", "data.root=/a b", "--out", "runs/x").wait(20) == int(status)
    (line,) = (place / "log").read_text().splitlines()
    assert line.startswith("1 64 --nnodes=2 --nproc-per-node=8 --max-restarts=3 --rdzv-id=30007.0 --rdzv-backend=c10d")
    assert "--rdzv-endpoint=first:20007" in line
    assert line.endswith("-m ofa train bignas data.root=/a b --out runs/x --resume")


def test_a_job_that_is_told_to_stop_is_saved_and_queued_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENTHS", "300")
    with start("bignas", "--out", "runs/x") as process:
        patience = time.monotonic() + 20
        while not (place / "log").exists():
            assert time.monotonic() < patience
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 0
    assert (place / "log").read_text().splitlines()[1:] == ["scancel --signal=TERM 30007", "saved", "requeue 30007"]


def test_the_job_for_kubernetes_is_complete() -> None:
    service, job = yaml.safe_load_all((SCRIPTS / "train_kubernetes.yaml").read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    words = container["command"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    seconds = {entry["name"]: entry["value"] for entry in container["env"]}["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
    assert int(seconds) < job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert words[0] == "torchrun" and words[-1] == "--resume"
    name = service["metadata"]["name"]
    assert (
        service["spec"]["selector"] == {"job-name": job["metadata"]["name"]} and service["spec"]["clusterIP"] == "None"
    )
    assert f"--rdzv-endpoint={job['metadata']['name']}-0.{name}:29500" in words
    assert f"--nnodes={job['spec']['completions']}" in words
    assert f"--nproc-per-node={container['resources']['limits']['nvidia.com/gpu']}" in words
    volumes = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
