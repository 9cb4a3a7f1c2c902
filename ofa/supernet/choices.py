"""What a user may ask to vary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from ofa.errors import unknown_name_message
from ofa.space import SpaceError

Choice: TypeAlias = int | float | str
Wanted: TypeAlias = Sequence[Choice] | Mapping[str, Sequence[Choice]]

_WHOLE = {"depth", "kernel", "heads", "width", "resolution"}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def share_of(value: Choice) -> float | None:
    """``"75%"`` as 0.75; ``None`` for a plain number."""
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else None


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What may vary, for the whole model or per stage and block.

    Each entry is a list of values in ascending order: numbers, or shares of the model's own size such as ``"75%"``.
    ``None`` is the default given here. A mapping gives lists per ``stage1`` or ``stage1.block0``, and under ``"*"`` for
    the rest. Values above what a block has are left out there; its own full value is always in, so that the largest
    subnet is the model itself. ``["100%"]`` therefore keeps something as it is.

    Args:
        depth: Blocks per stage. Default: from half of them (rounded up) to all.
        kernel: Odd sizes of the convolutions inside a block. Default: 3, 5, 7 and its own.
        expand: Hidden width of a block over its input width (over its output width where it is a bottleneck). Default:
            1/2, 2/3 and all of its own.
        mlp_ratio: The same of an MLP inside a block. Default: 1/2, 3/4 and all of its own.
        heads: Heads of attention. Default: 1/2, 3/4 and all of them.
        width: Channels of a stage, that is of what flows from block to block. Default: not elastic, since it costs
            pretrained weights the most; but 1/2, 3/4 and all of them in models where less than two other kinds vary.
        resolution: Input sizes in pixels. Default: four sizes from about 4/7 of the model's own to all of it.
    """

    depth: Wanted | None = None
    kernel: Wanted | None = None
    expand: Wanted | None = None
    mlp_ratio: Wanted | None = None
    heads: Wanted | None = None
    width: Wanted | None = None
    resolution: Sequence[Choice] | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Choices:
        """Check names and values; :class:`SpaceError` names the wrong one."""
        known = [entry.name for entry in fields(cls)]
        for name, wanted in values.items():
            if name not in known:
                raise SpaceError(unknown_name_message("elastic choice", name, known))
            if wanted is None:
                continue
            if isinstance(wanted, Mapping) and name != "resolution":
                for where, entries in wanted.items():
                    _check(name, entries, f"{name!r} for {where!r}")
            else:
                _check(name, wanted, repr(name))
        return cls(**values)  # type: ignore[arg-type]

    def check_places(self, stages: Iterable[str]) -> None:
        """Refuse names of stages and blocks that the model does not have."""
        known = ["*", *stages]
        for entry in fields(self):
            wanted = getattr(self, entry.name)
            for where in wanted if isinstance(wanted, Mapping) else ():
                if where not in known and where.rpartition(".block")[0] not in known:
                    raise SpaceError(unknown_name_message(f"stage in choices of {entry.name!r}:", where, known))

    def at(self, name: str, place: str) -> Sequence[Choice] | None:
        """The list for a stage or block; ``None`` where the default is wanted."""
        wanted = getattr(self, name)
        if not isinstance(wanted, Mapping):
            return wanted
        for where in (place, place.partition(".")[0], "*"):
            if where in wanted:
                return wanted[where]
        return None


def _check(name: str, entries: Any, what: str) -> None:
    values = list(entries) if isinstance(entries, (list, tuple)) else []
    shares = [share_of(value) for value in values]
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    plain = all(share is None for share in shares) and len(numbers) == len(values)
    if name == "kernel" and not plain and values and all(share is not None for share in shares):
        if values == ["100%"]:
            return
        raise SpaceError(f"choices of {what} must be odd numbers, not shares: {entries!r}")
    if not values or not (plain or all(share is not None for share in shares)):
        raise SpaceError(f"choices of {what} must be a list of positive numbers in ascending order, not {entries!r}")
    sizes = numbers if plain else [share for share in shares if share is not None]
    if any(size <= 0 for size in sizes) or sizes != sorted(set(sizes)):
        raise SpaceError(f"choices of {what} must be a list of positive numbers in ascending order, not {entries!r}")
    if plain and name in _WHOLE and any(size != int(size) for size in sizes):
        raise SpaceError(f"choices of {what} must be whole numbers, not {entries!r}")
    if plain and name == "kernel" and any(size % 2 == 0 for size in sizes):
        raise SpaceError(f"choices of {what} must be odd, not {entries!r}")
