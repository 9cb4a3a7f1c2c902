"""What can go wrong that the user can mend: the base of all our errors, and the message about an unknown name."""

from __future__ import annotations

import errno
import reprlib
from collections.abc import Iterable
from difflib import SequenceMatcher


class OfaError(Exception):
    """What was asked for cannot be done; the message says what, where, which value, and what to do next.

    All errors of this package that a user can cause are of it, and of the built-in class that fits, such as
    :class:`ValueError`. The command line shows their message and ends with their status; anything else is a fault of
    ours.
    """

    exit_status = 2


class UsageError(OfaError, ValueError):
    """An argument makes no sense, or two do not go together."""


REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "give a place that you may read and write, or change its permissions",
    errno.EPERM: "give a place that you may read and write, or change its permissions",
    errno.EROFS: "give a place that can be written",
    errno.ENOTDIR: "a file is where a folder should be; give another path",
    errno.EISDIR: "a folder is where a file should be; give another path",
    errno.EEXIST: "give another path, or move away what is there",
    errno.ENOSPC: "make space, or give another place",
    errno.EDQUOT: "make space, or give another place",
}


def refusal_message(error: OSError) -> str:
    """What the system refused, of which file, and what to do about it."""
    paths = " -> ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
    where = f"{paths}: " if paths else ""
    remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
    return f"{where}{error.strerror or error}{remedy}"


MAX_NAME = 200
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 200
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 10
_REPR.maxlevel = 2


def shown(value: object) -> str:
    """A value for a message, cut where it is long or deep: it may come from anybody's file."""
    try:
        return _REPR.repr(value)
    except ValueError:  # a whole number of thousands of digits, which Python does not write
        return f"a {type(value).__name__} that cannot be written"


def printable(text: str, *, keep: str = "") -> str:
    """Text for a terminal: what would steer it, or turn the direction of what follows, is shown by its number.

    Args:
        keep: Characters that may steer it.
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def unknown_name_message(kind: str, name: object, known: Iterable[str], *, max_listed: int | None = None) -> str:
    """Say that ``name`` is not one of ``known``, with the nearest spelling first.

    Args:
        kind: What ``known`` are names of.
        max_listed: List no more than so many of them, the nearest ones; all by default.
    """
    known, text = list(known), name[:MAX_NAME] if isinstance(name, str) else shown(name)
    likeness = {each: SequenceMatcher(None, text.lower(), each.lower()).ratio() for each in known}
    near = sorted(known, key=likeness.__getitem__, reverse=True)
    hint = f"; did you mean {near[0]!r}?" if near and likeness[near[0]] >= 0.6 else ";"
    if max_listed is None or len(known) <= max_listed:
        return f"unknown {kind} {shown(name)}{hint} known: {', '.join(known) or 'none'}"
    return f"unknown {kind} {shown(name)}{hint} the nearest of {len(known)}: {', '.join(near[:max_listed])}"
