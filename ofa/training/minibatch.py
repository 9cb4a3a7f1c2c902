"""Parts of a mini-batch, and of what is known of its samples: pytrees of tensors, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from ofa.tasks import mean_of


def nth_part(rows: range, part: tuple[int, int]) -> range:
    """The i-th of n parts of some rows."""
    index, num_parts = part
    return rows[len(rows) * index // num_parts : len(rows) * (index + 1) // num_parts]


def in_parts(rows: range, num_parts: int) -> list[range]:
    """Parts as long as each other, to one row; fewer where there are not as many rows."""
    return [nth_part(rows, (index, num_parts)) for index in range(min(num_parts, len(rows)))]


def taken(values: Any, rows: range) -> Any:
    """Some samples."""
    return tree_map_only(Tensor, lambda tensor: tensor[rows.start : rows.stop], values)


def joined(values: Sequence[Any]) -> Any:
    """Samples behind each other again."""
    return values[0] if len(values) == 1 or values[0] is None else tree_map(lambda *each: torch.cat(each), *values)


def mixed(outer: Any, in_place: Any, *, share: float) -> Any:
    """What to learn: ``share`` of what the outer teacher says, the rest of what the largest subnet does."""
    if outer is None or in_place is None:
        return in_place if outer is None else outer
    return outer if share == 1 else mean_of([outer, in_place], weights=[share, 1 - share])
