"""What a user may ask to vary: lists of values, for the whole model or per stage and block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ofa.errors import shown, unknown_name_message
from ofa.space import SpaceError

Choice: TypeAlias = int | float | str
Wanted: TypeAlias = Sequence[Choice] | Mapping[str, Sequence[Choice]]

MAX_SIZE = 1 << 31
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def share_of(value: Choice) -> float | None:
    """``"75%"`` as 0.75; ``None`` for a plain number."""
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else None


def amounts(wanted: Iterable[Choice], full: float) -> list[float]:
    """Numbers as they are, shares as shares of ``full``."""
    return [float(value) if (share := share_of(value)) is None else share * full for value in wanted]


@dataclass(frozen=True)
class Choices:
    """What was asked for, by kind of dim.

    Each entry is a list of values in ascending order: numbers, or shares of the model's own size such as ``"75%"``. A
    mapping gives lists per ``stage1`` or ``stage1.block0``, and under ``"*"`` for the rest. Values above what a block
    has are left out there; its own full value is always in, so that the largest subnet is the model itself.
    ``["100%"]`` therefore keeps something as it is.
    """

    wanted: Mapping[str, Wanted]

    def check_places(self, stages: Iterable[str]) -> None:
        """Refuse names of stages and blocks that the model does not have."""
        known = ["*", *stages]
        for name, wanted in self.wanted.items():
            for where in wanted if isinstance(wanted, Mapping) else ():
                if where not in known and str(where).rpartition(".block")[0] not in known:
                    raise SpaceError(unknown_name_message(f"stage in choices of {name!r}:", where, known))

    def at(self, kind: str, place: str) -> Sequence[Choice] | None:
        """The list for a stage or block; ``None`` where the default is wanted."""
        wanted = self.wanted.get(kind)
        if not isinstance(wanted, Mapping):
            return wanted
        for where in (place, place.partition(".")[0], "*"):
            if where in wanted:
                return wanted[where]
        return None


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What a list of choices may hold.

    Args:
        whole: Numbers are whole.
        odd: Numbers are odd, and there are no shares but ``["100%"]``.
        by_place: There may be lists per stage and block.
        refusal: Why there are no such lists, and what to do.
    """

    whole: bool = False
    odd: bool = False
    by_place: bool = True
    refusal: str = ""

    def check(self, name: str, wanted: object) -> None:
        """:class:`SpaceError` if something else is wanted; it names the wrong list."""
        if self.refusal:
            raise SpaceError(self.refusal)
        if isinstance(wanted, Mapping) and self.by_place:
            for where, entries in wanted.items():
                self._check(entries, f"{name!r} for {where!r}")
        else:
            self._check(wanted, repr(name))

    def _check(self, entries: Any, what: str) -> None:
        values = list(entries) if isinstance(entries, (list, tuple)) else []
        shares = [share for value in values if (share := share_of(value)) is not None]
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if self.odd and values and len(shares) == len(values):
            if values == ["100%"]:
                return
            raise SpaceError(f"choices of {what} must be odd numbers, not shares: {shown(entries)}")
        sizes = shares or numbers
        are_sizes = len(sizes) == len(values) > 0 and all(0 < size < MAX_SIZE for size in sizes)
        if not are_sizes or sizes != sorted(set(sizes)):
            raise SpaceError(
                f"choices of {what} must be a list of positive numbers in ascending order, not {shown(entries)}"
            )
        if self.whole and any(size != int(size) for size in numbers):
            raise SpaceError(f"choices of {what} must be whole numbers, not {shown(entries)}")
        if self.odd and any(size % 2 == 0 for size in numbers):
            raise SpaceError(f"choices of {what} must be odd, not {shown(entries)}")
