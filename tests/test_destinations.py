"""Where `--out` leads, for every command: nothing of the user's is replaced, one writes at a time."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ofa import workflow
from ofa.data import DataError
from ofa.errors import UsageError
from ofa.hub import HubError
from ofa.locks import LockedError

MODEL = "ofa_mobilenetv3_tiny"

CALLS: dict[str, Callable[[Path, Path], Any]] = {
    "search": lambda run, out: workflow.search(run, ["cpu-1t"], [1.0], out=out),
    "export": lambda run, out: workflow.export(run, "cpu-1t", 1.0, out, overwrite=True),
    "deploy": lambda run, out: workflow.deploy(run, ["cpu-1t"], [1.0], out=out),
    "judge": lambda run, out: workflow.judge(run, by="top1_percent", out=out),
    "elastic": lambda run, out: workflow.elastic(run, "cpu-1t", [1.0], out, overwrite=True),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with something precious in it."""
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "supernet.json").write_text("{}")
    return run


@pytest.mark.parametrize("name", sorted(CALLS))
@pytest.mark.parametrize("out", [".", "..", "new/..", "../a", "../../link"])
def test_the_run_itself_and_what_holds_it_are_no_destination(name: str, out: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(
        UsageError, match=r"--out .* is .*runs.*, where the run .* is; give a folder in it, or beside it"
    ):
        CALLS[name](run, run / out)
    assert [path.name for path in run.iterdir()] == ["supernet.json"]


def test_a_way_through_a_folder_that_is_not_there_yet_does_not_hide_a_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs/a already holds a finished run; to train it further"):
        workflow.train("demo", out=tmp_path / "new" / ".." / "runs" / "a")
    assert (run / "supernet.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["supernet.json", "notes.html", "metrics.csv"])
def test_files_of_other_kinds_are_not_replaced(name: str, run: Path, tmp_path: Path) -> None:
    (run / name).write_text('{"format": 1, "model": {}}')
    model = tmp_path / "model.onnx"
    model.touch()
    (tmp_path / "way").symlink_to(run)
    for write in (
        lambda out: workflow.report(run, out=out),
        lambda out: workflow.measure([model], device="cpu-1t", out=out),
    ):
        with pytest.raises(UsageError, match=rf"{run / name} exists and is not .* of ours; it is left alone"):
            write(tmp_path / "new" / ".." / "way" / name)
    assert json.loads((run / name).read_text()) == {"format": 1, "model": {}}


def latencies(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('arch,latency_ms\n"{}",1.0\n')
    return path


def test_a_table_is_not_written_over_other_files(tmp_path: Path) -> None:
    """Such as the very file that it is to be fitted on."""
    csv = latencies(tmp_path / "tables" / "cpu-1t" / f"{MODEL}.csv")
    out = tmp_path / "new" / ".." / "tables"
    for write in (
        lambda: workflow.fit(MODEL, csv, "cpu-1t", out=out, overwrite=True),
        lambda: workflow.profile(MODEL, "cpu-1t", out=out, fresh=True),
    ):
        with pytest.raises(
            UsageError, match=r"exists and is not a latency table; it is left alone: give another --out"
        ):
            write()
    assert csv.read_text().startswith("arch,latency_ms") and not (tmp_path / "new").exists()


@contextmanager
def held(path: Path) -> Iterator[int]:
    script = "import sys\nfrom ofa.locks import only_writer\n"
    script += "with only_writer(sys.argv[1], command='another', beside=True):\n"
    script += "    print('held', flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process.pid
        process.communicate()


def test_one_table_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    csv = latencies(tmp_path / "latencies.csv")
    with held(tmp_path / "cpu-1t" / f"{MODEL}.csv") as pid:
        for write in (
            lambda: workflow.fit(MODEL, csv, "cpu-1t", out=tmp_path),
            lambda: workflow.profile(MODEL, "cpu-1t", out=tmp_path),
        ):
            with pytest.raises(
                LockedError, match=rf"{MODEL}\.csv is being written by process {pid} on host .*\(another\)"
            ):
                write()
    assert not list(tmp_path.rglob("*.lock"))


def test_every_call_with_a_destination_is_tried_here() -> None:
    """A new one is to be added to one of these tests."""
    calls = {name for name, call in vars(workflow).items() if inspect.isfunction(call) and not name.startswith("_")}
    found = {name for name in calls if "out" in inspect.signature(getattr(workflow, name)).parameters}
    others = {"train", "finetune", "profile", "fit", "report", "plot", "measure"}
    others |= {"data_check", "data_shard", "data_fetch", "pull", "import_"}
    assert found == {*CALLS, *others}


@pytest.mark.parametrize("name", ["data.html", "data.json"])
def test_a_check_of_data_leaves_other_files_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=rf"{name} exists and is not .* of ours; it is left alone"):
        workflow.data_check(["data.name=digits"], out=tmp_path / "new" / "..")
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_shards_are_written_into_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else, or shards of other data; give another --out"):
        workflow.data_shard(["data.name=digits"], out=tmp_path / "new" / "..")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_data_is_fetched_into_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else, or what was fetched from elsewhere; give another --out"):
        workflow.data_fetch(["https://localhost/train.tar"], out=tmp_path / "new" / "..")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("out", [".", "..", "../a", "../../link"])
def test_what_is_pulled_takes_the_place_of_nothing(out: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(HubError, match=r"is there already; give another --out, or remove it"):
        workflow.pull("me/flowers", out=run / out)
    with held(tmp_path / "new"), pytest.raises(LockedError, match=r"new is being written by process .*\(another\)"):
        workflow.pull("me/flowers", out=run / ".." / ".." / "new")
    assert (run / "supernet.json").read_text() == "{}" and len(list(run.iterdir())) == 1


def test_one_subnet_is_not_trained_into_its_own_run(run: Path) -> None:
    with pytest.raises(ValueError, match=r"runs/a"):
        workflow.finetune(run, out=run / "new" / "..", arch="smallest")
    assert (run / "supernet.json").read_text() == "{}" and len(list(run.iterdir())) == 1
