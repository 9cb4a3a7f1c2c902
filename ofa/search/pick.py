"""Pick the best subnet within each latency budget, measured before it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.cost.latency_table import LATENCIES
from ofa.errors import OfaError, UsageError
from ofa.metrics import Metric
from ofa.space import Arch

MEASURED = (*LATENCIES, "latency_ms_p99")
HEADROOM = 0.03  # of a budget, that a pick's measured median must leave: medians drift on shared machines
MAX_ROUNDS = 5


class InfeasibleBudgetError(OfaError, ValueError):
    """No subnet of the space is fast enough.

    Attributes:
        nearest_ms: The least budget that the fastest known subnet would keep.
    """

    def __init__(
        self, budget_ms: float, fastest_ms: float, *, device: str, how: str, headroom: float = HEADROOM
    ) -> None:
        self.budget_ms = budget_ms
        # Rounded up, so that asking again for what the message names does not fail.
        self.nearest_ms = float(np.ceil(fastest_ms * (1 + headroom) * 1000) / 1000)
        super().__init__(
            f"no subnet keeps a budget of {budget_ms:g} ms on device {device!r}: the fastest is {how} at "
            f"{fastest_ms:.3f} ms; ask for at least {self.nearest_ms:.3f} ms ({100 * headroom:g} % headroom included)"
        )


def check_budgets(budgets_ms: Sequence[float]) -> None:
    """:class:`UsageError` unless all are positive numbers of milliseconds."""
    if not all(0 < budget < np.inf for budget in budgets_ms):
        raise UsageError(f"budgets are positive numbers of milliseconds, not {list(budgets_ms)}")


def pick_within_budgets(
    candidates: pd.DataFrame,
    budgets_ms: Sequence[float],
    *,
    metric: Metric,
    evaluate: Callable[[list[Arch]], npt.NDArray[np.float64]],
    measure_ms: Callable[[list[Arch]], pd.DataFrame],
    device: str,
    column: str = "latency_ms_p50",
    num_candidates: int = 4,
    also: Sequence[int] = (),
) -> tuple[pd.DataFrame, list[int]]:
    """Evaluate and measure the most promising candidates, a few per budget and round, and pick among these.

    A round proposes, for each budget, the candidates that should keep it and look better than what is known to keep it;
    "should" compares predicted latency times the slowdown (measured over predicted) found so far. All budgets'
    proposals are measured together, so that they can be interleaved. Rounds end when there is nothing to propose, or
    after ``MAX_ROUNDS``; while nothing keeps a budget, the last round tries the fastest.

    Args:
        candidates: One row per architecture: ``arch`` (:class:`Arch`), the metric as ``predicted_…`` and ``measured_…``
            (NaN where unknown), ``predicted_latency_ms``, and ``is_front`` (chosen for its prediction).
        evaluate: Gives the true metric of each architecture, in order.
        measure_ms: Gives ``latency_ms_p10``, ``_p50``, ``_p90`` and ``_p99`` of each architecture, in order.
        column: Which of these must keep a budget.
        also: Rows that are measured in the first round in any case.

    Returns:
        ``candidates``, numbered from 0, with more accuracies known and the measured latencies (NaN where not
        measured), and the row number of each budget's pick.

    Raises:
        InfeasibleBudgetError: If nothing that was measured keeps a budget.
    """
    table = candidates.reset_index(drop=True).reindex(columns=[*candidates.columns, *MEASURED])
    limits_ms = [budget / (1 + HEADROOM) for budget in budgets_ms]
    for remaining in reversed(range(MAX_ROUNDS)):
        proposed = {
            row for limit in limits_ms for row in _propose(table, metric, limit, num_candidates, remaining == 0, column)
        }
        wanted = sorted(proposed | (set(also) if remaining == MAX_ROUNDS - 1 else set()))
        if not wanted:
            break
        archs = table.loc[wanted, "arch"].to_list()
        table.loc[wanted, metric.of("measured")] = evaluate(archs)
        table.loc[wanted, list(MEASURED)] = measure_ms(archs).reindex(columns=MEASURED).to_numpy(dtype=np.float64)
    picks = []
    for budget, limit in zip(budgets_ms, limits_ms, strict=True):
        best = best_within(table, metric, limit, column)
        if best is None:
            fastest_ms = float(table[column].min())
            raise InfeasibleBudgetError(budget, fastest_ms, device=device, how="measured")
        picks.append(best)
    return table, picks


def best_within(table: pd.DataFrame, metric: Metric, limit_ms: float, column: str = "latency_ms_p50") -> int | None:
    """The row of the best subnet whose measured latency keeps a limit, the fastest of equals; or ``None``."""
    holding = table[table[column] <= limit_ms]
    best = holding.sort_values([metric.of("measured"), column], ascending=[not metric.higher_is_better, True])
    return None if best.empty else int(best.index[0])


def pick_entry(row: Mapping[Hashable, Any], metric: Metric, budget_ms: float, costs: Sequence[str]) -> dict[str, Any]:
    """An entry of ``picks`` in ``selected.json``."""
    values = [metric.of("predicted"), metric.of("measured"), "predicted_latency_ms"]
    known = [name for name in MEASURED if row.get(name) == row.get(name)]  # not those that are not-a-number
    latency_ms = {name.removeprefix("latency_ms_"): row[name] for name in known if name in row}
    return {
        "budget_ms": float(budget_ms),
        "arch": dict(row["arch"]),
        **{name: row[name] for name in values},
        metric.interval_key: list(metric.interval({**row, metric.name: row[metric.of("measured")]})),
        "num_images": int(row["num_images"]),
        "measured_latency_ms": latency_ms["p50"],
        "latency_ms": latency_ms,
        **{name: row[name] for name in costs},
    }


def _propose(
    table: pd.DataFrame, metric: Metric, limit_ms: float, num: int, is_last_round: bool, column: str
) -> list[int]:
    """Rows worth measuring for one budget, at most ``num``."""
    values = table[metric.of("measured")].fillna(table[metric.of("predicted")] - _optimism(table, metric))
    worth = metric.sign * values
    measured = table[column].notna()
    holding = table[column] <= limit_ms
    slowdown = (table[column] / table["predicted_latency_ms"]).median() if measured.any() else 1.0
    promising = ~measured & (table["predicted_latency_ms"] * slowdown <= limit_ms)
    if holding.any():
        promising &= worth > worth[holding].max()
    elif is_last_round or not promising.any():
        return table.loc[~measured, "predicted_latency_ms"].nsmallest(num).index.to_list()
    order = table.assign(worth=worth)[promising].sort_values(["worth", "predicted_latency_ms"], ascending=[False, True])
    return order.index[:num].to_list()


def _optimism(table: pd.DataFrame, metric: Metric) -> npt.NDArray[np.float64]:
    """By how much predictions exceed the truth around each row's latency, judged by the evaluated front.

    The front is chosen for high predictions, so it gathers those that err upwards; uncorrected, whatever has not been
    evaluated yet would look better than what has.
    """
    known = table[table["is_front"] & table[metric.of("measured")].notna()].sort_values("predicted_latency_ms")
    if known.empty:
        return np.zeros(len(table))
    excess = known[metric.of("predicted")] - known[metric.of("measured")]
    smooth = excess.rolling(5, center=True, min_periods=1).median()
    return np.interp(table["predicted_latency_ms"], known["predicted_latency_ms"], smooth)
