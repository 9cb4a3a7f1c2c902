"""Find out which timm models convert, what is elastic in them, and why the others stay as they are.

    python scripts/coverage.py [--models 'vit_*'] [--every 40] [--jobs 2] [--timeout 300] [--fresh]

Models are made without weights (on the meta device). Rows are appended to ``--out`` as they come; a run that was
stopped goes on where it was. The summary in ``--report`` is over all rows of ``--out``. ``seconds`` is CPU time, with
one thread, and so is what ``--timeout`` limits: how long a model takes on a busy machine says little.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import fnmatch
import math
import multiprocessing
import os
import platform
import resource
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeAlias

import timm
import torch
from torch import nn

import ofa
from ofa.cost import macs, params
from ofa.hardware.fingerprint import cpu_model
from ofa.supernet import elasticize

Row: TypeAlias = dict[str, str]

COLUMNS = (
    "model",
    "family",
    "converts",
    "kinds",
    "num_kinds",
    "resolutions",
    "num_subnets",
    "largest_mmacs",
    "smallest_mmacs",
    "largest_params",
    "smallest_params",
    "not_elastic",
    "seconds",
)
KINDS = ("width", "depth", "kernel", "expand", "mlp_ratio", "heads")
DIED = "the process died"
GIB = 2**30


# -- one model, in a process of its own ------------------------------------------------------------------------------


def serve(connection: Connection, timeout_s: int, memory_gib: int, price_mparams: float) -> None:
    """Answer names with rows until the other end closes: first what converts, then the same with its costs."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    # Heap and other private memory; the address space itself is large from the start with a CUDA build of torch.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_gib * GIB, memory_gib * GIB))
    try:
        while True:
            name = connection.recv()
            # The system ends the process that goes beyond it (SIGXCPU).
            _, most = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + timeout_s), most))
            for row in examine(name, price_mparams):
                connection.send(row)
            connection.send(None)
    except EOFError:
        return


def examine(name: str, price_mparams: float) -> Iterator[Row]:
    """The row of a model, twice if it converts: before and after pricing, which may take longer than is allowed.

    Models with more than ``price_mparams`` million parameters are not priced.
    """
    row = empty_row(name)
    started = time.process_time()
    supernet = None
    try:
        supernet = elasticize(made(name))
        supernet.subnet(supernet.space.smallest())  # to see that it can be built
        describe(supernet, row)
    except Exception as error:  # whatever the code of a thousand models raises is the result here
        row["not_elastic"] = message(error)
        supernet = None
    row["seconds"] = f"{time.process_time() - started:.2f}"
    yield row
    if supernet is None or int(row["largest_params"]) > price_mparams * 1e6:
        return
    try:
        price(supernet, row)
    except Exception as error:
        row["not_elastic"] = not_priced(row, message(error))
    row["seconds"] = f"{time.process_time() - started:.2f}"
    yield row


def message(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def not_priced(row: Row, reason: str) -> str:
    return f"no price: {reason}; {row['not_elastic']}"


def made(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name).eval()


def empty_row(name: str) -> Row:
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    return dict.fromkeys(COLUMNS, "") | {"model": name, "family": family, "converts": "no", "num_kinds": "0"}


def describe(supernet: ofa.Supernet, row: Row) -> None:
    kinds = {dim.kind for dim in supernet.dims if len(dim.values) > 1}
    assert kinds <= set(KINDS), f"a new kind of dim: {kinds}"
    reasons = list(supernet.analysis.notes.values())
    counts = Counter(reason.partition(":")[0] for reason in reasons)  # what follows has sizes in it
    examples = {reason.partition(":")[0]: reason for reason in reversed(reasons)}
    row |= {
        "converts": "yes",
        "largest_params": str(sum(parameter.numel() for parameter in supernet.model.parameters())),
        "kinds": " ".join(kind for kind in KINDS if kind in kinds),
        "num_kinds": str(len(kinds)),
        "resolutions": str(len(supernet.space["resolution"].values)),
        "num_subnets": f"{Decimal(supernet.space.num_archs):.1e}".replace("e+", "e"),  # too large for a float
        "not_elastic": "; ".join(f"{examples[kind]} ({count})" for kind, count in counts.most_common(3)),
    }


def price(supernet: ofa.Supernet, row: Row) -> None:
    count_macs, count_params = macs(supernet), params(supernet)
    for size, arch in (("largest", supernet.space.largest()), ("smallest", supernet.space.smallest())):
        row[f"{size}_mmacs"] = f"{float(count_macs.predict(arch)[0]) / 1e6:.2f}"
        row[f"{size}_params"] = f"{float(count_params.predict(arch)[0]):.0f}"


# -- many models -----------------------------------------------------------------------------------------------------


class Worker:
    """A process that examines one model after another, and can be killed."""

    def __init__(self, timeout_s: int, memory_gib: int, price_mparams: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, timeout_s, memory_gib, price_mparams), daemon=True)
        self.process.start()
        other.close()
        self.timeout_s, self.wall_s = timeout_s, 60 + 10 * timeout_s
        self.row: Row | None = None
        self.started = 0.0

    def begin(self, name: str) -> None:
        self.row, self.started = empty_row(name), time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # whoever waits for the answer learns that it died
            self.connection.send(name)

    def take(self) -> Row | None:
        """The row, once there is one to come and it is complete."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self.end()
        finished, self.row = self.row, answer
        return finished if answer is None else None

    def overdue(self) -> bool:
        """Whether it hangs: the limit of CPU time does not reach a process that sleeps."""
        return time.perf_counter() - self.started > self.wall_s

    def end(self) -> Row:
        """What is known of a model whose process ended, or is ended now."""
        hangs = self.overdue()
        self.process.kill()
        self.process.join()
        assert self.row is not None
        reason = f"{DIED} with exit code {self.process.exitcode}"
        if hangs:
            reason = f"took more than {self.wall_s} s of wall time"
        elif self.process.exitcode == -signal.SIGXCPU:
            reason = f"took more than {self.timeout_s} s"
        row, self.row = self.row, None
        reason = not_priced(row, reason) if row["converts"] == "yes" else reason
        return row | {"not_elastic": reason, "seconds": row["seconds"] or str(self.timeout_s)}


def survey(names: Iterable[str], *, jobs: int, timeout_s: int, memory_gib: int, price_mparams: float) -> Iterator[Row]:
    """Rows as they come. A model that takes too long or kills its process costs that process only."""
    waiting = deque(names)
    workers = [Worker(timeout_s, memory_gib, price_mparams) for _ in range(min(jobs, len(waiting)))]
    try:
        while waiting or any(worker.row for worker in workers):
            for position, worker in enumerate(workers):
                if worker.row is None and waiting:
                    if not worker.process.is_alive():
                        workers[position] = worker = Worker(timeout_s, memory_gib, price_mparams)
                    worker.begin(waiting.popleft())
            busy = [worker for worker in workers if worker.row]
            ready = wait([worker.connection for worker in busy], timeout=1)
            for worker in busy:
                row = worker.take() if worker.connection in ready else worker.end() if worker.overdue() else None
                if row:
                    yield row
    finally:
        for worker in workers:
            worker.process.kill()


def read_rows(path: Path) -> dict[str, Row]:
    """Complete rows of an earlier run: without a line that was being written, or where a process died."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("seconds") and None not in row]
    return {row["model"]: row for row in rows if DIED not in row["not_elastic"]}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def fill(
    path: Path,
    rows: dict[str, Row],
    names: Sequence[str],
    *,
    jobs: int,
    timeout_s: int,
    memory_gib: int,
    price_mparams: float,
) -> None:
    """Add the rows of ``names`` to ``rows`` and to the file, with a line of progress every half a minute."""
    started = told = time.perf_counter()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        for done, row in enumerate(
            survey(names, jobs=jobs, timeout_s=timeout_s, memory_gib=memory_gib, price_mparams=price_mparams), 1
        ):
            rows[row["model"]] = row
            writer.writerow(row)
            file.flush()
            now = time.perf_counter()
            if now - told > 30 or done == len(names):
                told = now
                left_min = (now - started) / done * (len(names) - done) / 60
                converted = sum(row["converts"] == "yes" for row in rows.values())
                print(
                    f"{done}/{len(names)} models, {converted} of {len(rows)} convert, "
                    f"about {left_min:.0f} min left, last: {row['model']}",
                    flush=True,
                )


# -- the report ------------------------------------------------------------------------------------------------------


def summary(rows: Sequence[Row]) -> str:
    converted = [row for row in rows if row["converts"] == "yes"]
    two = [row for row in converted if int(row["num_kinds"]) >= 2]
    unpriced = sum(row["not_elastic"].startswith("no price") for row in converted)
    text = (
        f"{len(rows)} models: {len(converted)} convert ({share(converted, rows)}), "
        f"{len(two)} with two or more kinds of elastic dims besides resolution ({share(two, rows)})"
    )
    return text + (f"; {unpriced} that convert could not be priced" if unpriced else "")


def share(part: Sequence[Row], whole: Sequence[Row]) -> str:
    return f"{100 * len(part) / max(1, len(whole)):.1f} %"


def report(rows: Sequence[Row], command: str) -> str:
    """The Markdown page."""
    counts = Counter(kind for row in rows for kind in row["kinds"].split())
    lines = [
        "# Which timm models convert",
        "",
        "`ofa.elasticize(timm.create_model(name))` with its default choices, for each name of `timm.list_models()`,",
        "on the meta device. Written by:",
        "",
        f"    {command}",
        "",
        f"timm {timm.__version__}, torch {torch.__version__}, {datetime.date.today()}, {cpu_model()},",
        f"{platform.machine()}, {os.cpu_count()} cores.",
        "A row per model, with what each kind could not reach and why: [results/coverage.csv](results/coverage.csv).",
        "",
        f"**{summary(rows)}.**",
        "",
        "Models in which a kind varies: " + ", ".join(f"{kind} {counts[kind]}" for kind in KINDS) + ".",
        "",
        "## By family",
        "",
        "A family is a module of `timm.models`. The example is its smallest model that converts: multiply-accumulates",
        "of the largest and of the smallest subnet.",
        "",
        "| family | models | convert | two or more kinds | kinds | example | MMACs |",
        "|---|---|---|---|---|---|---|",
    ]
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    lines += [family_line(family, members) for family, members in sorted(families.items())]
    lines += [
        "",
        "## What does not convert, has one kind, or has no price",
        "",
        "The reason is the error, or what was noted most often (number of places).",
        "",
        "| family | kinds | models | reason |",
        "|---|---|---|---|",
    ]
    alike: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in rows:
        if int(row["num_kinds"]) < 2 or row["not_elastic"].startswith("no price"):
            kinds = row["kinds"] or ("does not convert" if row["converts"] == "no" else "none")
            alike[row["family"], kinds, row["not_elastic"]].append(row["model"])
    for (family, kinds, reason), names in sorted(alike.items()):
        escaped = reason.replace("|", "\\|")
        lines.append(f"| {family} | {kinds} | {', '.join(names)} | {escaped} |")
    return "\n".join(lines) + "\n"


def family_line(family: str, members: Sequence[Row]) -> str:
    converted = [row for row in members if row["converts"] == "yes"]
    two = sum(int(row["num_kinds"]) >= 2 for row in converted)
    found = {kind for row in converted for kind in row["kinds"].split()}
    kinds = " ".join(kind for kind in KINDS if kind in found)
    example = reduction = ""
    if priced := [row for row in converted if row["smallest_mmacs"]]:
        least = min(priced, key=lambda row: float(row["largest_mmacs"]))
        largest, smallest = float(least["largest_mmacs"]), float(least["smallest_mmacs"])
        example, reduction = least["model"], f"{readable(largest)} → {readable(smallest)}"
    return f"| {family} | {len(members)} | {len(converted)} | {two} | {kinds} | {example} | {reduction} |"


def readable(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", metavar="PATTERN", help="names, with * and ?")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="a sample: every Nth model")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=int, default=300, metavar="SECONDS", help="CPU time per model")
    parser.add_argument("--memory", type=int, default=8, metavar="GIB", help="per process")
    parser.add_argument("--out", type=Path, default=Path("docs/results/coverage.csv"))
    parser.add_argument("--report", type=Path, default=Path("docs/models.md"))
    parser.add_argument(
        "--price-mparams", type=float, default=15, metavar="N", help="price models up to N M parameters"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the rows in --out")
    arguments = parser.parse_args()
    names = fnmatch.filter(timm.list_models(), arguments.models)[:: arguments.every]
    if not names:
        parser.error(f"no timm model is called {arguments.models!r}")
    rows = {} if arguments.fresh else read_rows(arguments.out)
    missing = [name for name in names if name not in rows]
    print(f"{len(missing)} of {len(names)} models to examine, with ofa from {Path(ofa.__file__).parent}", flush=True)
    write_rows(arguments.out, rows.values())
    fill(
        arguments.out,
        rows,
        missing,
        jobs=arguments.jobs,
        timeout_s=arguments.timeout,
        memory_gib=arguments.memory,
        price_mparams=arguments.price_mparams,
    )
    ordered = [rows[name] for name in sorted(rows)]
    write_rows(arguments.out, ordered)
    arguments.report.write_text(report(ordered, f"python {' '.join(sys.argv)}"), encoding="utf-8")
    print(summary(ordered))


if __name__ == "__main__":
    main()
