"""Where work runs makes no difference to what comes out: here, in processes, on a cluster, while workers die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ofa import engine
from ofa.engine import Here, WorkersLostError
from ofa.errors import UsageError
from ofa.optional import NotInstalledError


def squared(item: int) -> tuple[int, int]:
    time.sleep(0.05 * (item % 3 == 0))  # some come later than those behind them
    return item * item, os.getpid()


def killed_once(item: tuple[int, str]) -> int:
    """Kills its process over the fifth item, the first time."""
    number, folder = item
    mark = Path(folder) / "killed"
    if number == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(folder) / f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return 10 * number


def always_killed(item: int) -> None:
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def refused(item: int) -> int:
    if item == 3:
        raise UsageError(f"{item} is refused; give another")
    return item


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """By workers, which import the calls of this module by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))))
        yield


@pytest.fixture(scope="module", params=["processes", pytest.param("ray", marks=pytest.mark.alone)])
def two(request: pytest.FixtureRequest, importable: None) -> Iterator[Any]:
    if request.param == "processes":
        with engine.opened(2) as processes:
            yield processes
        return
    pytest.importorskip("ray")
    with engine.opened(2, "local") as cluster:
        yield cluster


def test_here_calls_are_made_when_they_are_asked_for() -> None:
    found = Here().map(squared, range(4))  # type: ignore[arg-type]
    assert [value for value, _ in found] == [0, 1, 4, 9]


def test_results_come_in_order(two: Any) -> None:
    found = list(two.map(squared, list(range(12))))
    assert [value for value, _ in found] == [item * item for item in range(12)]
    assert os.getpid() not in {process for _, process in found}
    assert two.num_workers == 2
    assert list(two.map(squared, [])) == []


def test_work_of_a_worker_that_dies_is_done_again(two: Any, tmp_path: Path) -> None:
    found = list(two.map(killed_once, [(number, str(tmp_path)) for number in range(12)]))
    assert found == [10 * number for number in range(12)]
    assert (tmp_path / "killed").exists()


def test_workers_that_die_again_and_again_are_told(two: Any) -> None:
    with pytest.raises(
        WorkersLostError, match=r"3 worker processes died over the same work.*memory runs out; give fewer"
    ):
        list(two.map(always_killed, list(range(4))))
    assert [value for value, _ in two.map(squared, [3])] == [9]  # the next work is done


def where(item: int) -> str:
    return os.getcwd()


def test_calls_are_made_in_the_folder_of_who_asks(two: Any) -> None:
    assert set(two.map(where, [1, 2, 3])) == {os.getcwd()}


def paused(item: int) -> int:
    time.sleep(0.3)
    return os.getpid()


def test_there_are_more_processes_where_there_is_more_work(importable: None) -> None:
    with engine.opened(2) as processes:
        assert len(set(processes.map(paused, [0]))) == 1
        assert len(set(processes.map(paused, [0, 1, 2, 3]))) == 2


def test_an_error_is_that_of_the_call(two: Any) -> None:
    found = two.map(refused, list(range(6)))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UsageError, match=r"^3 is refused; give another$"):
        next(found)


def test_what_makes_no_sense_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for ray in (None, "local"):
        with pytest.raises(UsageError, match="--workers must be at least 1, not 0"), engine.opened(0, ray):
            pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(NotInstalledError, match=r"install it with: pip install 'ofa-toolkit\[ray\]'"),
        engine.opened(1, "local"),
    ):
        pass


@pytest.mark.alone
def test_a_cluster_of_its_own_is_no_other() -> None:
    """Wherever Ray would look, were it not told."""
    pytest.importorskip("ray")
    script = "from ofa.engine import opened\nwith opened(1, 'local') as own:\n    print(list(own.map(abs, [-3])))"
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout == "[3]\n", done.stderr


@pytest.mark.alone
def test_a_cluster_that_does_not_answer_is_told() -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(UsageError, match=r"no Ray cluster answers at '127.0.0.1:1'.*give --ray local"),
        engine.opened(1, "127.0.0.1:1"),
    ):
        pass
