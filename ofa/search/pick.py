"""Pick the best subnet within each latency budget, measured before it is chosen, and not for its luck."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.cost.latency_table import LATENCIES
from ofa.errors import OfaError, UsageError
from ofa.metrics import Metric
from ofa.search.pareto import best_first
from ofa.search.posterior import MAX_LEARNT, Posterior
from ofa.space import Arch

MEASURED = (*LATENCIES, "latency_ms_p99")
INTERVAL = ("promised_low", "promised_high")
HEADROOM = 0.03  # of a budget, that a pick's measured median must leave: medians drift on shared machines
MAX_ROUNDS = 5
REPLACE_BELOW = 0.6
FROM_MS = "pick_from_ms"
"""Column of what was measured: from which limit of latency on a subnet is the pick; not-a-number where it never is."""


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
        self.nearest_ms = budget_for(fastest_ms, headroom)
        super().__init__(
            f"no subnet keeps a budget of {budget_ms:g} ms on device {device!r}: the fastest is {how} at "
            f"{fastest_ms:.3f} ms; ask for at least {self.nearest_ms:.3f} ms ({100 * headroom:g} % headroom included)"
        )


class InfeasibleMetricError(OfaError, ValueError):
    """No subnet that is known is worth that much.

    Attributes:
        best: What the best that was measured promises.
    """

    def __init__(self, wanted: float, best: Mapping[Hashable, Any], *, metric: Metric, device: str) -> None:
        self.best = float(best[metric.of("promised")])
        bound = "at least" if metric.higher_is_better else "at most"
        low, high = (metric.number(best[bound]) for bound in INTERVAL)
        super().__init__(
            f"no subnet on device {device!r} is worth a {metric.title} of {bound} {metric.text(wanted)}: the best of "
            f"those that were measured promises {metric.text(self.best)} ({low} to {high}); ask for less, or search "
            "longer with --num-evaluations"
        )


def check_min_metric(values: Sequence[float], metric: Metric) -> None:
    """:class:`UsageError` unless all are values that the metric can have."""
    low, high = (0.0, 100.0) if metric.interval_by == "share" else (-np.inf, np.inf)
    for value in values:
        if not (np.isfinite(value) and low <= value <= high):
            raise UsageError(f"{metric.title} is never {value:g}; --min-metric takes what a subnet is to be worth")


def check_budgets(budgets_ms: Sequence[float]) -> None:
    """:class:`UsageError` unless all are positive numbers of milliseconds."""
    if not all(0 < budget < np.inf for budget in budgets_ms):
        raise UsageError(f"budgets are positive numbers of milliseconds, not {list(budgets_ms)}")


def check_replace_below(chance: float) -> None:
    """:class:`UsageError` unless it is a chance that picks can go by."""
    if not 0 < chance < 1:
        raise UsageError(
            f"a faster subnet replaces the best below a chance between 0 and 1, such as {REPLACE_BELOW}, not {chance}"
        )


def pick_within_budgets(
    candidates: pd.DataFrame,
    budgets_ms: Sequence[float],
    *,
    metric: Metric,
    evaluate: Callable[[list[Arch]], npt.NDArray[np.float64]],
    judge: Callable[[list[Arch]], Posterior],
    measure_ms: Callable[[list[Arch]], pd.DataFrame],
    device: str,
    column: str = "latency_ms_p50",
    num_candidates: int = 4,
    also: Sequence[int] = (),
    min_metric: Sequence[float] = (),
    replace_below: float = REPLACE_BELOW,
) -> tuple[pd.DataFrame, list[int]]:
    """Evaluate and measure the most promising candidates, a few per budget and round, and pick among these.

    What a subnet is worth goes by all evaluations together, see :func:`ofa.search.posterior.posterior`.
    A round proposes, for each budget, the candidates that should keep it and look better than what is known to keep it;
    "should" compares predicted latency times the slowdown (measured over predicted) found so far. All budgets'
    proposals are measured together, so that they can be interleaved. Rounds end when there is nothing to propose, or
    after ``MAX_ROUNDS``; while nothing keeps a budget, the last round tries the fastest.

    Args:
        candidates: One row per architecture: ``arch`` (:class:`Arch`), the metric as ``predicted_…`` and ``measured_…``
            (NaN where unknown), ``predicted_latency_ms``, and ``is_front`` (chosen for its prediction).
        evaluate: Gives the measured metric of each architecture, in order.
        judge: What evaluated architectures are believed to be worth, at most 1,000 of them: those that no other beats
            come first.
        measure_ms: Gives ``latency_ms_p10``, ``_p50``, ``_p90`` and ``_p99`` of each architecture, in order.
        column: Which of these must keep a budget.
        also: Rows that are measured in the first round in any case.
        min_metric: For each the fastest subnet is picked that promises so much.
        replace_below: See :func:`pick_from_ms`.

    Returns:
        ``candidates``, numbered from 0, with more accuracies known, what they promise (``promised_…`` with its
        interval, ``promised_low`` and ``promised_high``), the measured latencies (NaN where not measured) and
        :data:`FROM_MS`; and the row number of each budget's pick, then of each of ``min_metric``.

    Raises:
        InfeasibleBudgetError: If nothing that was measured keeps a budget.
        InfeasibleMetricError: If nothing that was measured promises so much.
    """
    promises = [metric.of("promised"), *INTERVAL]
    table = candidates.reset_index(drop=True).reindex(columns=[*candidates.columns, *promises, *MEASURED, FROM_MS])
    judged = _judge(table, metric, judge)
    limits_ms = [budget / (1 + HEADROOM) for budget in budgets_ms]
    for remaining in reversed(range(MAX_ROUNDS)):
        proposed = {
            row for limit in limits_ms for row in _propose(table, metric, limit, num_candidates, remaining == 0, column)
        } | {row for value in min_metric for row in _propose_worth(table, metric, value, num_candidates, column)}
        wanted = sorted(proposed | (set(also) if remaining == MAX_ROUNDS - 1 else set()))
        if not wanted:
            break
        archs = table.loc[wanted, "arch"].to_list()
        table.loc[wanted, metric.of("measured")] = evaluate(archs)
        table.loc[wanted, list(MEASURED)] = measure_ms(archs).reindex(columns=MEASURED).to_numpy(dtype=np.float64)
        judged = _judge(table, metric, judge)
    is_measured = table.loc[judged.rows, column].notna().to_numpy()
    held = judged.rows[is_measured]
    table.loc[held, FROM_MS] = pick_from_ms(
        table.loc[held, column].to_numpy(), judged.posterior.of(is_measured), replace_below=replace_below
    )
    picks = []
    for budget, limit in zip(budgets_ms, limits_ms, strict=True):
        best = best_within(table, limit)
        if best is None:
            fastest_ms = float(table[column].min())
            raise InfeasibleBudgetError(budget, fastest_ms, device=device, how="measured")
        picks.append(best)
    for value in min_metric:
        fastest = fastest_worth(table, metric, value, column)
        if fastest is None:
            worth = metric.sign * table[metric.of("promised")].where(table[column].notna())
            best_row = table.iloc[int(np.nanargmax(worth))].to_dict()
            raise InfeasibleMetricError(value, best_row, metric=metric, device=device)
        picks.append(fastest)
    return table, picks


def pick_from_ms(
    latency_ms: npt.NDArray[np.float64], posterior: Posterior, *, replace_below: float = REPLACE_BELOW
) -> npt.NDArray[np.float64]:
    """For all limits of latency at once: from which on a subnet is the pick, shape ``(K,)``; not-a-number for never.

    The pick is the subnet that is believed to be worth most; but the fastest of those whose chance of being worse than
    it is below ``replace_below``. A slower pick is believed to be worth more, so where nothing better is found, the
    pick stays what it is.

    Args:
        latency_ms: Measured, shape ``(K,)``.
        posterior: Of the same subnets.
    """
    worth, first_ms = posterior.metric.sign * posterior.means, np.full(len(latency_ms), np.nan)
    best = pick = -1
    order = np.lexsort((-worth, latency_ms))
    for row in order:
        if best >= 0 and worth[row] <= worth[best]:
            continue
        best = int(row)
        may = (latency_ms <= latency_ms[row]) & (posterior.chances_worse(best) < replace_below)
        if pick >= 0:
            may &= (worth > worth[pick]) | (np.arange(len(worth)) == pick)
        chosen = int(order[may[order]][0])
        if chosen != pick:
            first_ms[chosen], pick = latency_ms[row], chosen
    return first_ms


def best_within(table: pd.DataFrame, limit_ms: float) -> int | None:
    """The row of the pick for a limit of latency, by :data:`FROM_MS`; or ``None``."""
    known = table[FROM_MS].where(table[FROM_MS] <= limit_ms).dropna()
    return None if known.empty else int(known.index[int(known.argmax())])


def fastest_worth(table: pd.DataFrame, metric: Metric, value: float, column: str) -> int | None:
    """The row of the fastest measured subnet that promises a value of the metric; or ``None``."""
    is_worth = metric.sign * table[metric.of("promised")] >= metric.sign * value
    latency_ms = table[column].where(is_worth).dropna()
    return None if latency_ms.empty else int(latency_ms.index[int(latency_ms.argmin())])


def budget_for(latency_ms: float, headroom: float = HEADROOM) -> float:
    """The least budget, to a thousandth of a millisecond, that so much latency keeps with headroom."""
    return float(np.ceil(latency_ms * (1 + headroom) * 1000) / 1000)


def pick_entries(
    rows: Sequence[Mapping[Hashable, Any]],
    metric: Metric,
    budgets_ms: Sequence[float],
    min_metric: Sequence[float],
    costs: Sequence[str],
    column: str,
) -> list[dict[str, Any]]:
    """``picks`` in ``selected.json``: of the budgets, then of ``min_metric``, whose budgets are what they need.

    Args:
        rows: One for each of both, in order.
    """
    wanted = rows[len(budgets_ms) :]
    needed_ms = [budget_for(row[column]) for row in wanted]
    entries = [_entry(row, metric, ms, costs) for row, ms in zip(rows, [*budgets_ms, *needed_ms], strict=True)]
    for entry, value in zip(entries[len(budgets_ms) :], min_metric, strict=True):
        entry[metric.of("min")] = float(value)
    return entries


def _entry(row: Mapping[Hashable, Any], metric: Metric, budget_ms: float, costs: Sequence[str]) -> dict[str, Any]:
    values = [metric.of("predicted"), metric.of("measured"), metric.of("promised"), "predicted_latency_ms"]
    known = [name for name in MEASURED if row.get(name) == row.get(name)]  # not those that are not-a-number
    latency_ms = {name.removeprefix("latency_ms_"): row[name] for name in known if name in row}
    return {
        "budget_ms": float(budget_ms),
        "arch": dict(row["arch"]),
        **{name: row[name] for name in values},
        metric.interval_key: list(metric.interval({**row, metric.name: row[metric.of("measured")]})),
        "promised_interval": [row[bound] for bound in INTERVAL],
        "num_images": int(row["num_images"]),
        "measured_latency_ms": latency_ms["p50"],
        "latency_ms": latency_ms,
        **{name: row[name] for name in costs},
    }


def same_picks(picks: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Budgets, ascending, of each subnet that several of the picks are."""
    shared: dict[Arch, set[float]] = {}
    for pick in picks:
        shared.setdefault(Arch(pick["arch"]), set()).add(float(pick["budget_ms"]))
    return [sorted(budgets) for budgets in shared.values() if len(budgets) > 1]


class _Judged(NamedTuple):
    """Row numbers, ``(K,)``, and what they are believed to be worth."""

    rows: npt.NDArray[np.intp]
    posterior: Posterior


def _judge(table: pd.DataFrame, metric: Metric, judge: Callable[[list[Arch]], Posterior]) -> _Judged:
    """Fill in what evaluated rows promise; of more than 1,000 those that were measured, and the best."""
    rows = np.flatnonzero(table[metric.of("measured")].notna())
    if len(rows) > MAX_LEARNT:
        points = table.loc[rows, [metric.of("measured"), "predicted_latency_ms"]].to_numpy() * [-metric.sign, 1.0]
        is_measured = table.loc[rows, MEASURED[1]].notna().to_numpy()
        order = best_first(points)
        rows = rows[np.concatenate([np.flatnonzero(is_measured), order[~is_measured[order]]])[:MAX_LEARNT]]
    posterior = judge(table.loc[rows, "arch"].to_list())
    table.loc[rows, metric.of("promised")] = posterior.means
    table.loc[rows, list(INTERVAL)] = posterior.intervals()
    return _Judged(rows, posterior)


def _propose(
    table: pd.DataFrame, metric: Metric, limit_ms: float, num: int, is_last_round: bool, column: str
) -> list[int]:
    """Rows worth measuring for one budget, at most ``num``."""
    worth, measured = _worth(table, metric), table[column].notna()
    holding = table[column] <= limit_ms
    promising = ~measured & (_expected_ms(table, column) <= limit_ms)
    if holding.any():
        promising &= worth > worth[holding].max()
    elif is_last_round or not promising.any():
        return table.loc[~measured, "predicted_latency_ms"].nsmallest(num).index.to_list()
    order = table.assign(worth=worth)[promising].sort_values(["worth", "predicted_latency_ms"], ascending=[False, True])
    return order.index[:num].to_list()


def _propose_worth(table: pd.DataFrame, metric: Metric, value: float, num: int, column: str) -> list[int]:
    """Rows worth measuring for one value of the metric, at most ``num``: faster ones; while nothing is, the best."""
    worth, expected_ms = _worth(table, metric), _expected_ms(table, column)
    fastest = fastest_worth(table, metric, value, column)
    limit_ms = np.inf if fastest is None else float(table[column].loc[fastest])
    unmeasured = table[column].isna()
    promising = unmeasured & (worth >= metric.sign * value) & (expected_ms < limit_ms)
    if fastest is None and not promising.any():
        return worth[unmeasured].nlargest(num).index.to_list()
    return expected_ms[promising].nsmallest(num).index.to_list()


def _worth(table: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """What rows promise, or are predicted to be worth; more is better."""
    beyond = table[metric.of("measured")].fillna(table[metric.of("predicted")] - _optimism(table, metric))
    return metric.sign * table[metric.of("promised")].fillna(beyond)


def _expected_ms(table: pd.DataFrame, column: str) -> pd.Series[float]:
    """Predicted latencies at the slowdown that was found so far."""
    slowdown = (table[column] / table["predicted_latency_ms"]).median() if table[column].notna().any() else 1.0
    return table["predicted_latency_ms"] * slowdown


def _optimism(table: pd.DataFrame, metric: Metric) -> npt.NDArray[np.float64]:
    """By how much predictions exceed the truth around each row's latency, judged by the evaluated front.

    The front is chosen for high predictions, so it gathers those that err upwards; uncorrected, whatever has not been
    evaluated yet would look better than what has.
    """
    known = table[table["is_front"] & table[metric.of("promised")].notna()].sort_values("predicted_latency_ms")
    if known.empty:
        return np.zeros(len(table))
    excess = known[metric.of("predicted")] - known[metric.of("promised")]
    smooth = excess.rolling(5, center=True, min_periods=1).median()
    return np.interp(table["predicted_latency_ms"], known["predicted_latency_ms"], smooth)
