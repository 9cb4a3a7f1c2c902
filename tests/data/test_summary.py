"""Three lines say what a data set is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofa.data import DataConfig, load_data, summary
from ofa.progress import progress_bar

from .helpers import write_folder


def test_three_lines_and_what_was_not_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"cat": 30, "dog": 60, "a very long name of a class": 10})
    write_folder(tmp_path / "test", {"cat": 4, "dog": 8})
    write_folder(tmp_path, {"extra": 3})
    data = load_data(DataConfig(name="folder", root=str(tmp_path), limit=50), image_size=8)
    assert summary(data).splitlines() == [
        "112 images of 3 classes: a very long name of…, cat, dog",
        "train 50 (calibration 50 of them), search 15, test 12, unused 35",
        "rarest class a very long name of… 10, commonest dog 68: 1 to 6.8",
        "not read: folder extra, which is named as no split",
    ]


def test_many_names_are_cut_and_control_characters_are_not_printed(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"\x1b[31m{number:02}": 4 for number in range(90)})
    lines = summary(load_data(DataConfig(name="folder", root=str(tmp_path)), image_size=8)).splitlines()
    assert lines[0].startswith("360 images of 90 classes: \N{REPLACEMENT CHARACTER}[31m00, ")
    assert lines[0].endswith(", …") and len(lines[0]) < 120
    assert all(line.isprintable() for line in lines)


def test_it_is_said_when_data_is_split_and_not_again(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 8, "dog": 8})
    config, said = DataConfig(name="folder", root=str(tmp_path)), []

    def progress(done: int, total: int, what: str) -> None:
        if not total:
            said.append(what)

    data = load_data(config, image_size=8, progress=progress)
    load_data(config, image_size=8, progress=progress, splits=data.splits.to_json())
    assert said == summary(data).splitlines()


def test_a_bar_prints_it_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        progress(0, 0, "16 images of 2 classes: [/red], dog")
    assert capsys.readouterr() == ("", "  16 images of 2 classes: [/red], dog\n")
