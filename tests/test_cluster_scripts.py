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
    # Slurm's own takes its options and starts the rest on each machine.
    "srun": 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"',
    "torchrun": 'echo "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE $*" >> "$LOG"\n'
    'trap "echo saved >> $LOG; exit 143" TERM\nfor i in $(seq "${TENTHS:-0}"); do sleep 0.1; done\nexit "${STATUS:-0}"',
    "scontrol": 'if [ "$1" = show ]; then echo first; echo second; else echo "$*" >> "$LOG"; fi',
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, body in STAND_INS.items():
        script = tmp_path / name
        script.write_text(f"#!/bin/bash\n{body}\n")
        script.chmod(0o755)
    variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "x", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
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
    assert line.startswith("1 --nnodes=2 --nproc-per-node=8 --max-restarts=3 --rdzv-id=7.0 --rdzv-backend=c10d")
    assert "--rdzv-endpoint=first:29500" in line
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
    assert (place / "log").read_text().splitlines()[1:] == ["saved", "requeue 7"]


def test_the_job_for_kubernetes_is_complete() -> None:
    service, job = yaml.safe_load_all((SCRIPTS / "train_kubernetes.yaml").read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    words = container["command"]
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
