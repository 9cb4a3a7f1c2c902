"""What converters print, past Python too, kept off the screen."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

MAX_NOTE = 10_000  # characters: what is said last says why


@contextmanager
def without_log() -> Iterator[None]:
    """Without log records, but those of errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and log records, and with nothing written to the standard output or error.

    Libraries in C++ write to the file descriptors, whatever ``sys.stdout`` is, so these lead elsewhere meanwhile: for
    all threads. Where the block fails, what was written is a note of the exception, which a traceback shows.
    """
    with without_log(), tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        try:
            with warnings.catch_warnings(), redirect_stdout(file), redirect_stderr(file), _descriptors_to(file):
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            file.seek(0)
            if said := file.read().strip():
                error.add_note(f"The converter wrote:\n{said[-MAX_NOTE:]}")
            raise


@contextmanager
def _descriptors_to(file: TextIO) -> Iterator[None]:
    """What is written to the descriptors of the standard output and error goes to a file."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    try:
        for number in saved:
            os.dup2(file.fileno(), number)
        yield
    finally:
        file.flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)
