"""What happens when a step needs more memory than there is."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from ofa.errors import OfaError

T = TypeVar("T")


class NotEnoughMemoryError(OfaError, MemoryError):
    """A training step does not fit into the device's memory; the message says what does."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, numpy, a driver or its libraries say that no memory is left, for which few have a class."""
    texts = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)


@contextmanager
def memory_explained() -> Iterator[None]:
    """Inside the block a lack of memory is a :class:`NotEnoughMemoryError`, wherever it shows."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OfaError) or not is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0]
        raise NotEnoughMemoryError(
            f"training needs more memory than there is ({first_line or type(error).__name__}); lower train.batch_size, "
            "or take a smaller model or smaller images; checkpoints are as they were"
        ) from error


def attempt(work: Callable[[], T]) -> T | None:
    """What ``work`` gives, or ``None`` where memory does not suffice for it, and then all that it held is let go."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OfaError) or not is_out_of_memory(error):
            raise
    # Only here is the traceback gone, whose frames hold what was computed.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def parts_that_fit(work: Callable[[int], object], *, num_parts: int, num_rows: int) -> int | None:
    """The least number of parts that ``work`` can be done in, doubled from more than ``num_parts``; found by trying.

    Args:
        work: Does it in so many parts; gives something.
        num_rows: There cannot be more parts.
    """
    while num_parts < num_rows:
        num_parts = min(2 * num_parts, num_rows)
        if attempt(lambda num=num_parts: (work(num),)) is not None:  # type: ignore[misc]
            return num_parts
    return None


def too_large(
    device: torch.device, *, batch_size: int, before: int, fits: int | None, was_tried: bool
) -> NotEnoughMemoryError:
    """The error for a step of ``batch_size`` images in ``before`` parts, of which ``fits`` parts would do.

    Args:
        was_tried: Otherwise nobody knows what fits.
    """
    asked = f"a step of train.batch_size={batch_size}{f' in {before} parts' if before > 1 else ''} needs more than "
    asked += _memory_of(device)
    kept = "checkpoints are as they were, and --resume goes on with another train.accumulate"
    if not was_tried:
        remedy = f"try train.accumulate={2 * before} (the same step in parts), or a lower train.batch_size; {kept}"
    elif fits is None:
        remedy = "and so does one image at a time; take a smaller model or smaller images"
    else:
        remedy = (
            f"train.accumulate={fits} (the same step in {fits} parts) was tried and fits, and so does "
            f"train.batch_size={max(1, batch_size * before // fits)}; {kept}"
        )
    return NotEnoughMemoryError(f"{asked}; {remedy}")


def _memory_of(device: torch.device) -> str:
    if device.type == "cuda":
        return f"the {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB of {device}"
    return f"the {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of this machine"
