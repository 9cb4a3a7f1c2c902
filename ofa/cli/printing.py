"""What the commands print: for people on standard error, for scripts as JSON on standard output."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa.errors import printable

if TYPE_CHECKING:
    from ofa.deploy import VerifyResult
    from ofa.metrics import Metric


def correlation(value: float | None) -> str:
    """Of ranks; there is none where all values are equal."""
    return "undefined" if value is None else f"{value:.3f}"


def say(text: str = "", *, head: str = "", style: str = "red") -> None:
    """Print for people, on standard error, so that ``--json`` leaves standard output to the result.

    Names and messages may come from anybody: what they hold is shown, it steers no terminal, and is no markup. Lines
    after the first are indented, so that none looks like one of ours. ``head`` stands before it in a style.
    """
    from rich.console import Console
    from rich.text import Text

    plain = printable(text, keep="\n\t").replace("\n", "\n  ")
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble((printable(head), style), plain))


def print_json(data: Any) -> None:
    """Print data with our results in it, which say themselves what they are as JSON, and paths."""
    print(json.dumps(data, indent=2, default=lambda each: str(each) if isinstance(each, Path) else each.to_json()))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> None:
    """Print a table of plain text; columns of numbers are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(printable(title), style="table.title") if title else None,
        box=SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
    )
    for index, name in enumerate(header):
        numbers = all(not isinstance(cell := row[index], str) or re.fullmatch(r"[\d.]+( \S+)?", cell) for row in rows)
        table.add_column(Text(printable(name)), justify="right" if rows and numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console = Console(stderr=True)
    console.print(table) if console.is_terminal else Console(stderr=True, width=160).print(table)


def budget_text(pick: Mapping[str, Any], metric: Metric) -> str:
    """What a pick keeps; beside it what it had to be worth, if that was asked."""
    budget = f"{pick['budget_ms']:g} ms"
    wanted = pick.get(metric.of("min"))
    return budget if wanted is None else f"{budget} for {metric.text(wanted)}"


def print_picks(device: str, selected: Mapping[str, Any]) -> None:
    from ofa.metrics import metric_of
    from ofa.search.pick import same_picks
    from ofa.search.search_files import speed_of

    metric, tau = metric_of(selected), selected["predictor"]["kendall_tau"]
    volume, interval = selected["hypervolume"], selected.get("interval_percent")
    around = f" ± {interval:.1f} %" if interval else ""
    rows = [
        [
            budget_text(pick, metric),
            f"{pick['measured_latency_ms']:.3f} ms",
            f"{pick['predicted_latency_ms']:.3f} ms{around}",
            metric.text(pick[metric.of("measured")]),
            "{} ({} to {})".format(
                metric.text(pick[metric.of("promised")]), *map(metric.number, pick["promised_interval"])
            ),
            f"{pick['macs'] / 1e6:.2f} M",
            f"{pick['params'] / 1e6:.3f} M",
        ]
        for pick in selected["picks"]
    ]
    header = ["budget", "measured p50", "predicted", "search split", "promised (90 %)", "MACs", "params"]
    print_table(header, rows, title=f"picks on {device}, latencies in ms{speed_of(selected).text}")
    for budgets_ms in same_picks(selected["picks"]):
        say(f"one subnet for {budgets_ms[0]:g} to {budgets_ms[-1]:g} ms: nothing slower is surely better")
    say(
        f"{selected['num_evaluations']} subnets evaluated; predictor rank correlation (held out) "
        f"{'unknown' if tau is None else f'{tau:.2f}'}; hypervolume {volume['front']:.4g} against "
        f"{volume['random']:.4g} of random search with as many evaluations"
    )


def print_promises(results: Sequence[VerifyResult], search_dir: Path) -> None:
    """What each bundle promises beside what the search said of it in ``front.csv``, and whether it holds."""
    from ofa.search.search_files import archs_of, read_front

    path, metric = search_dir / "front.csv", results[0].info.task.metric
    front = read_front(path, metric, remedy="search again")
    searched = front.assign(arch=archs_of(front, path, remedy="search again")).to_dict("records")
    rows = []
    for result in results:
        info = result.info
        entry = next(entry for entry in searched if dict(entry["arch"]) == dict(info.arch))
        rows.append(
            [
                f"{info.budget_ms:g} ms",
                f"{entry['predicted_latency_ms']:.3f} ms",
                f"{info.latency_ms.p50:.3f} ms",
                f"{info.latency_ms.p90:.3f} ms",
                f"{entry['macs'] / 1e6:.2f} M",
                f"{entry['params'] / 1e6:.3f} M",
                info.task.metric.text(info.score.value),
                "yes" if result.ok else "NO",
            ]
        )
    print_table(["budget", "predicted", "p50", "p90", "MACs", "params", "test split", "holds"], rows)
    for result in results:
        for check in result.failed:
            say(f" {result.path.name}: {check.name}: {check.found}", head="does not hold:")
