"""What the benchmarks share: sections, commands that end in time, rows that are kept, pages of a template and tables.

The words of a page are in ``templates/<name>``, with the places of numbers and tables; a script fills them in.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import timm
import torch

from ofa.files import write_csv_atomic
from ofa.hardware.fingerprint import cpu_model
from ofa.training import Run

TEMPLATES = Path(__file__).parent / "templates"
WIDTH = 120
AS_WRITTEN = ("#", "|", "-")  # first characters of blocks that are not running text


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parser_of(description: str | None, sections: Sequence[str] = ()) -> argparse.ArgumentParser:
    """A parser that shows a script's description as it is written; with sections, of which it takes some or all."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if sections:
        parser.add_argument(
            "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(sections)}; all if none is named"
        )
    return parser


def parsed(
    parser: argparse.ArgumentParser, words: Sequence[str] | None, sections: Sequence[str] = ()
) -> argparse.Namespace:
    """Options, with their ``words``, and the ``sections`` that are to be done in the order in which they are known."""
    options = parser.parse_args(words)
    options.words = sys.argv[1:] if words is None else list(words)
    if sections:
        unknown = [name for name in options.sections if name not in sections]
        if unknown:
            parser.error(f"unknown section {unknown[0]!r}; known: {', '.join(sections)}")
        options.sections = [name for name in sections if name in options.sections or not options.sections]
    return options


def read_rows(path: Path, **types: type) -> list[dict[str, Any]]:
    """Rows of a CSV file, none without it."""
    if not path.exists():
        return []
    rows = pd.read_csv(path, dtype=types).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def add_row(path: Path, row: Mapping[str, Any]) -> None:
    write_csv_atomic(path, pd.DataFrame([*read_rows(path), row]))


def known(path: Path, **key: Any) -> dict[str, Any] | None:
    """The row of what was done already."""
    return next((row for row in read_rows(path) if all(row[each] == value for each, value in key.items())), None)


class OutOfTimeError(Exception):
    """The rest is for another call."""


def ofa(options: argparse.Namespace, *words: str) -> str:
    """A command of ours, ended at ``options.until``; what it prints."""
    left = options.until - time.monotonic()
    if left <= 0:
        raise OutOfTimeError
    say("ofa " + " ".join(words))
    process = subprocess.Popen([sys.executable, "-m", "ofa", *words], stdout=subprocess.PIPE, text=True)
    try:
        printed, _ = process.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise OutOfTimeError from None
    if process.returncode:
        raise SystemExit(f"ofa {' '.join(words)} ended with {process.returncode}")
    return printed


def trained(options: argparse.Namespace, name: str, recipe: str, words: Sequence[str]) -> Run:
    """A run in ``options.work``, trained on from where it was."""
    folder = options.work / name
    if not (folder / "supernet.json").exists():
        resume = ["--resume"] if (folder / "checkpoints").exists() else []
        ofa(options, "train", recipe, *words, "--out", str(folder), *resume)
    return Run.open(folder)


def seconds_of(run: Run) -> float:
    """Of its training."""
    return float(pd.read_csv(run.path / "metrics.csv")["seconds"].sum())


def unpacked(options: argparse.Namespace, archive: str, folder: str) -> Path:
    """A folder of ``options.work`` that an archive of ``options.data`` holds."""
    if not (options.work / folder).exists():
        with tarfile.open(options.data / archive) as tar:
            tar.extractall(options.work, filter="data")
    return options.work / folder


def photographs(options: argparse.Namespace) -> Path:
    return unpacked(options, "clothing-small-224.tar", "clothing-small-224")


def seconds(action: Callable[[], object], *, repeats: int = 5, percentile: float = 0) -> float:
    """A percentile of some runs, by default the least, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return float(np.percentile(times, percentile))


def median_and_range(values: Iterable[float]) -> str:
    found = np.array(list(values))
    return f"{np.median(found):.3f} ({found.min():.3f} to {found.max():.3f})"


def table_text(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (header, ["---"] * len(header), *rows))


def page(template: str, **values: Any) -> str:
    """A template with its values, running text in lines of equal width."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    known = {
        "date": datetime.date.today(),
        "cpu": cpu_model(),
        "machine": f"{cpu_model()}, {platform.machine()}",
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    blocks = environment.get_template(template).render(**known, **values).split("\n\n")
    return "\n\n".join(map(_block, filter(None, (block.strip("\n") for block in blocks)))) + "\n"


def _block(text: str) -> str:
    if text.startswith(AS_WRITTEN):
        return text
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
