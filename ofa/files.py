"""Reading and writing the project's own files: atomically, with a ``format`` number that readers check."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa.errors import OfaError, UsageError, shown

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


def read_csv(
    path: Path | str,
    columns: Sequence[str] = (),
    *,
    numbers: Sequence[str] = (),
    json_in: Sequence[str] = (),
    remedy: str,
) -> pd.DataFrame:
    """Read a CSV file.

    Args:
        columns: What it has besides.
        numbers: Columns of numbers, which may be missing but are finite.
        json_in: Columns of JSON objects.

    Raises:
        FileFormatError: If it is missing or something else.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise FileFormatError(f"no {path}; {remedy}") from None
    except (OSError, ValueError, TypeError) as error:
        raise FileFormatError(f"{path} is not a readable CSV file ({error}); {remedy}") from None
    if missing := [column for column in (*json_in, *columns, *numbers) if column not in table]:
        raise FileFormatError(f"{path} lacks the columns {', '.join(missing)}; {remedy}")
    check_numbers(table, numbers, where=path, remedy=remedy)
    for column in json_in:
        if (cell := next((cell for cell in table[column] if not _is_object(cell)), None)) is not None:
            raise FileFormatError(f"{path} holds in column {column!r} no JSON object: {shown(cell)}; {remedy}")
    return table


def check_numbers(table: pd.DataFrame, columns: Sequence[str], *, where: Path | str, remedy: str) -> None:
    """:class:`FileFormatError` unless columns hold numbers, which may be missing but are finite."""
    for column in columns:
        if table[column].dtype.kind not in "fiu" or table[column].isin([math.inf, -math.inf]).any():
            raise FileFormatError(f"{where} holds in column {column!r} what is no number; {remedy}")


def _is_object(cell: Any) -> bool:
    try:
        return isinstance(parse_json(cell), dict)
    except (ValueError, TypeError):
        return False


def parse_json(text: str | bytes) -> Any:
    """JSON from anybody; :class:`ValueError` if it is none, nested without end, or has numbers that are not finite."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not finite")
    return number


def read_json(path: Path | str, *, kind: str, remedy: str, format: int = FORMAT) -> dict[str, Any]:
    """Read a JSON object and check its ``format`` number.

    Args:
        kind: What the file is, for messages: "latency table", "run folder".
        remedy: What the user can do about a bad file.

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
    if not isinstance(data, dict) or data.get("format") != format:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise FileFormatError(f"{kind} {path} has format {shown(found)}, this version reads {format}; {remedy}")
    return data


_KINDS = {float: "a number", int: "a whole number", str: "text", dict: "an object", list: "a list"}


def check_keys(data: Any, shape: Any, *, where: str, remedy: str) -> None:
    """:class:`FileFormatError` unless JSON data has keys of the right kinds; it may have others besides.

    Args:
        shape: A type, a list of what all entries are, or a mapping from keys to what they hold; what belongs to a key
            that ends in ``?`` may be missing or null.
    """
    kind = type(shape) if isinstance(shape, dict | list) else shape
    is_number = isinstance(data, int | float) and not isinstance(data, bool)
    if not (is_number if kind is float else type(data) is kind):
        raise FileFormatError(f"{where} must be {_KINDS[kind]}, not {shown(data)}; {remedy}")
    if isinstance(shape, list):
        for number, entry in enumerate(data):
            check_keys(entry, shape[0], where=f"{where}[{number}]", remedy=remedy)
    elif isinstance(shape, Mapping):
        if missing := sorted(key for key in shape if not key.endswith("?") and key not in data):
            raise FileFormatError(f"{where} lacks {', '.join(missing)}; {remedy}")
        for key, inner in shape.items():
            name = key.removesuffix("?")
            if name == key or data.get(name) is not None:
                check_keys(data[name], inner, where=f"{where}: {name}", remedy=remedy)


def sha256_of_file(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
