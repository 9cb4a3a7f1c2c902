"""The splits of a run: made once, and taken again of the same samples ever after."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ofa.data.config import DataConfig
from ofa.data.identity import Identity
from ofa.data.readers.source import Labelled
from ofa.data.splits import Splits, make_splits
from ofa.data.summary import describe
from ofa.progress import Progress, notice


def settle(
    source: Labelled,
    config: DataConfig,
    stored: Mapping[str, Any] | None,
    progress: Progress | None = None,
    *,
    is_open: bool = False,
) -> Splits:
    """New splits, of which people are told, or those that were stored, of the same samples.

    Args:
        stored: What :meth:`Splits.to_json` gave.
        is_open: See :func:`make_splits`.

    Raises:
        DataError: If the data cannot be split, or is other data.
    """
    # Of several processes that train together, the first looks at every sample; the others split as it does.
    is_first = os.environ.get("RANK", "0") == "0"
    if stored is not None:
        if "identity" in stored and is_first:
            Identity.from_json(stored["identity"]).check(source, progress)
        return Splits.from_json(stored, source.labels)
    parts = make_splits(
        source.labels,
        source.strata,
        num_test=source.num_test,
        config=config,
        groups=source.groups,
        what=source.what,
        is_open=is_open,
    )
    for line in describe(source, parts).splitlines():
        notice(progress, line)
    return replace(parts, identity=Identity.of(source, progress=progress)) if is_first else parts
