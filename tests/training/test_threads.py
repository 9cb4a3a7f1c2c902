from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import torch

from ofa.training import threads
from ofa.training.threads import torch_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def machine(monkeypatch: pytest.MonkeyPatch, *, load: float, cores: int = 4, own_seconds: float = 0.0) -> list[str]:
    """A machine with a load, of which this process made a part in its first minute; what it is said."""
    monkeypatch.setattr(threads, "_BEGAN", time.monotonic())
    monkeypatch.setattr(time, "process_time", lambda: own_seconds)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    return []


@pytest.mark.parametrize(
    ("load", "wanted", "inside", "message"),
    [
        (3.9, None, 2, ""),
        (6.0, None, 1, "torch takes one thread instead of 2; train.threads=2 keeps them"),
        (6.0, 0, 1, "torch takes one thread instead of 2; train.threads=2 keeps them"),
        (6.0, 3, 3, "3 threads will wait for each other; one is faster then"),
        (6.0, 1, 1, ""),
        (0.5, 3, 3, ""),
    ],
)  # fmt: skip
def test_a_busy_machine_gets_one_thread_unless_told(
    load: float, wanted: int | None, inside: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = machine(monkeypatch, load=load)
    with torch_threads(wanted, key="train.threads", progress=lambda done, total, what: said.append(what)):
        assert torch.get_num_threads() == inside
    assert said == ([f"this machine is busy (load 1.5 a core): {message}"] if message else [])


def test_what_this_process_does_itself_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads for a minute, as training before a search in one command."""
    said = machine(monkeypatch, load=5.0, own_seconds=120.0)
    with torch_threads(progress=lambda done, total, what: said.append(what)):
        assert torch.get_num_threads() == 2
    assert not said


def test_threads_are_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, load=9)
    with pytest.raises(KeyError), torch_threads():
        raise KeyError
