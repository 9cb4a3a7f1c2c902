"""The user's own list of files whose code may be executed: those that they trained with, or vouched for.

A run folder may come from anybody, and what it names would be executed. The list belongs to the user, not to a run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ofa.config import Record, check_record
from ofa.errors import OfaError
from ofa.files import FORMAT, read_json, sha256_of_file, write_json_atomic
from ofa.locks import only_writer


class UntrustedCodeError(OfaError, ValueError):
    """A stored result names code that the user has not vouched for, or that is no longer what it was."""


@dataclass(frozen=True, kw_only=True)
class _Trusted(Record):
    files: dict[str, str]


def trust_list() -> Path:
    """Where the list is: ``$XDG_CONFIG_HOME/ofa/trusted.json``, by default below ``~/.config``, on every system."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ofa" / "trusted.json"


def trusted_files() -> dict[str, str]:
    """sha256 -> the absolute path of a file of that content, when it was put on the list."""
    path, remedy = trust_list(), "delete it to begin a new one"
    if not path.exists():
        return {}
    data = read_json(path, kind="list of trusted files", remedy=remedy)
    return check_record(_Trusted, data, where=f"list of trusted files {path}", remedy=remedy).files


def trust(path: Path) -> str:
    """Put a file on the list, as it is now; gives its sha256."""
    sha256 = sha256_of_file(path)
    if sha256 not in trusted_files():
        with only_writer(trust_list(), command="ofa", beside=True, remedy="try again", wait_seconds=10) as file:
            write_json_atomic(file, {"format": FORMAT, "files": {**trusted_files(), sha256: str(path.resolve())}})
    return sha256


def check_trusted(path: Path, *, recorded: str | None, where: str, remedy: str) -> None:
    """Refuse code that is not on the list, or that is no longer what was recorded.

    Args:
        recorded: sha256 of the file when the result was made; ``None`` if the result does not say.
        where: What names the file, for messages: ``run folder runs/a``.
        remedy: How the user says that it may be executed as it is.

    Raises:
        UntrustedCodeError: If the file may not be executed, or is not there.
    """
    files = trusted_files()
    if not path.is_file():
        known = f"; it was {files[recorded]}" if recorded in files else ""
        raise UntrustedCodeError(f"{where} needs {path}, which is not in {Path.cwd()}{known}; restore it, or go there")
    sha256 = sha256_of_file(path)
    if recorded not in (None, sha256):
        raise UntrustedCodeError(
            f"{path} is no longer the code of {where}: its sha256 is {sha256}, not {recorded}; restore it, or, if what "
            f"changed does not matter, {remedy}"
        )
    if sha256 not in files:
        raise UntrustedCodeError(
            f"{where} would execute {path} (sha256 {sha256}), which is not on your list of trusted files "
            f"({trust_list()}); read it, and if it may run, {remedy}"
        )
