"""The campaign of faults: its judge, and that it goes on where it stopped; a few trials of each kind take minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faults
import pandas as pd
import pytest

KNOWN = "Traceback (most recent call last): this is a fault of ofa"


def row(kind: str, number: int, outcome: str = "held", detail: str = "") -> dict[str, Any]:
    return dict(zip(faults.COLUMNS, (kind, number, "train", outcome, detail, 1.5), strict=True))


@pytest.mark.parametrize(
    ("status", "output", "allowed", "broke"),
    [
        (0, "done", (0, 2), None),
        (2, "error: no such folder", (0, 2), None),
        (-9, "", (0, -9), None),
        (1, "does not hold", (0, 2), "status 1, not 0 or 2: does not hold"),
        (70, KNOWN, (0, 2), "traceback: .*this is a fault of ofa"),
        (2, KNOWN, (0, 2), "traceback"),
    ],
)
def test_how_a_command_may_end(status: int, output: str, allowed: tuple[int, ...], broke: str | None) -> None:
    ended = faults.Ended(status, output)
    if broke is None:
        assert ended.judge(*allowed) is ended
        return
    with pytest.raises(faults.BrokeError, match=broke):
        ended.judge(*allowed)


def test_kinds_take_turns_and_what_is_done_is_left_out() -> None:
    assert faults.plan(["a", "b"], 5, []) == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]
    assert faults.plan(["a", "b"], 5, [row("b", 0), row("a", 1), row("c", 0)]) == [("a", 0), ("b", 1), ("a", 2)]


def test_each_kind_is_described_and_counted() -> None:
    assert faults.ABOUT.keys() == faults.KINDS.keys()
    lines = faults.summary([row("killed", 0), row("killed", 1, "broke"), row("full_disk", 0, "skipped")]).splitlines()
    assert lines[2].split(" | ")[2:] == ["2", "1", "1", "0 |"] and lines[3].endswith("| 1 | 0 | 0 | 1 |")


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With trials that do nothing but end as they are told."""
    done: list[int] = []

    def told(trial: faults.Trial) -> str:
        done.append(trial.number)
        assert trial.folder.is_dir() and not any(trial.folder.iterdir())
        if trial.number == 2:
            raise faults.BrokeError('a file, "lost"\nand found')
        if trial.number == 3:
            raise faults.SkippedError("not here")
        return f"{trial.rng.random():.6f}"

    monkeypatch.setattr(faults, "make_world", faults.World)
    monkeypatch.setitem(faults.KINDS, "killed", told)
    out = tmp_path / "results" / "faults" / "trials.csv"
    words = ["--out", str(out), "--kinds", "killed"]
    assert faults.main([*words, "--trials", "2"]) == 0 and done == [0, 1]
    assert "Everything held." in (tmp_path / "results" / "faults.md").read_text()
    assert faults.main([*words, "--trials", "4"]) == 1 and done == [0, 1, 2, 3]
    rows = pd.read_csv(out, dtype={"what": str})
    assert list(rows["outcome"]) == ["held", "held", "broke", "skipped"]
    assert rows["detail"][2] == 'a file, "lost" and found'
    text = (tmp_path / "results" / "faults.md").read_text()
    assert '| killed | 2 | a file, "lost" and found |' in text and "faults/trials.csv" in text
    out.unlink()
    faults.main([*words, "--trials", "2"])
    assert list(pd.read_csv(out, dtype={"what": str})["what"]) == list(rows["what"][:2])  # the same draws


@pytest.mark.slow
def test_a_few_trials_of_each_kind(tmp_path: Path) -> None:
    """Thirty in some minutes: what breaks is printed."""
    out = tmp_path / "faults" / "trials.csv"
    status = faults.main(["--out", str(out), "--work", str(tmp_path / "work"), "--trials", "30"])
    rows = pd.read_csv(out)
    assert len(rows) == 30 and (rows["outcome"] != "skipped").sum() >= 24
    assert status == 0, rows[rows["outcome"] == "broke"].to_string()
