"""Reading and writing the project's own files: atomically, with a ``format`` number that readers check."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa.errors import OfaError, UsageError, shown

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1


class FileFormatError(OfaError, ValueError):
    """A file is missing, truncated, or not what it should be."""


FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def check_file_name(what: str, name: str) -> None:
    """:class:`UsageError` unless a file can be called so that leaves no folder, is not hidden, and no option's name."""
    if not FILE_NAME.fullmatch(name):
        raise UsageError(f"{what} {shown(name)} must be up to 64 letters, digits, '_', '-' or '.'; choose another")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it into place only if the block succeeds.

    A killed process leaves either the old file or the new one, never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path | str, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path | str, data: Any, *, indent: int | None = 2) -> None:
    """Write JSON; NaN and infinity are refused, because other readers refuse them."""
    write_text_atomic(path, json.dumps(data, indent=indent, allow_nan=False) + "\n")


def write_csv_atomic(path: Path | str, table: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


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
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileFormatError(f"no {kind} at {path}; {remedy}") from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileFormatError(f"{kind} {path} cannot be read ({error.strerror}); {remedy}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileFormatError(f"{kind} {path} is truncated or not JSON ({error}); {remedy}") from None
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if type(found) is not int or found not in formats:
        known = " and ".join(map(str, formats))
        raise FileFormatError(f"{kind} {path} has format {shown(found)}, this version reads {known}; {remedy}")
    return data


def sha256_of_file(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
