"""`ofa push` and `ofa pull` as a user meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import ofa.cli

from .stand_in import Hub


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ofa", *words])
    with pytest.raises(SystemExit) as ended:
        ofa.cli.main()
    assert not ended.value.code


def test_there_and_back(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, "push", str(run), "me/flowers", "--public", "--license", "mit", "--json")
    out, err = capsys.readouterr()
    told = json.loads(out)
    there = hub.repositories["me/flowers"]
    assert (told["kind"], told["path"], told["revision"]) == ("run", str(run), there.head)
    assert told["files"] == {name: len(there.files[name]) for name in told["files"]} and not there.private
    assert "me/flowers, for all to see" in err and f"pushed run {run} to {hub.url}/me/flowers: 10 files, " in err
    assert "left out: bundles/, checkpoints/, report.html, search/notes.txt, tensorboard/\n" in err
    assert there.files["README.md"].startswith(b"---\nlicense: mit\nlibrary_name: ofa-toolkit\n")

    info = json.loads(there.files["supernet.json"])
    info["recipe"]["model"]["name"] = "mine.py:net"
    more = {f"{number:02}.bin": b"" for number in range(12)}
    there.commit({**there.files, **more, "supernet.json": json.dumps(info).encode()})
    command(monkeypatch, "pull", "me/flowers", "--out", str(tmp_path / "out"))
    out, err = capsys.readouterr()
    assert not out and f"pulled run {hub.url}/me/flowers into {tmp_path / 'out'}: 9 files, " in err
    assert "08.bin, 09.bin and 2 more\n" in err
    assert "mine.py is no part of it; who has it, reads it and trusts it, adds --trust-code\n" in err
