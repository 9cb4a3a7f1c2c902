"""A folder that one JSON file describes, with size and sha256 of every other file: written whole, read without trust.

``SHA256SUMS`` says the same, of the JSON file too, as ``sha256sum -c`` reads it. The same files give the same bytes.
Bundles and elastic artefacts are such folders.
"""

from __future__ import annotations

import json
import re
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from ofa.config import ConfigError
from ofa.errors import OfaError
from ofa.files import FileFormatError, read_json, resolved, sha256_of_file, sync, workspace
from ofa.locks import only_writer
from ofa.system import exchange, rename_new

SUMS = "SHA256SUMS"
# Parts may not begin with a dot, so that none is `..`.
PLAIN_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)
MAX_JSON_BYTES = 1 << 24
MISSING = "missing"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CheckedFolder:
    """A kind of folder.

    Args:
        info: Name of the JSON file that describes it.
        kind: What it is, for messages: ``a bundle``.
        formats: Numbers that this version reads; it writes the last.
        remedy: What the user can do about a bad one.
        error: What is raised about one.
        belongs: Whether a name at its top level may be in it.
    """

    info: str
    kind: str
    formats: tuple[int, ...]
    remedy: str
    error: type[OfaError]
    belongs: Callable[[str], bool]

    def check_destination(self, out: Path | str, *, overwrite: bool) -> None:
        """The kind's error unless one may be written to ``out``: nothing there, or one to be replaced."""
        out = resolved(out)
        if not out.exists() and not out.is_symlink():
            return
        if not out.is_dir():
            raise self.error(f"{out} exists and is not {self.kind}; it is left alone: give another folder")
        names = sorted(entry.name for entry in out.iterdir())
        strange = [name for name in names if name not in (self.info, SUMS) and not self.belongs(name)]
        if not strange and (listed := self._listed(out)):
            files = (path for path in out.rglob("*") if path.is_symlink() or not path.is_dir())
            strange = sorted({path.relative_to(out).as_posix() for path in files} - listed)
        if strange or (names and self.info not in names):
            holds = f" (it holds {(strange or names)[0]!r})"
            raise self.error(f"{out} exists and is not {self.kind}{holds}; it is left alone: give another folder")
        if names and not overwrite:
            raise self.error(f"{out} holds {self.kind}; give another folder, or replace it with --overwrite")

    def _listed(self, out: Path) -> set[str]:
        """Files that a folder says are in it; none if it cannot say."""
        try:
            if refused(out, self.info, MAX_JSON_BYTES):
                return set()
            return {self.info, SUMS, *read_json(out / self.info, kind="", remedy="", formats=self.formats)["files"]}
        except (ValueError, RecursionError, KeyError, TypeError):
            return set()

    @contextmanager
    def new(self, out: Path | str, *, overwrite: bool) -> Iterator[Path]:
        """A folder to fill; it stands at ``out`` if the block succeeds, and nobody else writes there meanwhile.

        At each instant there is the old one or the new one, whatever is killed, where the system can exchange folders;
        elsewhere the old one is put back by the next command that writes there.

        Raises:
            OfaError: The kind's, if ``out`` is taken, or if something appeared there during the block: both are kept.
            LockedError: If somebody else writes there.
        """
        self.check_destination(out, overwrite=overwrite)
        with only_writer(out, command=f"writing {self.kind}", beside=True) as place, workspace(place) as space:
            self.check_destination(place, overwrite=overwrite)  # now that nobody else can write it
            before, new = _identity(place), space / "new"
            new.mkdir()
            yield new
            for path in (*new.rglob("*"), new):
                sync(path)
            try:
                self.check_destination(place, overwrite=overwrite)
                if not _put(new, place, before, old=space / "old"):
                    raise self.error(f"{place} appeared while this was made; it is left alone")
            except self.error as error:
                kept = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
                new.replace(kept)
                raise self.error(f"{error}; the new one is {kept}") from None
            sync(place.parent)

    def seal(self, folder: Path, described: Mapping[str, Any]) -> None:
        """Write the description, with ``files`` filled in, and the sums, for the other files of a folder."""
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        names = sorted(set(found) - {self.info, SUMS})
        files = {name: {"sha256": sha256_of_file(found[name]), "bytes": found[name].stat().st_size} for name in names}
        plain = {"format": self.formats[-1], **described, "files": files}
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / self.info).write_bytes(text.encode())
        digests = {name: str(entry["sha256"]) for name, entry in files.items()}
        (folder / SUMS).write_bytes(sums_text({**digests, self.info: sha256(text.encode()).hexdigest()}).encode())

    def read(self, root: Path, parse: Callable[[dict[str, Any]], T]) -> T:
        """The description; the other files are left alone.

        Args:
            parse: Makes something of it, without its ``format``.

        Raises:
            OfaError: The kind's, if it is missing, truncated, of another format, or does not say what it should.
        """
        file = root / self.info
        problem = refused(root, self.info, MAX_JSON_BYTES)
        if problem and problem != MISSING:
            raise self.error(f"{file} is {problem}; {self.remedy}")
        try:
            data = read_json(file, kind=self.kind.split(" ", 1)[1], remedy=self.remedy, formats=self.formats)
            del data["format"]
            return parse(data)
        except FileFormatError as error:
            raise self.error(str(error)) from None
        except (ValueError, RecursionError) as error:  # a key or value that does not fit, or nesting without end
            where = "" if str(file) in str(error) else f"{file}: "
            raise self.error(f"{where}{error}; {self.remedy}") from None


def check_entries(files: Mapping[str, Any]) -> None:
    """:class:`ConfigError` unless each file is described by its sha256 and size."""
    for name, entry in files.items():
        if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
            raise ConfigError(f"files: {name!r} must have 'sha256' and 'bytes', not {entry!r}")


def sums_text(digests: Mapping[str, str]) -> str:
    """Contents of ``SHA256SUMS``."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def refused(root: Path, name: str, max_bytes: int) -> str:
    """Why a file is not even opened; empty if it may be."""
    if not PLAIN_NAME.fullmatch(name):
        return "a name that leaves the folder, or has odd characters"
    file = root
    for part in name.split("/"):
        file /= part
        if file.is_symlink():
            return "a link"
    if not file.exists():
        return MISSING
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        return "no plain file"
    return f"{status.st_size} bytes long, above the limit of {max_bytes}" if status.st_size > max_bytes else ""


def unlisted(root: Path, known: Collection[str]) -> list[str]:
    """Files, links and whatever else lies in a folder, hidden or not, and is not among the names that are known."""
    found = (file for file in root.rglob("*") if file.is_symlink() or not file.is_dir())
    return sorted({file.relative_to(root).as_posix() for file in found} - set(known))


def _identity(path: Path) -> tuple[int, int] | None:
    """By what a folder is known again; ``None`` if there is none."""
    return (status.st_dev, status.st_ino) if path.exists() and (status := path.stat()) else None


def _put(new: Path, out: Path, before: tuple[int, int] | None, *, old: Path) -> bool:
    """Put a folder where nothing is, or in the place of the one that was there before; ``False`` if that is another."""
    if (now := _identity(out)) not in (before, None):
        return False
    if now is None:
        try:
            rename_new(new, out)
        except FileExistsError:
            return False
    elif not exchange(new, out):
        out.rename(old)
        rename_new(new, out)  # if that fails, the workspace puts the old one back
    elif _identity(new) != before:
        exchange(new, out)
        return False
    return True
