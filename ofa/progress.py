"""How long work reports how far it is, and how that is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

EVERY_SECONDS = 15.0

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and what is being done."""


@dataclass(frozen=True)
class Shown:
    """A progress callback that can show texts too."""

    report: Progress
    say: Callable[[str], None]

    def __call__(self, done: int, total: int, what: str) -> None:
        self.report(done, total, what)


def tell(progress: Progress | None, text: str) -> None:
    """Show a text for people, such as what data there is, where the callback can show one."""
    if isinstance(progress, Shown):
        progress.say(text)


@contextmanager
def progress_bar() -> Iterator[Shown]:
    """A progress callback that draws a bar where there is a terminal, and prints a line now and then where not."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    if not console.is_terminal:
        last = time.monotonic()

        def log(done: int, total: int, what: str) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY_SECONDS:
                last = time.monotonic()
                console.print(f"  {what}: {done}/{total}")

        yield Shown(log, say)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield Shown(lambda done, total, what: bars.update(task, completed=done, total=total, description=what), say)
