"""The user's own list of files that may be executed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ofa.files import FileFormatError
from ofa.trust import UntrustedCodeError, check_trusted, trust, trust_list, trusted_files


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    return path


def check(path: Path, recorded: str | None = None) -> None:
    check_trusted(path, recorded=recorded, where="run folder r", remedy="add --trust-code")


def test_where_the_list_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trust_list() == home / "config" / "ofa" / "trusted.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(home))
    assert trust_list() == home / ".config" / "ofa" / "trusted.json"


def test_files_are_listed_by_content(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trusted_files() == {}
    monkeypatch.chdir(file.parent)
    sha256 = trust(Path("mine.py"))
    assert sha256 == hashlib.sha256(b"x = 1\n").hexdigest()
    assert trusted_files() == {sha256: str(file)}
    assert trust(file) == sha256
    file.write_text("x = 2\n")
    other = trust(file)
    assert json.loads(trust_list().read_text()) == {"format": 1, "files": {sha256: str(file), other: str(file)}}


def test_what_is_not_on_the_list_is_refused(file: Path) -> None:
    sha256 = hashlib.sha256(b"x = 1\n").hexdigest()
    with pytest.raises(UntrustedCodeError, match=f"run folder r would execute .*mine.py .*{sha256}.*add --trust-code"):
        check(file, sha256)
    trust(file)
    check(file, sha256)
    check(file)
    copy = file.with_name("copy.py")
    copy.write_text("x = 1\n")
    check(copy, sha256)


def test_what_has_changed_is_refused_though_it_is_on_the_list(file: Path) -> None:
    before = trust(file)
    file.write_text("x = 2\n")
    after = trust(file)
    check(file, after)
    with pytest.raises(
        UntrustedCodeError, match=f"no longer the code of run folder r: .*{after}, not {before}; restore"
    ):
        check(file, before)
    file.unlink()
    with pytest.raises(UntrustedCodeError, match=f"needs {file}, which is not in .*; it was {file}; restore it"):
        check(file, before)


def test_a_damaged_list_is_no_permission(file: Path) -> None:
    trust(file)
    trust_list().write_text('{"format": 1}')
    with pytest.raises(FileFormatError, match=r"list of trusted files .*trusted.json: key 'files' is missing; delete"):
        check(file)
    trust_list().write_text("[")
    with pytest.raises(FileFormatError, match="truncated or not JSON"):
        check(file)
