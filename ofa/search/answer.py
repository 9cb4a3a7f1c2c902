"""Another budget, answered from what an earlier search evaluated and measured: in a moment, and without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ofa.cost.latency_table import LATENCIES
from ofa.files import write_csv_atomic, write_json_atomic
from ofa.locks import only_writer
from ofa.metrics import metric_of
from ofa.search.pick import HEADROOM, INTERVAL, best_within, check_budgets, fastest_worth, pick_entries
from ofa.search.search_files import archs_of, read_front, read_selected, speed_of

REMEDY = "run `ofa search` again, without these files"


def answer(
    folder: Path | str,
    budgets_ms: Sequence[float],
    *,
    min_metric: Sequence[float] = (),
    facts: Mapping[str, Any],
    costs: Sequence[str],
) -> dict[str, Any] | None:
    """Pick among the subnets that an earlier search measured, for other budgets or values of the metric.

    They are written as its picks.

    Args:
        folder: Where the search of one device left its files.
        facts: What that search must have gone by: weights, table, method, number of evaluations.
        costs: Names of the cost columns of ``front.csv``.

    Returns:
        The new content of ``selected.json``; ``None`` where there is no such search, or where nothing that it measured
        keeps a budget or promises a value.

    Raises:
        FileFormatError: If one of its files is damaged.
        UsageError: If a budget is none.
    """
    folder = Path(folder)
    check_budgets(budgets_ms)
    if not (folder / "selected.json").exists() or not (folder / "front.csv").exists():
        return None
    selected = read_selected(folder / "selected.json")
    is_whole = {"predictor", "hypervolume"} <= selected.keys()
    if not is_whole or selected.get("facts") != json.loads(json.dumps(facts)):
        return None
    metric = metric_of(selected)
    front = read_front(folder / "front.csv", metric)
    column = speed_of(selected).column
    known = [
        *{**dict.fromkeys(LATENCIES), column: None},
        metric.of("predicted"),
        metric.of("measured"),
        metric.of("promised"),
        *INTERVAL,
        "predicted_latency_ms",
        *metric.columns[1:],
        *costs,
    ]
    measured = front.rename(columns={"measured_latency_ms": "latency_ms_p50"}).dropna(subset=known)
    measured = measured.drop_duplicates("arch", ignore_index=True)
    found = [best_within(measured, budget / (1 + HEADROOM)) for budget in budgets_ms]
    found += [fastest_worth(measured, metric, value, column) for value in min_metric]
    rows = [row for row in found if row is not None]
    if len(rows) < len(found):
        return None
    entries = measured.loc[rows].copy()
    entries["arch"] = archs_of(entries, folder / "front.csv")
    selected["picks"] = pick_entries(entries.to_dict("records"), metric, budgets_ms, min_metric, costs, column)
    # What was only a pick before stays in the file, as part of the front.
    front["origin"] = front["origin"].replace("pick", "front")
    front = front.drop_duplicates(["arch", "origin"])
    picks = measured.loc[list(dict.fromkeys(rows))].rename(columns={"latency_ms_p50": "measured_latency_ms"})
    with only_writer(folder, command="ofa search", beside=True):
        write_csv_atomic(folder / "front.csv", pd.concat([front, picks.assign(origin="pick")])[list(front.columns)])
        write_json_atomic(folder / "selected.json", selected)
    return selected
