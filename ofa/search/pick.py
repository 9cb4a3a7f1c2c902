"""Pick the most accurate subnet within each latency budget, measured before it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.space import Arch, Population, SearchSpace

LATENCIES = ["latency_ms_p10", "latency_ms_p50", "latency_ms_p90"]
MAX_ROUNDS = 5


class InfeasibleBudgetError(ValueError):
    """No subnet of the space is fast enough.

    Attributes:
        nearest_ms: The least budget that the fastest known subnet would keep.
    """

    def __init__(self, budget_ms: float, fastest_ms: float, *, headroom: float, device: str, how: str) -> None:
        self.budget_ms = budget_ms
        # Rounded up, so that asking again for what the message names does not fail.
        self.nearest_ms = float(np.ceil(fastest_ms * (1 + headroom) * 1000) / 1000)
        super().__init__(
            f"no subnet keeps a budget of {budget_ms:g} ms on device {device!r}: the fastest is {how} at "
            f"{fastest_ms:.3f} ms; ask for at least {self.nearest_ms:.3f} ms ({100 * headroom:g} % headroom included)"
        )


def fastest(
    space: SearchSpace,
    predict_ms: Callable[[Population], npt.NDArray[np.float64]],
    rng: np.random.Generator,
    *,
    num_samples: int = 10_000,
) -> tuple[Population, float]:
    """The subnet of least predicted latency: the best of many random ones and the smallest, then improved dim by dim.

    The smallest is not always the fastest: runtimes prefer some shapes.

    Returns:
        Shape ``(1, D)``, and its predicted latency in milliseconds.
    """
    candidates = np.concatenate([space.to_population(space.smallest()), space.sample_population(num_samples, rng)])
    columns = np.repeat(np.arange(len(space)), space.num_values)
    genes = np.concatenate([np.arange(num) for num in space.num_values])
    best, best_ms = candidates[:1], np.inf
    for _ in range(100):
        latency_ms = predict_ms(candidates)
        if latency_ms.min() >= best_ms:
            break
        best, best_ms = candidates[[latency_ms.argmin()]], float(latency_ms.min())
        neighbours = np.repeat(best, len(columns), axis=0)
        neighbours[np.arange(len(columns)), columns] = genes
        candidates = space.canonical(neighbours)
    return best, best_ms


def pick_within_budgets(
    candidates: pd.DataFrame,
    budgets_ms: Sequence[float],
    *,
    evaluate_top1: Callable[[list[Arch]], npt.NDArray[np.float64]],
    measure_ms: Callable[[list[Arch]], pd.DataFrame],
    device: str,
    num_candidates: int = 4,
    headroom: float = 0.03,
) -> tuple[pd.DataFrame, list[int]]:
    """Evaluate and measure the most promising candidates, a few per budget and round, and pick among these.

    A round proposes, for each budget, the candidates that should keep it and look more accurate than what is known to
    keep it; "should" compares predicted latency times the slowdown (measured over predicted) found so far. All budgets'
    proposals are measured together, so that they can be interleaved. Rounds end when there is nothing to propose, or
    after ``MAX_ROUNDS``; while nothing keeps a budget, the last round tries the fastest.

    Args:
        candidates: One row per architecture: ``arch`` (:class:`Arch`), ``predicted_top1_percent``,
            ``predicted_latency_ms``, ``measured_top1_percent`` (NaN where unknown) and ``is_front`` (chosen for its
            prediction).
        measure_ms: Gives ``latency_ms_p10``, ``latency_ms_p50`` and ``latency_ms_p90`` of each architecture, in order.
        headroom: A pick's measured median must be this fraction below its budget: medians drift on shared machines.

    Returns:
        ``candidates``, numbered from 0, with more accuracies known and the three measured latencies (NaN where not
        measured), and the row number of each budget's pick.

    Raises:
        InfeasibleBudgetError: If nothing that was measured keeps a budget.
    """
    table = candidates.reset_index(drop=True).reindex(columns=[*candidates.columns, *LATENCIES])
    limits_ms = [budget / (1 + headroom) for budget in budgets_ms]
    for remaining in reversed(range(MAX_ROUNDS)):
        wanted = sorted({row for limit in limits_ms for row in _propose(table, limit, num_candidates, remaining == 0)})
        if not wanted:
            break
        archs = table.loc[wanted, "arch"].to_list()
        table.loc[wanted, "measured_top1_percent"] = evaluate_top1(archs)
        table.loc[wanted, LATENCIES] = measure_ms(archs)[LATENCIES].to_numpy(dtype=np.float64)
    picks = []
    for budget, limit in zip(budgets_ms, limits_ms, strict=True):
        holding = table[table["latency_ms_p50"] <= limit]
        if holding.empty:
            fastest_ms = float(table["latency_ms_p50"].min())
            raise InfeasibleBudgetError(budget, fastest_ms, headroom=headroom, device=device, how="measured")
        best = holding.sort_values(["measured_top1_percent", "latency_ms_p50"], ascending=[False, True])
        picks.append(int(best.index[0]))
    return table, picks


def _propose(table: pd.DataFrame, limit_ms: float, num: int, is_last_round: bool) -> list[int]:
    """Rows worth measuring for one budget, at most ``num``."""
    top1 = table["measured_top1_percent"].fillna(table["predicted_top1_percent"] - _optimism(table))
    measured = table["latency_ms_p50"].notna()
    holding = table["latency_ms_p50"] <= limit_ms
    slowdown = (table["latency_ms_p50"] / table["predicted_latency_ms"]).median() if measured.any() else 1.0
    promising = ~measured & (table["predicted_latency_ms"] * slowdown <= limit_ms)
    if holding.any():
        promising &= top1 > top1[holding].max()
    elif is_last_round or not promising.any():
        return table.loc[~measured, "predicted_latency_ms"].nsmallest(num).index.to_list()
    order = table.assign(top1=top1)[promising].sort_values(["top1", "predicted_latency_ms"], ascending=[False, True])
    return order.index[:num].to_list()


def _optimism(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """By how many percent predictions exceed the truth around each row's latency, judged by the evaluated front.

    The front is chosen for high predictions, so it gathers those that err upwards; uncorrected, whatever has not been
    evaluated yet would look better than what has.
    """
    known = table[table["is_front"] & table["measured_top1_percent"].notna()].sort_values("predicted_latency_ms")
    if known.empty:
        return np.zeros(len(table))
    excess = known["predicted_top1_percent"] - known["measured_top1_percent"]
    smooth = excess.rolling(5, center=True, min_periods=1).median()
    return np.interp(table["predicted_latency_ms"], known["predicted_latency_ms"], smooth)
