"""How much each method gets out of an evaluation, on problems of which every architecture is known.

    python scripts/bench_problems.py [--data DIR] [--table CSV] [--problems ...] [--methods ...] [--minutes N]

Leaves a row per problem, method, number of evaluations and seed in ``--out``/search/problems.csv, and ``problems.md``
in ``--out``. Stopped at any moment, the same command goes on.

- ``nasbench201_DEVICE``: the 15,625 cells of NAS-Bench-201 (six categorical edges), validation error on CIFAR-10
  against the latency of a Xeon Gold 6226, Eyeriss or a Pixel 3 (HELP), both to be learnt; the reference point is the
  0.9 quantile of each.
- ``supernet``: the table that ``bench_search.py efficiency`` leaves, top-1 error against MACs, which are free to know;
  the reference point is the worst of each.
- ``noisy_N``: 2,187 made-up subnets whose accuracy a search sees on ``N`` of 20,000 pictures; shares are those of the
  picks for ten budgets, judged on all pictures, see ``noisy_problem.py``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from bench_helper import add_row, page, parsed, parser_of, read_rows, say, table_text
from noisy_problem import Noisy, make_supernet

from ofa.files import write_text_atomic
from ofa.search import hypervolume, search
from ofa.search.methods import METHODS
from ofa.space import Dim, Population, SearchSpace

DEVICES = ("gold_6226", "eyeriss", "pixel3")
NUM_PICTURES = (200, 440, 2000)
PROBLEMS = (
    *(f"nasbench201_{device}" for device in DEVICES),
    "supernet",
    *(f"noisy_{num_pictures}" for num_pictures in NUM_PICTURES),
)
NUM_EVALUATIONS = (50, 100, 250, 500)
SHORT = 100  # evaluations, whose time is told
NUM_SEEDS = 10
BEHIND = 2  # paired standard errors by which a method may be ahead of the default


@dataclass(frozen=True)
class Tabulated:
    """A problem whose values are looked up.

    Args:
        population: All architectures, shape ``(N, D)``.
        values: Of each, to be minimised, shape ``(N, 2)``.
        free: Columns that methods need not learn.
    """

    space: SearchSpace
    population: Population
    values: npt.NDArray[np.float64]
    reference: npt.NDArray[np.float64]
    free: tuple[int, ...] = ()
    objectives: tuple[str, str] = field(default=("error_percent", "cost"))

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        return {key: row for row, key in enumerate(self.space.row_keys(self.population).tolist())}

    def __call__(self, population: Population) -> npt.NDArray[np.float64]:
        return self.values[[self._row_of[key] for key in self.space.row_keys(population).tolist()]]

    def share(self, values: npt.NDArray[np.float64]) -> float:
        """Of the true hypervolume, in percent."""
        return 100 * hypervolume(values, self.reference) / hypervolume(self.values, self.reference)

    def run(self, method: str, num: int, seed: int) -> dict[str, Any]:
        free = {self.objectives[column]: lambda archs, column=column: self(archs)[:, column] for column in self.free}
        started = time.process_time()
        found = search(
            self.space, self, num_evaluations=num, method=method, seed=seed, objectives=self.objectives, free=free
        )
        seconds = time.process_time() - started
        share = self.share(found[list(self.objectives)].to_numpy())
        return {"hypervolume_share_percent": round(share, 4), "cpu_seconds": round(seconds, 2)}


def problem_of(name: str, options: argparse.Namespace) -> Tabulated | Noisy:
    """The problem; :class:`FileNotFoundError` without its table."""
    if name.startswith("noisy_"):
        return Noisy(make_supernet(), int(name.removeprefix("noisy_")))
    if name == "supernet":
        table = pd.read_csv(options.table)
        *names, error, cost = table.columns
        varied = [each for each in names if table[each].nunique() > 1]
        space = SearchSpace(tuple(Dim(each, tuple(sorted(table[each].unique().tolist()))) for each in varied))
        values = table[[error, cost]].to_numpy(dtype=np.float64)
        return Tabulated(space, _genes(table, space), values, values.max(axis=0), free=(1,))
    table = pd.read_csv(options.data / "nas" / "nasbench201.csv.gz")
    edges = [each for each in table.columns if each.startswith("edge")]
    space = SearchSpace(tuple(Dim(edge, tuple(sorted(table[edge].unique()))) for edge in edges))
    latency = table[name.removeprefix("nasbench201_") + "_ms"]
    values = np.column_stack([100 - table["cifar10_val_percent"], latency])
    return Tabulated(space, _genes(table, space), values, np.quantile(values, 0.9, axis=0))


def _genes(table: pd.DataFrame, space: SearchSpace) -> Population:
    assert len(table) == space.num_archs, "a table holds every architecture once"
    return np.column_stack(
        [table[dim.name].map({value: gene for gene, value in enumerate(dim.values)}) for dim in space.dims]
    )


def missing_runs(options: argparse.Namespace, path: Path) -> Iterator[tuple[str, int, int, str]]:
    """Problem, evaluations, seed and method, so that what is there at any time compares."""
    done = {(row["problem"], row["num_evaluations"], row["seed"], row["method"]) for row in read_rows(path)}
    for problem in options.problems:
        for num in options.evaluations:
            for seed in range(options.seeds):
                for method in options.methods:
                    if (problem, num, seed, method) not in done:
                        yield problem, num, seed, method


def behind(rows: pd.DataFrame) -> list[str]:
    """Where a method is ahead of ``auto`` by more than two paired standard errors."""
    found = []
    for (problem, num), group in rows.groupby(["problem", "num_evaluations"], sort=False):
        shares = group.pivot_table("hypervolume_share_percent", "seed", "method")
        for method in shares.columns.difference(["auto"]) if "auto" in shares else ():
            ahead = (shares[method] - shares["auto"]).dropna()
            if len(ahead) > 1 and ahead.mean() > BEHIND * ahead.std(ddof=1) / np.sqrt(len(ahead)):
                found.append(f"{problem}, {num} evaluations: {method} is ahead by {ahead.mean():.2f} points")
    return found


def tables_of(rows: pd.DataFrame) -> dict[str, str]:
    """Mean and standard deviation by method and evaluations, of each problem."""
    tables = {}
    for problem, group in rows.groupby("problem", sort=False):
        shares = group.groupby(["method", "num_evaluations"], sort=False)["hypervolume_share_percent"]
        means, spreads = shares.mean().unstack(), shares.std(ddof=0).unstack()
        seconds = group.groupby(["method", "num_evaluations"])["cpu_seconds"].median().unstack()
        cells = []
        for method in means.index:
            shares_text = (f"{means.loc[method, num]:.2f} ± {spreads.loc[method, num]:.2f}" for num in means.columns)
            cells.append([method, *shares_text, f"{seconds.loc[method].get(SHORT, np.nan):.2f}"])
        tables[str(problem)] = table_text(["method", *means.columns, f"CPU s at {SHORT}"], cells)
    return tables


def promises_of(rows: pd.DataFrame) -> str:
    """Of noisy problems: what picks promise beside the truth, and the same of the luckiest; empty without any."""
    if "promised_too_much_points" not in rows:
        return ""
    cells = []
    noisy = rows.dropna(subset="promised_too_much_points")
    for (problem, num, method), group in noisy.groupby(["problem", "num_evaluations", "method"], sort=False):
        points = (group[name] for name in ("promised_too_much_points", "luckiest_too_much_points"))
        texts = [f"{each.mean():.2f} ± {each.std(ddof=0) / np.sqrt(len(each)):.2f}" for each in points]
        holds, luckiest = (group[name].mean() for name in ("intervals_hold_percent", "luckiest_share_percent"))
        cells.append([problem, num, method, texts[0], f"{holds:.0f}", texts[1], f"{luckiest:.2f}"])
    head = [
        "problem",
        "evaluations",
        "method",
        "promised too much",
        "intervals hold",
        "luckiest: too much",
        "its share",
    ]
    return table_text(head, cells)


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--table", type=Path, default=Path("runs/bench_search/table.csv"))
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--evaluations", nargs="+", type=int, default=NUM_EVALUATIONS)
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS)
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin nothing after that")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parsed(parser, words)
    until = time.monotonic() + 60 * options.minutes
    path = options.out / "search" / "problems.csv"
    problems: dict[str, Tabulated | Noisy] = {}
    for name in options.problems:
        try:
            problems[name] = problem_of(name, options)
        except FileNotFoundError as error:
            say(f"{name} is left out, as its table is missing: {error}")
    options.problems = list(problems)
    for problem, num, seed, method in missing_runs(options, path):
        if time.monotonic() > until:
            break
        key = {"problem": problem, "method": method, "num_evaluations": num, "seed": seed}
        add_row(path, {**key, **problems[problem].run(method, num, seed)})
    rows = pd.DataFrame(read_rows(path))
    if len(rows):
        found = {"tables": tables_of(rows), "behind": behind(rows), "promises": promises_of(rows)}
        text = page("problems.md", num_seeds=rows["seed"].nunique(), **found)
        write_text_atomic(options.out / "problems.md", text)


if __name__ == "__main__":
    main()
