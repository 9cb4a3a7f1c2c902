"""A training that is killed between any two files that it writes, that finds its disk full, or that is not alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from killed import fill_disk

from ofa.errors import UsageError
from ofa.files import NoSpaceError
from ofa.locks import LockedError
from ofa.training import Run, train
from ofa.training.checkpoint import checkpoints_in

from .conftest import tiny_recipe

ROOT = Path(__file__).parents[1]

KILLS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from ofa.training import train
from training.conftest import tiny_recipe

recipe, root, replace = tiny_recipe("train.epochs=1"), Path(sys.argv[1]), Path.replace

def train_and_die(out, number):
    count = 0
    def counted(path, target):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)
    Path.replace = counted
    train(recipe, out, resume=True)

for number in range(1, 5):  # metrics, checkpoint, weights, description
    child = os.fork()
    if child == 0:
        try:
            train_and_die(root / str(number), number)
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, number
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one epoch, each killed before it put one of its four files in place."""
    root = tmp_path_factory.mktemp("killed")
    done = subprocess.run([sys.executable, "-c", KILLS, str(root), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tiny_recipe("train.epochs=1"), tmp_path_factory.mktemp("whole") / "run")


COLUMNS = ["epoch", "step", "loss_largest", "loss_smallest", "largest_top1_percent", "smallest_top1_percent"]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_killed_between_any_two_files_nothing_is_lost(number: int, killed: Path, whole: Run) -> None:
    out = killed / str(number)
    assert list(out.rglob(".*.part")) and (out / ".lock").exists()
    resumed = train(tiny_recipe("train.epochs=1"), out, resume=True)
    assert resumed.weights_sha256 == whole.weights_sha256
    found, expected = (pd.read_csv(run.path / "metrics.csv")[COLUMNS] for run in (resumed, whole))
    pd.testing.assert_frame_equal(found, expected)
    assert resumed.bounds() == whole.bounds()
    assert not list(out.rglob(".*"))


def test_rows_that_an_earlier_version_lost_are_written_again(whole: Run, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole.path, tmp_path / "run"))
    for name in ("supernet.json", "metrics.csv"):
        (out / name).unlink()
    assert train(tiny_recipe("train.epochs=1"), out, resume=True).bounds() == whole.bounds()


# -- two at a time -----------------------------------------------------------------------------------------------------


def test_two_trainings_into_one_folder(tmp_path: Path) -> None:
    """The second, with another seed, is told who the first is, and the first is not disturbed."""
    out, refused = tmp_path / "run", []

    def begin_another(done: int, total: int, what: str) -> None:
        if "loss" in what and not refused:
            command = [sys.executable, "-m", "ofa", "train", "demo", "train.seed=1", "--out", f"{tmp_path}/x/../run"]
            refused.append(subprocess.run(command, capture_output=True, text=True))

    train(tiny_recipe(), out, progress=begin_another)
    assert refused[0].returncode == 2
    assert "is being written by process" in refused[0].stderr and "give another --out" in refused[0].stderr
    assert "Traceback" not in refused[0].stderr
    assert not list(tmp_path.rglob(".lock")) and not (tmp_path / "x").exists()


def test_only_the_first_of_several_processes_takes_the_lock(
    tmp_path: Path, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LockedError("taken")

    monkeypatch.setattr("ofa.training.trainer.only_writer", refuse)
    with pytest.raises(LockedError, match="taken"):
        train(tiny_recipe(), tmp_path / "run")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("ofa.training.trainer._Trainer", _Stop)
    with pytest.raises(UsageError, match="went on"):
        train(tiny_recipe(), tmp_path / "run")


class _Stop:
    def __init__(self, *_: object, **__: object) -> None:
        raise UsageError("went on")


# -- a full disk -------------------------------------------------------------------------------------------------------


def test_a_full_disk_loses_no_checkpoint(small_disk: Path, trained: Run) -> None:
    recipe, out = tiny_recipe(), small_disk / "run"

    def fill(done: int, total: int, what: str) -> None:
        if done == 4:  # the first epoch, of three steps, is saved
            fill_disk(small_disk)

    message = (
        r"(run|step-000000006.safetensors|metrics.csv): No space left on device \(\d[\d,]* bytes free.*\); make space"
    )
    with pytest.raises(NoSpaceError, match=message):
        train(recipe, out, progress=fill)
    assert [path.name for path in checkpoints_in(out / "checkpoints")] == ["step-000000003.safetensors"]
    assert not list(out.rglob("*.part"))
    (small_disk / "ballast").unlink()
    assert train(recipe, out, resume=True).weights_sha256 == trained.weights_sha256
