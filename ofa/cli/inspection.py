"""How `ofa inspect` shows what is elastic in a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from ofa.cli.printing import print_table, say

if TYPE_CHECKING:
    from ofa.supernet.inspect import Inspection, StageReport


def print_inspection(name: str, inspection: Inspection) -> None:
    from ofa.supernet.inspect import ranges

    largest, smallest = inspection.largest, inspection.smallest
    title = f"{name}: {inspection.model_class}"
    title += "" if inspection.resolution is None else f", {inspection.resolution} pixels"
    rows: dict[bool, list[list[str]]] = {False: [], True: []}  # above and below the stages
    for place, entries in groupby(inspection.dims, lambda dims: dims.where.partition(".")[0]):
        inside = [[e.kind, values_text(e.values, e.where.partition(".")[2])] for e in entries if len(e.values) > 1]
        rows[place == "head"] += labelled([place or "model", "", ""], inside)
    for stages in alike_stages(inspection.stages):
        first, last = stages[0], stages[-1]
        inside = [[dims.kind, values_text(dims.values, dims.where)] for dims in first.dims]
        if len(first.depths) > 1:
            inside.insert(0, ["depth", values_text(first.depths)])
        where = ranges("stage", [int(stage.name.removeprefix("stage")) for stage in stages])
        path = first.path if first is last else f"{first.path} … {last.path}"
        rows[False] += labelled([where, path, blocks_text(first.blocks)], inside or [["–", ""]])
    print_table(["where", "module", "blocks", "elastic", "values"], rows[False] + rows[True], title=title)
    if inspection.not_elastic:
        table = [[entry.where or "model", entry.kind, entry.reason] for entry in inspection.not_elastic]
        print_table(["where", "not elastic", "why"], table)
    if inspection.unknown_operations:
        operations = ", ".join(inspection.unknown_operations)
        say(f"channels could not be followed through {operations}; what these touch stays whole")
    say(
        f"{count_text(inspection.num_subnets)} subnets; MACs {span_text(smallest.macs, largest.macs)}; "
        f"parameters {span_text(smallest.params, largest.params)}"
    )


def alike_stages(stages: Sequence[StageReport], *, many: int = 12) -> list[list[StageReport]]:
    """Stages of which the same is to be said: neighbours, and all of them where there are many."""
    alike: dict[Any, list[StageReport]] = {}
    run, before = 0, None
    for stage in stages:
        content = (stage.blocks, stage.depths, tuple((dims.kind, dims.where, dims.values) for dims in stage.dims))
        run += content != before
        before = content
        alike.setdefault((content, run if len(stages) <= many else 0), []).append(stage)
    return list(alike.values())


def labelled(labels: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows of a table that begin with the same labels, which stand in the first only."""
    return [[*(labels if number == 0 else [""] * len(labels)), *row] for number, row in enumerate(rows)]


def blocks_text(blocks: Sequence[tuple[str, int]], *, many: int = 4) -> str:
    """``Conv2d × 1, Block × 4``; where types change more often, how many there are of each."""
    if len(blocks) <= many:
        return ", ".join(f"{name} × {num}" for name, num in blocks)
    counts: Counter[str] = Counter()
    for name, num in blocks:
        counts[name] += num
    return ", ".join(f"{name} × {num}" for name, num in counts.items()) + ", in turns"


def values_text(values: Sequence[Any], where: str = "") -> str:
    """``block0: 3, 5, 7``; many values at equal distances in short: ``128, 132, … 224 (25 values)``."""
    steps = {b - a for a, b in pairwise(values) if not isinstance(b, str)}
    if len(values) > 8 and len(steps) == 1:
        text = f"{values[0]}, {values[1]}, … {values[-1]} ({len(values)} values)"
    else:
        text = ", ".join(map(str, values))
    return f"{where}: {text}" if where else text


def count_text(count: int) -> str:
    """``12,345``, or two digits of what is longer."""
    return f"{count:,}" if count < 10**6 else f"{Decimal(count):.1e}"


def span_text(low: int, high: int) -> str:
    """``0.05 G to 0.57 G``: the unit is that of the larger."""
    size, unit = next(((size, unit) for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if high >= size), (1, ""))
    return " to ".join(f"{value / size:.3g} {unit}".strip() for value in (low, high))
