"""What a search left, whoever wrote it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ofa.errors import UsageError
from ofa.files import FileFormatError
from ofa.metrics import TOP1
from ofa.search.answer import answer
from ofa.search.search_files import archs_of, read_front, read_selected

LEFT = Path(__file__).parents[1] / "fixtures" / "0.1.0" / "run" / "search" / "cpu-1t"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEFT, tmp_path / "cpu-1t"))


def test_what_an_earlier_version_left_is_read(folder: Path) -> None:
    front = read_front(folder / "front.csv", TOP1)
    for later in ("latency_ms_p99", "promised_top1_percent", "promised_low", "promised_high", "pick_from_ms"):
        assert front.pop(later).isna().all()
    pd.testing.assert_frame_equal(front, pd.read_csv(folder / "front.csv"))
    archs = archs_of(front, folder / "front.csv")
    assert [dict(arch) for arch in archs] == [json.loads(text) for text in front["arch"]]
    assert read_selected(folder / "selected.json") == json.loads((folder / "selected.json").read_text())


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("measured_top1_percent", "101", "has 101.0 as measured_top1_percent; search again"),
        ("measured_top1_percent", "good", "line 3: measured_top1_percent is 'good', not a finite number"),
        ("predicted_latency_ms", "0", "has 0.0 as predicted_latency_ms"),
        ("latency_ms_p10", "-1", "has -1.0 as latency_ms_p10"),
        ("num_images", "0", "has 0 as num_images"),
        ("macs", "inf", "line 3: macs is 'inf', not a finite number"),
        ("arch", "", "line 3: arch is 'nan', not text"),
    ],
)
def test_a_cell_that_none_can_be(folder: Path, column: str, value: str, message: str) -> None:
    table = pd.read_csv(folder / "front.csv", dtype=str)
    table.loc[1, column] = value
    table.to_csv(folder / "front.csv", index=False)
    with pytest.raises(FileFormatError, match=message):
        read_front(folder / "front.csv", TOP1)


@pytest.mark.parametrize("arch", ["5", "{", '{"resolution": [1]}'])
def test_an_architecture_that_is_none_is_named_with_its_file(folder: Path, arch: str) -> None:
    front = read_front(folder / "front.csv", TOP1)
    front.loc[0, "arch"] = arch
    with pytest.raises(FileFormatError, match=r"front .*front.csv: an architecture is .*search again"):
        archs_of(front, folder / "front.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("picks"), "key 'picks' is missing; search again"),
        (lambda data: data.update(picks=5), "picks must be a list, not 5"),
        (lambda data: data["picks"].append(5), "picks must be a mapping"),
        (lambda data: data["picks"][0].pop("arch"), "picks: key 'arch' is missing"),
        (lambda data: data["picks"][0].update(budget_ms="fast"), "budget_ms must be a finite number, not 'fast'"),
        (lambda data: data["picks"][0].update(budget_ms=0), "must be above 0"),
        (lambda data: data["picks"][0].update(measured_top1_percent="x"), "score must be a finite number, not 'x'"),
        (lambda data: data.update(predictor=[]), "predictor must be a mapping"),
        (lambda data: data["hypervolume_curve"]["front"].pop(), "must be of one length"),
        (lambda data: data.update(metric="x"), "unknown metric 'x'"),
    ],
)
def test_a_search_result_that_is_none(folder: Path, change: Callable[[Any], object], message: str) -> None:
    data = json.loads((folder / "selected.json").read_text())
    change(data)
    (folder / "selected.json").write_text(json.dumps(data))
    with pytest.raises((FileFormatError, UsageError), match=message):
        read_selected(folder / "selected.json")


@pytest.mark.parametrize("budget_ms", [float("inf"), float("nan"), 0.0, -1.0])
def test_a_budget_that_is_none_is_refused_and_leaves_the_files_alone(folder: Path, budget_ms: float) -> None:
    facts = json.loads((folder / "selected.json").read_text())["facts"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="budgets are positive numbers of milliseconds"):
        answer(folder, [budget_ms], facts=facts, costs=["macs", "params"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
