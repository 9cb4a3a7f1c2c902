"""Every key of every JSON file that a command reads, taken out or of another kind: a message, and nothing else."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ofa.deploy import ElasticRuntime, read_bundle, read_candidates
from ofa.errors import OfaError
from ofa.report import write_report
from ofa.search.answer import answer
from ofa.training import Run

LEFT = Path(__file__).parent / "fixtures" / "0.1.0"
OTHERS = (None, True, -7, 0.5, "x", [], {}, [[]], {"x": []})


def changes(data: Any) -> Iterator[tuple[Any, ...]]:
    """Where something is: keys, and the first of a list."""
    entries = data.items() if isinstance(data, dict) else enumerate(data[:1]) if isinstance(data, list) else ()
    for key, value in entries:
        yield (key,)
        if key == "space":  # tests/test_space.py
            continue
        yield from ((key, *rest) for rest in changes(value))


def damaged(data: Any) -> Iterator[tuple[str, str]]:
    """What was done, and the file's new content."""
    for *path, last in changes(data):
        for other in (*OTHERS, "taken out"):
            changed = copy.deepcopy(data)
            place = changed
            for key in path:
                place = place[key]
            if other == "taken out":
                del place[last]
            else:
                place[last] = other
            yield f"{[*path, last]} {other!r}", json.dumps(changed)


def answer_again(folder: Path) -> None:
    selected = json.loads((LEFT / "run/search/cpu-1t/selected.json").read_text())
    answer(folder / "run/search/cpu-1t", [0.08], facts=selected["facts"], costs=["macs", "params"])


def open_run(folder: Path) -> None:
    run = Run.open(folder / "run")
    assert run.space.num_archs and run.space_name and run.recipe and run.task
    run.bounds()


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "read_bundle": ("bundle/bundle.json", lambda folder: read_bundle(folder / "bundle")),
    "elastic": ("elastic/elastic.json", lambda folder: ElasticRuntime(folder / "elastic", max_loaded=1)),
    "run": ("run/supernet.json", open_run),
    "export": ("run/search/cpu-1t/selected.json", lambda folder: read_candidates(folder / "run/search/cpu-1t", 0.08)),
    "search": ("run/search/cpu-1t/selected.json", answer_again),
}


@pytest.fixture
def left(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEFT, tmp_path / "left"))


def check(file: Path, read: Callable[[], object], *, every: int = 1) -> int:
    """How many damaged contents are refused; those that end otherwise, all in one message."""
    num_refused, wrong = 0, []
    for what, content in list(damaged(json.loads(file.read_text())))[::every]:
        file.write_text(content)
        try:
            read()
        except OfaError as error:
            assert str(error), what
            num_refused += 1
        except Exception as error:
            wrong.append(f"{what}: {error!r}")
    assert not wrong, "\n".join(wrong)
    return num_refused


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 7])
@pytest.mark.parametrize("name", READERS)
def test_what_is_missing_or_of_another_kind_is_an_error_of_ours(name: str, every: int, left: Path) -> None:
    file, read = READERS[name]
    read(left)
    assert check(left / file, lambda: read(left), every=every) > 20 / every


@pytest.mark.parametrize("file", ["run/supernet.json", "run/search/cpu-1t/selected.json"])
def test_the_page_of_damaged_files(file: str, left: Path) -> None:
    def read() -> None:
        write_report(left / "run", tables_dir=left / "latency_tables")

    read()
    check(left / file, read, every=61)  # a page takes a moment
