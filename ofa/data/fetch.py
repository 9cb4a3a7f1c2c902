"""Data sets from elsewhere, file by file into a folder to read them from: `ofa data fetch`."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit

from ofa.data.config import DataError
from ofa.data.readers.shards import DESCRIPTION, INDEX
from ofa.errors import UsageError, shown
from ofa.files import FORMAT, FileFormatError, atomic_path, read_json, remove_leftovers, resolved, write_json_atomic
from ofa.locks import only_writer
from ofa.progress import Progress

PIPE = "pipe:"
RECORD = "fetched.json"
MAX_FILES = 100_000
NUM_AT_ONCE, NUM_TRIES, TIMEOUT_SECONDS = 4, 3, 60
PAUSE_SECONDS = 2.0  # before the next try
CHUNK_BYTES = 1 << 20
MAX_WORDS = 500  # characters of what a failed command said
FILE_NAME = re.compile(r"[\w][\w.+=-]*")


@dataclass(frozen=True)
class Fetched:
    """What is there now."""

    path: Path
    files: tuple[str, ...]
    num_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "files": list(self.files), "bytes": self.num_bytes}


@dataclass(frozen=True)
class _Wanted:
    """A file, by its name there and here."""

    place: str
    name: str


def fetch(sources: Sequence[str], out: Path | str, *, progress: Progress | None = None) -> Fetched:
    """Fetch files over HTTP, or what commands print, four at a time.

    Files that are there stay; an interrupted call goes on with the next. What comes is neither unpacked nor executed.

    Args:
        sources: URLs with ranges such as ``{0000..0127}`` and choices such as ``{train,val}``; or one that ends with
            ``/``, of a folder that `ofa data shard` wrote; or ``pipe:`` with a command of the shell that prints a file.

    Raises:
        UsageError: If a source is none of these, or two files would have one name.
        DataError: If one cannot be had, or something else is at ``out``.
        LockedError: If somebody else writes there.
        NoSpaceError: If the disk is full; what is finished stays.
    """
    wanted = [each for source in sources for each in _files_of(source)]
    _check_names(wanted)
    out = resolved(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(out, command="ofa data fetch", beside=True):
        record = {"format": FORMAT, "sources": list(sources)}
        _check_destination(out, record)
        out.mkdir(exist_ok=True)
        remove_leftovers(out)
        write_json_atomic(out / RECORD, record)
        wanted += [each for source in sources if source.endswith("/") for each in _shards_of(source, out)]
        _check_names(wanted)
        _fetch_all(wanted, out, progress)
    num_bytes = sum((out / each.name).stat().st_size for each in wanted)
    return Fetched(out, tuple(each.name for each in wanted), num_bytes)


def expanded(text: str) -> Iterator[str]:
    """``a{00..02}`` is ``a00``, ``a01``, ``a02``; ``{train,val}.tar`` is ``train.tar``, ``val.tar``."""
    found = re.search(r"\{([^{}]*)\}", text)
    if found is None:
        yield text
        return
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if bounds:
        width = max(map(len, bounds.groups())) if any(each.startswith("0") for each in bounds.groups()) else 0
        first, last = map(int, bounds.groups())
        choices: Iterable[str] = (f"{number:0{width}}" for number in range(first, last + 1))
    else:
        choices = found[1].split(",")
    for choice in choices:
        yield from expanded(f"{text[: found.start()]}{choice}{text[found.end() :]}")


def _files_of(source: str) -> list[_Wanted]:
    """Files that a source names; of a folder of ours those that say what the others are."""
    places = list(itertools.islice(expanded(source), MAX_FILES + 1))
    if len(places) > MAX_FILES:
        raise UsageError(f"{shown(source)} is more than {MAX_FILES:,} files; give a part of them")
    if source.startswith(PIPE):
        return [_Wanted(command, _name_in(command)) for command in places]
    if urlsplit(source).scheme not in ("http", "https") or not urlsplit(source).netloc:
        raise UsageError(f"{shown(source)} is no URL; give http://…, https://… or {PIPE}COMMAND")
    if source.endswith("/"):
        return [_Wanted(urljoin(source, name), name) for name in (DESCRIPTION, INDEX)]
    return [_Wanted(url, unquote(urlsplit(url).path.rpartition("/")[2])) for url in places]


def _name_in(command: str) -> str:
    """What a command prints is called as the last of its words that ends as a data file does."""
    names = re.findall(r"[\w.+=-]+\.(?:tar|parquet|txt|csv|json)\b", command)
    if not names:
        raise UsageError(
            f"{shown(command)} names no .tar, .parquet, .csv, .json or .txt file; its result would have none"
        )
    return names[-1].lstrip(".-")


def _check_names(wanted: Sequence[_Wanted]) -> None:
    known: dict[str, str] = {}
    for each in wanted:
        if FILE_NAME.fullmatch(each.name) is None or each.name == RECORD:
            raise UsageError(f"{shown(each.place)} would be called {shown(each.name)} here; give the URL of a file")
        if known.setdefault(each.name, each.place) != each.place:
            raise UsageError(f"{shown(each.place)} and {shown(known[each.name])} are called alike; fetch them apart")


def _shards_of(source: str, out: Path) -> list[_Wanted]:
    """The tar files of a folder of ours, by its description."""
    _fetch_one(_Wanted(urljoin(source, DESCRIPTION), DESCRIPTION), out)
    try:
        said = read_json(out / DESCRIPTION, kind="description of shards", remedy="fetch another")
        names = [str(each["file"]) for each in said["shards"]]
    except (FileFormatError, LookupError, TypeError) as error:
        raise DataError(f"{urljoin(source, DESCRIPTION)} is none of ours ({error}); give URLs of its files") from None
    return [_Wanted(urljoin(source, name), name) for name in names if FILE_NAME.fullmatch(name)]


def _check_destination(out: Path, record: dict[str, Any]) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    with suppress(FileFormatError):
        if (out / RECORD).is_file() and read_json(out / RECORD, kind="record", remedy="") == record:
            return
    raise DataError(f"{out} holds something else, or what was fetched from elsewhere; give another --out")


def _fetch_all(wanted: Sequence[_Wanted], out: Path, progress: Progress | None) -> None:
    missing = [each for each in wanted if not (out / each.name).exists()]
    done, num_bytes = len(wanted) - len(missing), 0
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        running = [pool.submit(_fetch_one, each, out) for each in missing]
        try:
            for future in as_completed(running):
                num_bytes += future.result()
                done += 1
                if progress is not None:
                    progress(done, len(wanted), f"fetching files, {num_bytes / 1e6:,.0f} MB")
        finally:
            for future in running:
                future.cancel()


def _fetch_one(wanted: _Wanted, out: Path) -> int:
    """Number of bytes; a file is there as a whole or not at all."""
    path = out / wanted.name
    if path.exists():
        return path.stat().st_size
    for tries_left in reversed(range(NUM_TRIES)):
        try:
            with atomic_path(path) as temporary, _opened(wanted.place) as (stream, size):
                with temporary.open("wb") as file:
                    shutil.copyfileobj(stream, file, CHUNK_BYTES)
                found = temporary.stat().st_size
                if size is not None and found != size:
                    raise ConnectionError(f"{found:,} of {size:,} bytes came")
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 or not tries_left:
                raise DataError(f"{wanted.place}: {error.code} {error.reason}; see that it can be had") from None
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if not tries_left:
                reason = getattr(error, "reason", error)
                raise DataError(f"{wanted.place}: {reason}; the same command goes on where it stopped") from None
        time.sleep(PAUSE_SECONDS)
    return path.stat().st_size


@contextmanager
def _opened(place: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """What comes from there, and how much it is to be."""
    if not place.startswith(PIPE):
        with urllib.request.urlopen(place, timeout=TIMEOUT_SECONDS) as answer:
            length = answer.headers.get("Content-Length")
            yield answer, int(length) if length and length.isdigit() else None
        return
    command = place.removeprefix(PIPE)
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=said) as process:
            assert process.stdout is not None
            yield process.stdout, None
        if process.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace").strip()[-MAX_WORDS:]
            raise DataError(f"{shown(command)} ended with status {process.returncode}: {words}; mend the command")
