"""What a data set is, in three lines for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa.data.readers.source import Labelled
from ofa.data.splits import SPLITS, Splits

MAX_CHARS = 80


def describe(source: Labelled, splits: Splits) -> str:
    """Samples and classes; samples of each split; the rarest and the commonest class; and what was not read, if any.

    How often classes are in masks is not counted.
    """
    names = [_printable(name) for name in source.classes]
    sizes = {split: f"{split} {len(splits[split]):,}" for split in SPLITS}
    if "calibration" not in splits.distinct:
        sizes["train"] += f" ({sizes.pop('calibration')} of them)"
    used = sum(len(splits[split]) for split in splits.distinct)
    if used < len(source.labels):
        sizes["unused"] = f"unused {len(source.labels) - used:,}"
    lines = [
        f"{len(source.labels):,} {source.what}" + (f" of {len(names)} classes: {_cut(names)}" if names else ""),
        ", ".join(sizes.values()),
        *([_frequencies(source, names)] if source.strata == source.classes else []),
        *(f"not read: {_printable(what)}" for what in source.ignored),
    ]
    return "\n".join(lines)


def _frequencies(source: Labelled, names: Sequence[str]) -> str:
    counts = np.bincount(source.labels, minlength=len(names))
    present = np.flatnonzero(counts)
    rarest, commonest = int(present[counts[present].argmin()]), int(counts.argmax())
    return (
        f"rarest class {_cut(names[rarest : rarest + 1])} {counts[rarest]:,}, commonest "
        f"{_cut(names[commonest : commonest + 1])} {counts[commonest]:,}: 1 to {counts[commonest] / counts[rarest]:.3g}"
    )


def _cut(names: Sequence[str]) -> str:
    """Names in a line: long ones are cut, and of many the first ones said."""
    short = [name if len(name) <= 20 else f"{name[:19]}…" for name in names]
    num = 1
    while num < len(short) and len(", ".join(short[: num + 1])) <= MAX_CHARS:
        num += 1
    return ", ".join(short[:num] + ["…"] * (num < len(short)))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
