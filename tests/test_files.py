from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ofa.files import (
    FORMAT,
    FileFormatError,
    atomic_path,
    read_csv,
    read_json,
    sha256_of_file,
    write_csv_atomic,
    write_json_atomic,
    write_text_atomic,
)


def test_atomic_path_makes_folders_and_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    write_text_atomic(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [child.name for child in path.parent.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("existed", [True, False])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "x.txt"
    if existed:
        path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half of the new")
        raise KeyboardInterrupt
    assert [(child.name, child.read_text()) for child in tmp_path.iterdir()] == ([("x.txt", "old")] if existed else [])


def test_readers_see_the_old_file_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == path.suffix  # some writers choose the format by it
    assert path.read_text() == "new"


def test_json_round_trip(tmp_path: Path) -> None:
    data = {"format": FORMAT, "name": "ä", "values": [1, 2.5, None]}
    write_json_atomic(tmp_path / "x.json", data)
    assert read_json(tmp_path / "x.json", kind="thing", remedy="make one") == data
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == data


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_json_that_others_could_not_read_is_not_written(tmp_path: Path, value: object) -> None:
    path = tmp_path / "x.json"
    write_json_atomic(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json_atomic(path, {"value": value})
    assert json.loads(path.read_text()) == {"old": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_csv_round_trip(tmp_path: Path) -> None:
    table = pd.DataFrame({"arch": ['{"a":1,"b":2}', "plain"], "latency_ms": [0.1, 1 / 3]})
    write_csv_atomic(tmp_path / "x.csv", table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "x.csv"), table)
    assert b"\r" not in (tmp_path / "x.csv").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no latency table at .*x.json; make one"),
        (b"", "latency table .*x.json is truncated or not JSON .*; make one"),
        (b'{"format": 1, "rows": [1, 2', "is truncated or not JSON .*; make one"),
        (b"\xff\xfe\x00", "is truncated or not JSON .*; make one"),
        (b'{"format": 2}', "has format 2, this version reads 1; make one"),
        (b"{}", "has format None, this version reads 1; make one"),
        (b"[1]", "has format 'list', this version reads 1; make one"),
        (b'{"format": NaN}', "'NaN' is no finite number.*; make one"),
        (b'{"format": 1e999}', "'1e999' is no finite number"),
        (b'{"format": %s}' % (b"9" * 5000), "a whole number of 5000 digits is beyond 64 bits"),
        (b'{"format": -9223372036854775809}', "beyond 64 bits"),
        (b'{"x": ' + b"[" * 60 + b"]" * 60 + b"}", "nested more than 50 deep"),
        (b"[" * 100_000, "nested more than 50 deep"),
        (b'{"x": "\\u0000"}', "it holds a zero character"),
        (b'{"x": "\\ud800"}', "surrogates not allowed"),
        (b'{"format": "%s"}' % (b"x" * 5000), "has format 'xxx.{200}"),
    ],
)
def test_what_is_wrong_with_a_json_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        read_json(tmp_path / "x.json", kind="latency table", remedy="make one")


def test_json_that_only_looks_strange(tmp_path: Path) -> None:
    text = r'{"format": 1, "x": ["\\u0000", "\ud83d\ude00", -9223372036854775807, 1e-400, 0.12345678901234567890123]}'
    (tmp_path / "x.json").write_text(text)
    found = read_json(tmp_path / "x.json", kind="", remedy="")["x"]
    assert found == ["\\u0000", "\U0001f600", 1 - (1 << 63), 0.0, 0.12345678901234567890123]


def test_a_table_is_read_with_its_columns_checked(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("name,ms,note\na,1,x\nb,,\n")
    table = read_csv(tmp_path / "x.csv", text=["name"], numbers=["ms"], optional=["mj"], remedy="make one")
    assert table["name"].tolist() == ["a", "b"] and table["ms"].isna().tolist() == [False, True]
    assert table["mj"].isna().all() and list(table) == ["name", "ms", "note", "mj"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no table .*x.csv; make one"),
        (b"", "table .*x.csv is not a readable CSV file"),
        (b"name\na\n", "lacks the columns ms; make one"),
        (b"name,ms\n,1\n", "line 2: name is 'nan', not text"),
        (b"name,ms\na,1\nb,fast\n", "line 3: ms is 'fast', not a finite number; make one"),
        (b"name,ms\na,inf\n", "line 2: ms is 'inf', not a finite number"),
        (b"name,ms\na,True\n", "line 2: ms is .*True.*, not a finite number"),
        (b"name,ms\na,%s\n" % (b"9" * 400), "line 2: ms is .*, not a finite number"),
        (b"name,ms\na,1,2\n", "has rows that are longer than its header"),
        (b"name,ms\na,1\na,1,2,3\n", "is not a readable CSV file"),
        (b'name,ms\n"a,1\n', "is not a readable CSV file"),
        ("name,ms\na,1\n".encode("utf-16"), "is not a readable CSV file"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        read_csv(tmp_path / "x.csv", text=["name"], numbers=["ms"], remedy="make one")


@pytest.mark.parametrize("path", ["file/x.json", "folder"])
def test_a_path_that_cannot_be_a_file_is_reported_alike(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileFormatError, match=r"latency table .*; make one"):
        read_json(tmp_path / path, kind="latency table", remedy="make one")


def test_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "x").write_bytes(content)
    assert sha256_of_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"])
def test_text_is_no_formula_of_a_spreadsheet(cell: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"name": [cell, "plain", None], "ms": [-1.5, 2.0, np.nan], "count": [-3, 4, 5]})
    write_csv_atomic(tmp_path / "a.csv", table)
    written = pd.read_csv(tmp_path / "a.csv")
    assert written["name"].to_list()[:2] == ["'" + cell.replace("\r", " "), "plain"] and written["name"].isna()[2]
    pd.testing.assert_frame_equal(written[["ms", "count"]], table[["ms", "count"]])


def test_tables_without_formulas_are_written_as_pandas_does(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1, None], "b": ["x", 7], "c": [True, False], "d": [1, 2]}).astype({"a": object})
    write_csv_atomic(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_text() == table.to_csv(index=False, lineterminator="\n")


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e999", "[" * 100_000, "9" * 5000, '{"format": NaN}']
)
def test_json_that_is_none_is_a_bad_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileFormatError, match=r"a\.json is truncated or not JSON .*; mend it"):
        read_json(tmp_path / "a.json", kind="thing", remedy="mend it")
