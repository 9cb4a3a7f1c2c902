"""Many bundles at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

from ofa.deploy import Deployed, ExportOptions, TargetError, deploy, verify_bundle
from ofa.deploy.targets import Quantization
from ofa.deploy.walk_down import Measure
from ofa.engine import Processes
from ofa.errors import UsageError
from ofa.hardware import Device, load_device
from ofa.locks import LockedError
from ofa.training import Run, SubnetEvaluator, load_recipe

from .conftest import DEVICE, Stopwatch


@pytest.fixture(scope="module")
def run(evaluator: SubnetEvaluator, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = load_recipe("bignas")
    return Run.save(tmp_path_factory.mktemp("run"), recipe=recipe, supernet=evaluator.supernet, data=evaluator.data)


@pytest.fixture(scope="module")
def ladder(run: Run) -> list[dict[str, Any]]:
    """Three subnets, believed to take 4, 2 and 1 ms."""
    archs = run.space.to_archs(run.space.sample_population(3, np.random.default_rng(5)))
    return [{"arch": dict(arch), "latency_ms": ms} for arch, ms in zip(archs, (4.0, 2.0, 1.0), strict=True)]


def go(
    run: Run, ladder: Sequence[dict[str, Any]], out: Path, budgets_ms: Sequence[float], *p50: float, **changes: Any
) -> list[Deployed]:
    watch = Stopwatch(*p50)
    measure_on: Callable[[Device], Measure] = lambda device: watch  # noqa: E731
    orders = [(DEVICE, budget, ladder) for budget in budgets_ms]
    entries = deploy(run, orders, out=out, measure_on=measure_on, **changes)
    assert watch.p50 == []
    return entries


def test_every_budget_gets_the_first_that_keeps_it(run: Run, ladder: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "deploy"
    # Believed 4 ms takes 5: too slow for 4.5 ms, so the next is measured, which is exported for 2.2 ms too.
    entries = go(run, ladder, out, [9.0, 4.5, 0.5], 5.0, 2.1)
    assert [entry.info and entry.info.arch for entry in entries] == [ladder[0]["arch"], ladder[1]["arch"], None]
    assert [entry.path.name for entry in entries] == ["cpu-1t-9ms", "cpu-1t-4.5ms", "cpu-1t-0.5ms"]
    assert [len(entry.too_slow) for entry in entries] == [0, 1, 0]
    assert "ask for at least" in entries[2].error and not entries[2].path.exists()
    index = json.loads((out / "index.json").read_text())
    assert [each.get("latency_ms", {}).get("p50") for each in index["bundles"]] == [5.0, 2.1, None]
    assert index["bundles"][2]["error"] == entries[2].error
    table = pd.read_csv(out / "index.csv")
    assert table["latency_ms_p50"].tolist()[:2] == [5.0, 2.1] and table["model_bytes"].min() > 10_000
    for entry in entries[:2]:
        assert verify_bundle(entry.path).ok

    # Again: what holds is kept and nothing is measured; what was damaged is made anew.
    (out / "cpu-1t-9ms" / "model.onnx").write_bytes(b"damaged")
    again = go(run, ladder, out, [9.0, 4.5], 5.0)
    assert [entry.kept for entry in again] == [False, True]
    assert verify_bundle(again[0].path).ok
    assert len(json.loads((out / "index.json").read_text())["bundles"]) == 2


def test_another_pick_is_made_anew(run: Run, ladder: list[dict[str, Any]], tmp_path: Path) -> None:
    go(run, ladder[1:], tmp_path, [9.0], 5.0)
    (better,) = go(run, ladder, tmp_path, [9.0], 5.0)
    assert not better.kept and better.info is not None and better.info.arch == ladder[0]["arch"]
    assert go(run, ladder, tmp_path, [9.0])[0].kept


@pytest.mark.slow
def test_another_opset_is_made_anew(run: Run, ladder: list[dict[str, Any]], tmp_path: Path) -> None:
    older = ExportOptions(opset=17)
    (first,) = go(run, ladder, tmp_path, [9.0], 5.0)
    (other,) = go(run, ladder, tmp_path, [9.0], 5.0, options=older)
    (again,) = go(run, ladder, tmp_path, [9.0], options=older)
    assert [entry.kept for entry in (first, other, again)] == [False, False, True]
    assert onnx.load(again.path / "model.onnx").opset_import[0].version == 17


def test_int8_that_costs_more_than_may_be_is_made_anew(
    run: Run, ladder: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = go(run, ladder, tmp_path, [9.0], 5.0)
    assert first.info is not None
    costs = Quantization(
        loss_points=0.4, all_int8_loss_points=0.4, float_nodes=(), num_nodes=3, num_calibration_images=8
    )
    said = replace(first.info, model=replace(first.info.model, quantization=costs))
    monkeypatch.setattr("ofa.deploy.deployment.read_bundle", lambda path: said)
    assert go(run, ladder, tmp_path, [9.0], options=ExportOptions(max_loss_points=0.4))[0].kept
    assert not go(run, ladder, tmp_path, [9.0], 5.0, options=ExportOptions(max_loss_points=0.3))[0].kept


@pytest.mark.parametrize("points", [-1.0, float("nan")])
def test_what_int8_may_cost_is_a_number_from_0_up(points: float) -> None:
    with pytest.raises(UsageError, match=f"--max-loss must be 0 or more points of the metric, not {points:g}"):
        ExportOptions(max_loss_points=points)


def test_nothing_is_begun_if_one_cannot_be(run: Run, ladder: list[dict[str, Any]], tmp_path: Path) -> None:
    orders = [(DEVICE, 9.0, ladder), (load_device("torch-1t"), 9.0, ladder)]
    with pytest.raises(TargetError, match="torch-1t"):
        deploy(run, orders, out=tmp_path / "deploy", measure_on=lambda device: Stopwatch())
    orders = [(DEVICE, 9.0, ladder), (load_device("openvino-1t"), 9.0, ladder)]
    options = ExportOptions(opset=17)
    with pytest.raises(TargetError, match=r"device openvino-1t gets model.xml and model.bin, .* leave --opset out"):
        deploy(run, orders, out=tmp_path / "deploy", measure_on=lambda device: Stopwatch(), options=options)
    alike = [(DEVICE, 0.4000001, ladder), (DEVICE, 0.4000002, ladder)]
    with pytest.raises(UsageError, match=r"two orders make .*cpu-1t-0\.4ms; name devices differently, or give budgets"):
        deploy(run, alike, out=tmp_path / "deploy", measure_on=lambda device: Stopwatch())
    assert not (tmp_path / "deploy").exists()


@pytest.mark.slow
def test_processes_make_the_same_files(run: Run, ladder: list[dict[str, Any]], tmp_path: Path) -> None:
    go(run, ladder, tmp_path / "one", [9.0, 2.5], 4.0, 2.0)
    go(run, ladder, tmp_path / "two", [9.0, 2.5], 4.0, 2.0, engine=Processes(2))
    for name in ("cpu-1t-9ms", "cpu-1t-2.5ms"):
        one, two = ((tmp_path / where / name / "model.onnx").read_bytes() for where in ("one", "two"))
        assert len(one) == len(two)
        assert verify_bundle(tmp_path / "two" / name).ok


KILLED = """
import sys
from pathlib import Path
from ofa.deploy import deploy
from ofa.engine import Processes
from ofa.hardware import load_device
from ofa.training import Run

run = Run.open(sys.argv[1])
archs = run.space.to_archs(run.space.sample_population(2, __import__("numpy").random.default_rng(5)))
ladder = [{"arch": dict(arch), "latency_ms": ms} for arch, ms in zip(archs, (4.0, 2.0))]
device = load_device("cpu-1t")
deploy(run, [(device, 9.0, ladder), (device, 2.5, ladder)], out=sys.argv[2], measure_on=lambda device: None,
       engine=Processes(2), progress=lambda *what: print(*what, flush=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are looked up in /proc")
def test_workers_end_with_a_deployment_that_is_stopped(run: Run, tmp_path: Path) -> None:
    def workers() -> list[Path]:
        """Of the deployment, which end with it: those that import what they compute with."""
        found = []
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                is_child = f"\nPPid:\t{process.pid}\n" in status.read_text()
                if is_child and b"LokyProcess" in (status.parent / "cmdline").read_bytes():
                    found.append(status.parent)
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    command = [sys.executable, "-c", KILLED, str(run.path), str(tmp_path / "deploy")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and b"exporting" in process.stdout.readline()
        patience = time.monotonic() + 120
        while len(begun := workers()) < 2 or not all(b"libtorch_cpu" in maps(each) for each in begun):
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.2)
        time.sleep(2)  # they are at work now
        process.terminate()
    while any(each.exists() for each in begun):
        assert time.monotonic() < patience
        time.sleep(0.2)


def maps(process: Path) -> bytes:
    try:
        return (process / "maps").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_two_deployments_into_one_folder(run: Run, ladder: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "deploy"
    script = "import sys\nfrom ofa.locks import only_writer\nwith only_writer(sys.argv[1], command='ofa deploy'):\n"
    script += "    print('held', flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", script, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline()
        with pytest.raises(LockedError, match=rf"deploy is being written by process {first.pid} .*\(ofa deploy\)"):
            go(run, ladder, tmp_path / "new" / ".." / "deploy", [9.0])
        first.communicate()
    assert not out.exists() and not (tmp_path / "new").exists()
