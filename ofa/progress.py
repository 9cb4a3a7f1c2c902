"""How long work reports how far it is, and how that is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from ofa.errors import printable

EVERY_SECONDS = 15.0

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and what is being done; without steps (0 of 0) with a :func:`notice`."""


def notice(progress: Progress | None, text: str) -> None:
    """Say something, once, that whoever waits should know."""
    if progress is not None:
        progress(0, 0, text)


def only_notices(progress: Progress | None) -> Progress | None:
    """For work whose steps are not those that are counted: what is said once is heard, its steps are not."""
    if progress is None:
        return None
    return lambda done, total, what: None if total else progress(0, 0, what)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress callback that draws a bar where there is a terminal, and prints a line now and then where not."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        last = time.monotonic()

        def log(done: int, total: int, what: str) -> None:
            nonlocal last
            if not total:
                console.print(f"  {printable(what)}", markup=False)
            elif time.monotonic() - last >= EVERY_SECONDS:
                last = time.monotonic()
                console.print(f"  {printable(what)}: {done}/{total}", markup=False)

        yield log
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task("", total=None)

        def draw(done: int, total: int, what: str) -> None:
            if total:
                bars.update(task, completed=done, total=total, description=printable(what))
            else:
                bars.console.print(f"  {printable(what)}", markup=False)

        yield draw
