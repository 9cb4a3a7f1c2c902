"""The script for a machine with a card: what it says is missing, its page, and that time is kept."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import gpu
import pytest


def test_every_part_is_there_and_has_a_share() -> None:
    assert set(gpu.DOING) == {gpu.CARD, *gpu.SHARES}
    assert sum(max(gpu.SHARES[part] for part in turn) for turn in gpu.turns_of(list(gpu.SHARES))) == 340
    for _, _, needed_by in gpu.NEEDED.values():
        assert needed_by <= set(gpu.SHARES)
    assert gpu.missing_modules(list(gpu.SHARES)) == []


def test_what_is_missing_is_named_for_the_parts_that_need_it() -> None:
    def find(module: str) -> object:
        return None if module == "moocore" else module

    assert gpu.missing_modules(["training", "tables"], find) == []
    assert gpu.missing_modules(["training", "elastic"], find) == ["moocore"]
    message = gpu.what_is_missing(["moocore"], ["training", "elastic"])
    assert "moocore: Pareto fronts, which ofa.deploy imports; needed by elastic, tests" in message
    assert "without them: make gpu PARTS='training'" in message
    assert "without them" not in gpu.what_is_missing(["torch"], ["training", "elastic"])


def test_wheels_that_are_not_there_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = gpu.install(["moocore"], tmp_path, tmp_path / "target")
    assert "moocore" in problem


def test_the_page_keeps_what_earlier_calls_found(tmp_path: Path) -> None:
    page = gpu.Page(tmp_path, "NVIDIA H100 80GB HBM3", "80 GiB")
    assert page.path == tmp_path / "gpu-h100-80gb-hbm3.md"
    page.add("tables", {"what": "eager", "value": "3.2", "unit": "%", "note": "a | b"})
    page.add("tests", {"what": "training/test_x.py::test_y", "value": "failed", "note": "E"})
    page.add("tests", {"what": "passed", "value": 7})
    page.write()
    again = gpu.Page(tmp_path, "NVIDIA H100 80GB HBM3", "80 GiB")
    again.read()
    again.begin("tests")  # failures are not carried over
    again.add("tests", {"what": "passed", "value": 8})
    again.write()
    text = page.path.read_text()
    assert text.index("| tests | passed | 8 |") < text.index("| tables | eager | 3.2 % | a / b |")
    assert "test_y" not in text and "passed | 7" not in text
    assert "[gpu/h100-80gb-hbm3.csv](gpu/h100-80gb-hbm3.csv)" in text
    assert (tmp_path / "gpu" / "h100-80gb-hbm3.csv").read_text().count("\n") == 3
    assert "eager   3.2 %  a | b" in again.text()


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the place of the script: what its parts do is written into it."""
    monkeypatch.setattr(gpu, "WORK", tmp_path / "work")
    path = tmp_path / "parts.py"
    monkeypatch.setattr(gpu, "__file__", str(path))
    return path


HEAD = """
import json, os, subprocess, sys, time
def row(**values): print("@row " + json.dumps(values), flush=True)
part = sys.argv[sys.argv.index("--child") + 1]
if not sys.stdin.readline(): sys.exit("no turn")
"""


def test_a_part_is_stopped_with_all_that_it_started(script: Path) -> None:
    script.write_text(
        HEAD + "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "row(what='pid', value=child.pid); print('@row {broken', flush=True); row(what='after'); time.sleep(60)"
    )
    rows: list[dict[str, Any]] = []
    started = time.monotonic()
    assert gpu.Child("tests", [], dict(os.environ), rows.append).run(2.0) is None
    assert time.monotonic() - started < 8
    assert [row["what"] for row in rows] == ["pid", "after"]
    time.sleep(0.2)
    state = Path(f"/proc/{rows[0]['value']}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
    assert "{broken" in (gpu.WORK / "tests.log").read_text()


def test_parts_end_alone_and_leave_their_time_to_others(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "SHARES", {"tests": 1, "training": 1, "tables": 1, "elastic": 1})
    monkeypatch.setattr(gpu, "RESERVE", 0.0)
    monkeypatch.setattr(gpu, "LEAST", 0.5)
    script.write_text(
        HEAD + "if part == 'card': row(card='A card', about='tried')\n"
        "elif part == 'tests': row(what='passed', value=3)\n"
        "elif part == 'training': row(what='one', value='failed'); sys.exit('out of memory')\n"
        "elif part == 'tables': row(what='first', value=1); time.sleep(60)\n"
    )
    options = argparse.Namespace(
        minutes=6 / 60, device="cuda", small=False, out=tmp_path, parts=["tests", "training", "tables", "elastic"]
    )
    started = time.monotonic()
    assert gpu.Parent(options, dict(os.environ), started).run() == 1
    assert time.monotonic() - started < 9
    page = (tmp_path / "gpu-a-card.md").read_text()
    assert "| tests | part | done | in" in page
    assert "exit status 1: out of memory |" in page
    assert "s were spent; its first 1 rows are here |" in page and "| tables | first | 1 |" in page
    assert "| elastic | part | done |" in page
    assert "training" in capsys.readouterr().out


def test_parts_get_ready_before_their_turn(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LEAST", 0.0)
    script.write_text(
        HEAD.replace("if not", "ready = time.time()\nif not") + "turn = time.time()\n"
        "if part == 'card': row(card='A card', about='tried')\n"
        "else: time.sleep(2); row(what='times', value=[ready, turn, time.time()])\n"
    )
    parts = ["tests", "training", "tables"]
    options = argparse.Namespace(minutes=1.0, device="cuda", small=False, out=tmp_path, parts=parts)
    parent = gpu.Parent(options, dict(os.environ), time.monotonic())
    assert parent.run() == 0
    (tests,), (training,), (tables,) = (parent.found[part] for part in parts)
    assert tests[1] < training[2] and training[1] < tests[2]  # at the same time
    assert tables[0] < tests[2] < tables[1] and training[2] < tables[1]


def test_without_a_card_it_says_so(script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text(HEAD + "sys.exit('torch sees no CUDA device')")
    options = argparse.Namespace(minutes=1.0, device="cuda", small=False, out=tmp_path / "out", parts=["tests"])
    assert gpu.Parent(options, dict(os.environ), time.monotonic()).run() == 2
    assert "no card: torch sees no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_pytest_says_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    tally = gpu.Tally()
    for line in (
        "[gw0] [ 25%] PASSED tests/a/test_a.py::test_one[cuda-x] \n",
        "tests/a/test_a.py::test_two FAILED   [ 50%]\n",
        "tests/a/test_a.py::test_three SKIPPED (torch sees no CUDA device)\n",
        "E   AssertionError: FAILED\n",
        "===== short test summary info =====\n",
        "FAILED tests/a/test_a.py::test_two - AssertionError: 1 != 2\n",
        "ERROR tests/b/test_b.py - ModuleNotFoundError: No module named 'c'\n",
        "=== 1 failed, 1 passed, 1 skipped, 1 error in 1.00s ===\n",
    ):
        tally.read(line)
    assert tally.counts == {"PASSED": 1, "FAILED": 1, "ERROR": 1, "SKIPPED": 1}
    tally.rows(gpu.Context(argparse.Namespace(device="cpu", small=True)), tally.last.strip("= "))
    out = capsys.readouterr().out
    assert '"what": "a/test_a.py::test_two", "value": "failed", "unit": "", "note": "AssertionError: 1 != 2"' in out
    assert "b/test_b.py" in out and "1 error in 1.00s" in out
