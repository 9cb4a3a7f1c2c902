"""Reading and writing the project's own files: atomically, with a ``format`` number that readers check."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa.errors import REMEDIES, OfaError, UsageError, shown
from ofa.system import hold

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


class FileFormatError(OfaError, ValueError):
    """A file is missing, truncated, or not what it should be."""


FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def check_file_name(what: str, name: str) -> None:
    """:class:`UsageError` unless a file can be called so that leaves no folder, is not hidden, and no option's name."""
    if not FILE_NAME.fullmatch(name):
        raise UsageError(f"{what} {shown(name)} must be up to 64 letters, digits, '_', '-' or '.'; choose another")


class NoSpaceError(OfaError, OSError):
    """A disk is full."""


@contextmanager
def enough_space(path: Path, num_bytes: int = 0) -> Iterator[None]:
    """:class:`NoSpaceError` in place of what a full disk makes the block raise: libraries have errors of their own.

    Args:
        path: What is written, for the message.
        num_bytes: How much that takes, where it is known.
    """
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))  # as libraries in Rust say it
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if number not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(next(each for each in (path, *path.absolute().parents) if each.exists())).free
        needed = f", {num_bytes:,} needed" if num_bytes else ""
        raise NoSpaceError(f"{path}: {os.strerror(number)} ({free:,} bytes free{needed}); {REMEDIES[number]}") from None


def resolved(path: Path | str) -> Path:
    """Where a path leads, links and ``..`` followed, whether anything is there or not; short if it was given so."""
    try:
        real, here = Path(path).resolve(), Path.cwd()
    except RuntimeError as error:  # links that lead in a circle
        raise UsageError(f"{path} leads nowhere ({error}); give another place") from None
    return real.relative_to(here) if not Path(path).is_absolute() and here in real.parents else real


# -- written beside its place, then renamed ----------------------------------------------------------------------------

WORKSPACE = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}(?P<part>\.part)?")


@contextmanager
def workspace(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path``, gone when the block ends, for ``new``, what is to become it.

    What was at ``path`` may be in it for a moment as ``old``, and is put back. A lock in it ends with the process, by
    which :func:`remove_leftovers` knows what a killed one left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = None
    while descriptor is None:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        descriptor = _lock_of(folder, wait=True)
    try:
        yield folder
    finally:
        _clear(folder, path)
        os.close(descriptor)


def _lock_of(folder: Path, *, wait: bool) -> int | None:
    """The open lock of a workspace; ``None`` if it is another's, is gone, or nobody can tell."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except (FileNotFoundError, PermissionError):
        return None
    is_ours = hold(descriptor, wait=wait)
    if (is_ours or (is_ours is None and wait)) and os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)
    return None


def _clear(folder: Path, path: Path) -> None:
    if (folder / "old").exists() and not os.path.lexists(path):
        (folder / "old").rename(path)
    shutil.rmtree(folder)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove what killed processes left of files and folders being written; put back what they had taken away.

    Args:
        folder: Where these are.
        name: Only of this one; of all by default.
    """
    for space in folder.glob(f".{glob.escape(name) or '*'}.*"):
        found = WORKSPACE.fullmatch(space.name)
        if found is None or (name and found["name"] != name) or space.is_symlink() or not space.is_dir():
            continue
        inside = {entry.name for entry in space.iterdir()}
        # Killed at once, and in earlier versions, there is no lock; anything else that is called so is not ours.
        if not inside <= {"new", "old"} and not (found["part"] and "lock" in inside):
            continue
        if (descriptor := _lock_of(space, wait=False)) is not None:
            _clear(space, folder / found["name"])
            os.close(descriptor)


@contextmanager
def atomic_path(path: Path | str, num_bytes: int = 0) -> Iterator[Path]:
    """Give a temporary path; rename it to ``path`` only if the block succeeds.

    A killed process leaves either the old file or the new one, never half of one.

    Args:
        num_bytes: How long it will be, where that is known: for the message if the disk is full.

    Raises:
        NoSpaceError: If the disk is full.
    """
    path = Path(path)
    with enough_space(path, num_bytes), workspace(path) as folder:
        temporary = folder / f"new{path.suffix}"
        temporary.touch()
        yield temporary
        sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)


def sync(path: Path) -> None:
    """See to it that a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomic(path: Path | str, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path | str, data: Any, *, indent: int | None = 2) -> None:
    """Write JSON; NaN and infinity are refused, because other readers refuse them."""
    write_text_atomic(path, json.dumps(data, indent=indent, allow_nan=False) + "\n")


def write_csv_atomic(path: Path | str, table: pd.DataFrame) -> None:
    """Write a table; text that a spreadsheet would take for a formula is quoted, as it may be anybody's name."""
    with atomic_path(path) as temporary:
        formulas = {str(name): list(map(_no_formula, table[name])) for name in table if _has_formulas(table[name])}
        table.assign(**formulas).to_csv(temporary, index=False, lineterminator="\n")


def _has_formulas(cells: Iterable[Any]) -> bool:
    return any(_no_formula(cell) is not cell for cell in cells)


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str) or not ("\r" in cell or cell.startswith(FORMULA_BEGINS)):
        return cell
    plain = cell.replace("\r", " ")  # which pandas does not quote, so that another row would begin there
    return f"'{plain}" if cell.startswith(FORMULA_BEGINS) else plain


def read_json(path: Path | str, *, kind: str, remedy: str, formats: Collection[int] = (FORMAT,)) -> dict[str, Any]:
    """Read a JSON object and check its ``format`` number.

    Args:
        kind: What the file is, for messages: "latency table", "run folder".
        remedy: What the user can do about a bad file.
        formats: Numbers that are read.

    Raises:
        FileFormatError: If it is missing, not JSON, not an object, or of another format.
    """
    path = Path(path)
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileFormatError(f"no {kind} at {path}; {remedy}") from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileFormatError(f"{kind} {path} cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise FileFormatError(f"{kind} {path} is truncated or not JSON ({error}); {remedy}") from None
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if type(found) is not int or found not in formats:
        known = " and ".join(map(str, formats))
        raise FileFormatError(f"{kind} {path} has format {shown(found)}, this version reads {known}; {remedy}")
    return data


MAX_DEPTH = 50
TOO_DEEP = f"it is nested more than {MAX_DEPTH} deep"
MAX_WHOLE = (1 << 63) - 1
_LONG = re.compile(r"[0-9]{19}")
_ZERO, _SURROGATE = (re.compile(rf"(?<!\\)(?:\\\\)*\\u{digits}") for digits in ("0000", "[dD][89a-fA-F]"))


def parse_json(text: str) -> Any:
    """JSON from anywhere, such as this package writes it.

    Raises:
        ValueError: If it is none, nested deeper than anything is, or holds numbers that are not finite or beyond 64
            bits, or text that no file can hold.
    """
    parse_int = _whole if _LONG.search(text) else None  # seconds where a million samples are numbered
    try:
        data = json.loads(text, parse_int=parse_int, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    check_depth(data)
    if _ZERO.search(text):
        raise ValueError("it holds a zero character")
    if _SURROGATE.search(text):
        json.dumps(data, ensure_ascii=False).encode()  # fails unless two of them make a character
    return data


def check_depth(data: Any) -> None:
    """:class:`ValueError` if plain data is nested deeper than anything is."""
    level = [data]
    for _ in range(MAX_DEPTH):
        level = [
            entry
            for each in level
            for entry in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
            if isinstance(entry, (dict, list))
        ]
    if level:
        raise ValueError(TOO_DEEP)


def _whole(text: str) -> int:
    number = int(text) if len(text) < 30 else MAX_WHOLE + 1  # Python converts thousands of digits slowly, or not at all
    if abs(number) > MAX_WHOLE:
        raise ValueError(f"a whole number of {len(text.lstrip('-'))} digits is beyond 64 bits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is no finite number")
    return number


def sha256_of_file(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_csv(
    path: Path | str,
    *,
    text: Sequence[str] = (),
    numbers: Sequence[str] = (),
    optional: Sequence[str] = (),
    kind: str = "table",
    remedy: str,
) -> pd.DataFrame:
    """Read a CSV file and check its columns.

    Args:
        text: Columns that hold text in every row.
        numbers: Columns of finite numbers; not-a-number where a cell is empty.
        optional: Likewise, and all not-a-number in a file that lacks them.

    Raises:
        FileFormatError: If it is missing, not CSV, lacks a column, or holds something else in one.
    """
    import pandas as pd

    where = f"{kind} {path}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of columns that are partly text: they are looked at below
            table = pd.read_csv(path, dtype=dict.fromkeys(text, str))
    except FileNotFoundError:
        raise FileFormatError(f"no {where}; {remedy}") from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileFormatError(f"{where} cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, OverflowError) as error:
        raise FileFormatError(f"{where} is not a readable CSV file ({error}); {remedy}") from None
    missing = [column for column in (*text, *numbers) if column not in table]
    if missing:
        raise FileFormatError(f"{where} lacks the columns {', '.join(missing)}; {remedy}")
    if not isinstance(table.index, pd.RangeIndex):
        raise FileFormatError(f"{where} has rows that are longer than its header; {remedy}")
    table = table.reindex(columns=[*table, *(column for column in optional if column not in table)])
    for column in (*text, *numbers, *optional):
        cells = table[column]
        wrong, wanted = cells.isna(), "text"
        if column not in text:
            as_read = cells.map(str) if cells.dtype.kind == "O" else cells  # whole numbers may be beyond floats
            table[column] = found = pd.to_numeric(as_read, errors="coerce")
            wrong = (found.isna() & ~wrong) | found.abs().eq(math.inf) | (found.dtype == bool)
            wanted = "a finite number"
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            value = shown(str(cells.iloc[row]))
            raise FileFormatError(f"{where}, line {row + 2}: {column} is {value}, not {wanted}; {remedy}")
    return table
