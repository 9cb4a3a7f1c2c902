"""Files from a server on loopback and out of commands: what comes, what is wrong, what goes on."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import ofa.data.fetch
from ofa.data import DataConfig, DataError, load_data
from ofa.data.fetch import RECORD, expanded, fetch
from ofa.data.readers import read_source
from ofa.data.shards import write_shards
from ofa.errors import UsageError

from .helpers import write_folder


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; may break off, or be out of order for a while."""

    asked: list[str]
    wrong: dict[str, int]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.wrong.get(self.path, 0):
            self.wrong[self.path] -= 1
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            return
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[Handler]]]:
    (tmp_path / "there").mkdir()
    handler = type("Own", (Handler,), {"asked": [], "wrong": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "there"))) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{there.server_address[1]}/", handler
        there.shutdown()


def test_ranges_and_choices() -> None:
    assert list(expanded("a-{008..011}.tar")) == ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
    assert list(expanded("{train,val}-{9..10}")) == ["train-9", "train-10", "val-9", "val-10"]
    assert list(expanded("plain")) == ["plain"]


def test_shards_of_ours_come_as_a_whole_and_are_read(server: Any, tmp_path: Path) -> None:
    url, handler = server
    write_folder(tmp_path / "data" / "train", {"cat": 21, "dog": 30}, extension="jpg")
    source = read_source(DataConfig(name="folder", root=str(tmp_path / "data")))
    made = write_shards(source, tmp_path / "there" / "shards", shard_mb=1)
    steps: list[tuple[int, int]] = []
    found = fetch([f"{url}shards/"], tmp_path / "here", progress=lambda done, total, _: steps.append((done, total)))
    assert set(found.files) == {"dataset.json", "index.parquet", *(each["file"] for each in made.shards)}
    assert steps[-1] == (len(found.files), len(found.files))
    data = load_data(DataConfig(name="shards", root=str(tmp_path / "here")), image_size=8)
    assert len(data.source.labels) == 51 and data.classes == ("cat", "dog")
    asked = len(handler.asked)
    assert fetch([f"{url}shards/"], tmp_path / "here") == found and len(handler.asked) == asked


def test_what_breaks_off_is_tried_again_and_what_is_there_stays(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ofa.data.fetch, "PAUSE_SECONDS", 0.01)
    url, handler = server
    for name in ("train-0.tar", "train-1.tar"):
        (tmp_path / "there" / name).write_bytes(name.encode() * 100)
    handler.wrong["/train-1.tar"] = 2
    assert fetch([f"{url}train-{{0..1}}.tar"], tmp_path / "here").num_bytes == 2200
    handler.wrong["/train-1.tar"] = 9
    (tmp_path / "here" / "train-1.tar").unlink()
    with pytest.raises(DataError, match=r"train-1.tar: .*4 of 1,000 bytes|train-1.tar: .*; the same command goes on"):
        fetch([f"{url}train-{{0..1}}.tar"], tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [RECORD, "train-0.tar"]
    assert handler.asked.count("/train-0.tar") == 1


def test_what_is_not_there_is_said_at_once(server: Any, tmp_path: Path) -> None:
    url, handler = server
    with pytest.raises(DataError, match=r"train.tar: 404 File not found; see that it can be had"):
        fetch([f"{url}train.tar"], tmp_path / "here")
    assert handler.asked == ["/train.tar"]
    (tmp_path / "there" / "shards").mkdir()
    (tmp_path / "there" / "shards" / "dataset.json").write_text('{"format": 1, "classes": []}')
    with pytest.raises(DataError, match=r"dataset.json is none of ours"):
        fetch([f"{url}shards/"], tmp_path / "other")


def test_what_commands_print_becomes_files_unless_they_fail(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"train-{name}.tar").write_text(name)
    found = fetch([f"pipe:cat {tmp_path}/train-{{a,b}}.tar"], tmp_path / "here")
    assert [(tmp_path / "here" / name).read_text() for name in found.files] == ["a", "b"]
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(DataError, match=r"ended with status 3: no key; mend the command"):
        fetch(["pipe:echo half train.tar; echo no key >&2; exit 3"], tmp_path / "here")
    assert [path.name for path in (tmp_path / "here").iterdir()] == [RECORD]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["photos"], "'photos' is no URL; give http://…, https://… or pipe:COMMAND"),
        (["file:///etc/passwd"], "'file:///etc/passwd' is no URL"),
        (["https://host"], "would be called '' here; give the URL of a file"),
        (["https://host/a/..%2f..%2fb.tar"], "would be called"),
        (["https://host/.hidden"], "would be called '.hidden' here"),
        (["https://host/a/x.tar", "https://host/b/x.tar"], "are called alike; fetch them apart"),
        (["https://host/{0..9999}{0..9999}.tar"], "is more than 100,000 files; give a part of them"),
        (["pipe:curl -s https://host/data"], "names no .tar, .parquet, .csv, .json or .txt file"),
    ],
)
def test_sources_are_refused_before_anything_is_asked(sources: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        fetch(sources, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_root_that_is_a_url_says_what_to_do() -> None:
    with pytest.raises(
        DataError, match=r"https://host/s/ is not a folder here; get it first: ofa data fetch https://host"
    ):
        read_source(DataConfig(name="shards", root="https://host/s/"))
