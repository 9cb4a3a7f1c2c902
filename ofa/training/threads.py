"""How many threads torch computes with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ofa.progress import Progress, notice

_BEGAN = time.monotonic()


def load_per_core() -> float:
    """How many threads of others wanted to run in the last minute, for each core; 0 where the system does not say."""
    if not hasattr(os, "getloadavg"):
        return 0.0
    own = time.process_time() / max(time.monotonic() - _BEGAN, 60.0)  # on average, for want of the last minute's
    return max(os.getloadavg()[0] - own, 0.0) / (os.cpu_count() or 1)


@contextmanager
def torch_threads(
    wanted: int | None = None, *, key: str | None = None, progress: Progress | None = None
) -> Iterator[None]:
    """Inside the block torch computes with so many threads.

    Threads wait for each other at the end of each operation, spinning: where others want the cores too, two
    processes of two threads each are a hundred times slower than of one.

    Args:
        wanted: Nothing or 0 is torch's default, or one on a machine that is busy.
        key: What sets it, for the message.
        progress: Is told, once, if the machine is busy.
    """
    before, load = torch.get_num_threads(), load_per_core()
    num = wanted or before
    if load > 1 and num > 1:
        busy = f"this machine is busy (load {load:.1f} a core)"
        if wanted:
            notice(progress, f"{busy}: {num} threads will wait for each other; one is faster then")
        else:
            notice(
                progress,
                f"{busy}: torch takes one thread instead of {num}" + (f"; {key}={num} keeps them" if key else ""),
            )
            num = 1
    if num != before:
        torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
